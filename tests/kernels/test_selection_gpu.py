"""The selection on NVIDIA GPUs, interpreted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hmhi_jax.kernels.selection import CHUNK, top_k_by_bisection

DRAWS = {
    "spread": lambda rng, shape: rng.normal(0, 5, shape),
    "ties": lambda rng, shape: np.round(rng.normal(0, 5, shape)),
    "constant": lambda rng, shape: np.full(shape, 1.5),
    "negative": lambda rng, shape: -np.abs(rng.normal(0, 5, shape)) - 1,
    "zeros of both signs": lambda rng, shape: rng.choice([-0.0, 0.0, -1.0], shape),
}


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize(
    ("count", "k", "limit"),
    [(300, 50, 300), (64, 50, 40), (60, 60, 60), (CHUNK + 904, 7, CHUNK + 903), (2 * CHUNK, 50, CHUNK)],
)
def test_chooses_what_top_k_chooses(draw, count, k, limit):
    scores = DRAWS[draw](np.random.default_rng(0), (3, count)).astype(np.float32)
    best, index = top_k_by_bisection(jnp.asarray(scores), k, jnp.int32(limit), interpret=True)
    below = jnp.where(jnp.arange(count)[None] < limit, scores, -jnp.inf)
    expected = np.sort(np.asarray(jax.lax.top_k(below, k)[1]), -1)
    np.testing.assert_array_equal(index, expected)
    np.testing.assert_array_equal(best, np.take_along_axis(np.asarray(below), expected, 1))
