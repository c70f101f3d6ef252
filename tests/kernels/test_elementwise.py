"""Dropout's random places: their share, their independence, and that the number of devices does not matter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from hmhi_jax.kernels.elementwise import dropout


@pytest.mark.parametrize("key", [jax.random.key(1), jax.random.PRNGKey(2)], ids=["typed", "raw"])
@pytest.mark.parametrize("rate", [0.1, 0.5])
@pytest.mark.parametrize("last", [50, 256])
def test_share_and_scale(key, rate, last):
    out = np.asarray(dropout(jnp.full((400, last), 3.0), rate, key))
    np.testing.assert_allclose(out[out != 0], 3.0 / (1 - rate), rtol=1e-6)
    five_deviations = 5 * (rate * (1 - rate) / out.size) ** 0.5
    assert abs((out == 0).mean() - rate) < five_deviations


def test_without_key_or_rate_nothing_changes():
    x = jnp.arange(6.0)
    assert dropout(x, 0.1, None) is x
    assert dropout(x, 0.0, jax.random.key(0)) is x


def test_places_are_independent():
    """Four places share a hash: correlations between any two columns stay within what chance gives."""
    rows, columns = 4000, 64
    kept = np.asarray(dropout(jnp.ones((rows, columns)), 0.3, jax.random.key(4)) != 0).astype(float)
    correlation = np.corrcoef(kept.T) - np.eye(columns)
    assert np.abs(correlation).max() < 5.5 / rows**0.5


def test_every_part_of_a_shape_draws_its_own():
    kept = np.asarray(dropout(jnp.ones((3, 2, 5, 128)), 0.3, jax.random.key(4)) != 0).reshape(30, 128)
    assert len(np.unique(kept, axis=0)) == 30
    assert (np.asarray(dropout(jnp.ones((30, 128)), 0.3, jax.random.key(5)) != 0) != kept).any(1).all()


def test_the_same_on_eight_devices():
    x, key = jnp.ones((8, 6, 40)), jax.random.key(7)
    split = NamedSharding(Mesh(np.asarray(jax.devices()), ("data",)), PartitionSpec("data"))
    dropped = jax.jit(lambda x: dropout(x, 0.1, key), out_shardings=split)
    np.testing.assert_array_equal(dropped(jax.device_put(x, split)), dropout(x, 0.1, key))
    assert "all-gather" not in dropped.lower(jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=split)).compile().as_text()
