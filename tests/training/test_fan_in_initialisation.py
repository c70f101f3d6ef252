"""Fresh weights scaled to the width of their layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hmhi_jax.errors import InputError
from hmhi_jax.models import build_model
from hmhi_jax.training.initial_weights import fan_in_scaled, init_variables
from hmhi_jax.training.optimiser import parameter_paths


def test_layers_keep_the_size_of_what_they_get():
    """By name: what is drawn anew, with which deviation, and what is left as it is."""
    model = build_model("mit_tiny", feedforward=16)
    shapes = jax.eval_shape(lambda: init_variables(model, 0))["params"]
    ones = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), shapes)
    drawn = jax.device_get(jax.jit(fan_in_scaled)(ones, jax.random.key(0, impl="rbg")))
    kernels = dict(zip(jax.tree.leaves(parameter_paths(drawn)), jax.tree.leaves(drawn), strict=True))

    def times_fan_in(name):
        kernel = kernels[f"{name}/kernel"]
        return kernel.std() * np.prod(kernel.shape[:-1]) ** 0.5

    cut = 0.88  # deviation of a normal cut at two deviations
    assert times_fan_in("encoder/stage4_block0/attn/q") == pytest.approx(cut, rel=0.05)
    assert times_fan_in("encoder/stage4_block0/mlp/project") == pytest.approx(cut / 2, rel=0.05)
    assert times_fan_in("encoder/stage4_block0/adapter/up") == pytest.approx(cut / 10, rel=0.05)
    assert times_fan_in("decoder/blend2") == pytest.approx(2**0.5, rel=0.05)
    assert set(np.unique(kernels["decoder/predictor/bias"])) == {-2.0}
    kept = [name for name, leaf in kernels.items() if np.array_equal(leaf, np.ones_like(leaf))]
    assert {"decoder/predictor/kernel", "encoder/stage1_block0/mlp/dwconv/kernel"} <= set(kept)
    assert all("cbam" not in name or name in kept for name in kernels)
    assert all(name in kept for name in kernels if not name.startswith(("encoder/", "decoder/")))


def test_another_name_is_refused():
    with pytest.raises(InputError, match=r"config\.initialisation is 'he', expected one of published, fan_in"):
        init_variables(build_model("mit_tiny"), 0, "he")
