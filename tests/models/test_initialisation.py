"""Fresh weights have the release's distributions (docs/model.md 2.1, 3.1, 7) and its number of parameters."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from hmhi_jax.interop.shapes import variable_shapes
from hmhi_jax.models import build_model


@pytest.fixture(scope="module")
def fresh():
    """The smallest MiT: its arrays are large enough for their statistics and quick to draw."""
    model = build_model("mit_b0")
    clip = jnp.zeros((1, 2, 32, 32, 3))
    # The hardware-style generator compiles in a fraction of the default's time and draws the same distributions.
    key = jax.random.key(0, impl="rbg")
    params = jax.device_get(jax.jit(model.init)(key, clip, clip)["params"])
    return flatten_dict(params, sep="/")


def test_number_of_parameters_by_module():
    counts: dict[str, int] = {}
    for path, x in variable_shapes(build_model("mit_b1")).items():
        module = path.split("/")[1]
        counts[module] = counts.get(module, 0) + math.prod(x.shape)
    assert counts == {
        "encoder": 15_870_144,
        "shallow_bank": 957_252,
        "deep_bank": 8_912_384,
        "sgim_module": 725_248,
        "plam_module": 12_350_913,
        "decoder": 7_283_717,
    }
    # The release's count less the sixteen entries that it never reads.
    assert sum(counts.values()) == 47_216_330 - 4 * (128**2 + 128) - 4 * (512**2 + 512)


@pytest.mark.parametrize(
    ("path", "deviation"),
    [
        ("encoder/stage3_block0/attn/q/kernel", 0.02),
        ("encoder/stage3_block0/adapter/up/kernel", 0.02),
        ("decoder/blend2/kernel", 0.01),
        ("plam_module/mix/kernel", np.sqrt(2 / 256)),
        ("plam_module/cbam/conv/kernel", np.sqrt(2 / (512 * 9))),
        ("decoder/cbam3/conv/kernel", np.sqrt(2 / (128 * 9))),
        ("plam_module/downsample/kernel", np.sqrt(2 / 49)),
        ("deep_bank/read_out/self_attn/q/kernel", np.sqrt(1 / 3 / 256)),
        ("deep_bank/reference_encoder/feature_proj/kernel", np.sqrt(1 / 3 / 256)),
        ("shallow_bank/read_out/project/kernel", np.sqrt(1 / 3 / 2048)),
    ],
)
def test_deviation(fresh, path, deviation):
    assert fresh[path].std() == pytest.approx(deviation, rel=0.03)


def test_uniform_where_the_release_draws_uniformly(fresh):
    for path in ("plam_module/mix/kernel", "deep_bank/read_out/self_attn/q/kernel", "deep_bank/read_out/expand/bias"):
        x = fresh[path]
        assert np.abs(x).max() == pytest.approx(np.sqrt(3) * x.std(), rel=0.06)


def test_biases_and_scales(fresh):
    zero_biases = ("encoder/", "decoder/", "plam_module/")
    for path, x in fresh.items():
        if path.endswith("bias") and path.startswith(zero_biases):
            assert (x == 0).all(), path
        if path.endswith("scale"):
            assert (x == 1).all(), path
        if path.endswith("gamma"):
            assert (x == jnp.float32(1e-6)).all(), path
    bias = fresh["shallow_bank/read_out/expand/bias"]
    assert np.abs(bias).max() <= 1 / np.sqrt(64)
    assert bias.std() > 0
