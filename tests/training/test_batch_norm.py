"""Batch norm in training: frozen, or updated from all rows of a batch wherever they lie."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from hmhi_jax.models import build_model
from hmhi_jax.models.backbones import BackboneSpec, register
from hmhi_jax.models.layers import BatchNorm, PatchConv
from hmhi_jax.training.initial_weights import init_variables
from hmhi_jax.training.mesh import make_mesh
from hmhi_jax.training.step import make_state, make_train_step

BACKBONE = "normed_test"
FLOAT32 = jnp.dtype("float32")
CLIPS, FRAMES, SIZE = 8, 2, 32


class NormedLayers(nn.Module):
    """Four convolutions of patches, each with the batch norm of the ResNets."""

    flow_adapters: bool = False
    drop_path: float = 0.0
    batch_norm: str = "frozen"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, pictures: jax.Array, *, flow_rows: int, train: bool = False):
        x, maps = pictures, []
        for stage, patch in enumerate((4, 2, 2, 2)):
            x = PatchConv(8, patch, self.dtype, name=f"conv{stage}")(x)
            x = jax.nn.relu(BatchNorm(self.batch_norm == "updated", self.dtype, name=f"norm{stage}")(x, train))
            maps.append(x)
        return tuple(maps)


with contextlib.suppress(ValueError):  # this file may be imported twice
    register(BACKBONE, BackboneSpec((8, 8, 8, 8), 8, NormedLayers, batch_norm=True))


def applied(layer: BatchNorm, x: np.ndarray, train: bool, mesh=None) -> tuple[np.ndarray, dict]:
    """Output and statistics afterwards; with a mesh the rows of `x` are spread over its devices."""
    channels = x.shape[-1]
    variables = {
        "params": {"scale": jnp.linspace(0.5, 1.5, channels), "bias": jnp.linspace(-1, 1, channels)},
        "batch_stats": {"mean": jnp.full(channels, 0.25), "var": jnp.full(channels, 4.0)},
    }
    if mesh is not None:
        rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
        x = jax.device_put(x, rows)
    run = jax.jit(lambda v, x: layer.apply(v, x, train, mutable=["batch_stats"]))
    y, moved = run(variables, x)
    return np.asarray(y), jax.tree.map(np.asarray, moved["batch_stats"])


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    """Eight rows that differ a lot, so that statistics of one device's rows are not those of all."""
    x = np.random.default_rng(0).standard_normal((8, 4, 4, 6)).astype(np.float32)
    return (
        x * np.arange(1, 9, dtype=np.float32)[:, None, None, None] + np.arange(8, dtype=np.float32)[:, None, None, None]
    )


@pytest.mark.parametrize(("updated", "train"), [(False, False), (False, True), (True, False)])
def test_running_statistics_normalise_and_stay(rows, updated, train):
    y, after = applied(BatchNorm(updated, FLOAT32), rows, train)
    expected = (rows - 0.25) / np.sqrt(4 + 1e-5) * np.linspace(0.5, 1.5, 6) + np.linspace(-1, 1, 6)
    np.testing.assert_allclose(y, expected, atol=1e-5)
    np.testing.assert_array_equal(after["mean"], np.full(6, 0.25, np.float32))
    np.testing.assert_array_equal(after["var"], np.full(6, 4, np.float32))


@pytest.mark.parametrize("devices", [1, 8])
def test_statistics_of_the_whole_batch(rows, devices):
    y, after = applied(BatchNorm(True, FLOAT32), rows, True, make_mesh(devices, 1, jax.devices()[:devices]))
    mean, var = rows.mean((0, 1, 2)), rows.var((0, 1, 2))
    expected = (rows - mean) / np.sqrt(var + 1e-5) * np.linspace(0.5, 1.5, 6) + np.linspace(-1, 1, 6)
    np.testing.assert_allclose(y, expected, atol=2e-5)
    # PyTorch's convention: a tenth of the batch's, whose variance is the unbiased one.
    np.testing.assert_allclose(after["mean"], 0.9 * 0.25 + 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(after["var"], 0.9 * 4 + 0.1 * rows.var((0, 1, 2), ddof=1), rtol=1e-5)


def batch() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    shape = (CLIPS, FRAMES, SIZE, SIZE)
    brightness = np.linspace(40, 255, CLIPS)[:, None, None, None, None]  # clips differ, and so would devices
    return {
        "frames": (generator.random((*shape, 3)) * brightness).astype(np.uint8),
        "flows": (generator.random((*shape, 3)) * brightness).astype(np.uint8),
        "masks": (generator.random((*shape, 1)) < 0.3).astype(np.uint8),
        "valid": np.ones(shape[:2], bool),
    }


def stepped(mode: str, devices: int, checkpoint: str = "none"):
    """State before and after a step."""
    model = build_model(BACKBONE, shallow_memory=False, deep_memory=False, batch_norm=mode)
    variables = init_variables(model, 0)
    optimiser = optax.sgd(0.1)
    mesh = make_mesh(devices, 1, jax.devices()[:devices])
    step = make_train_step(model, optimiser, lambda step: 0.1, mesh, checkpoint=checkpoint)
    after, metrics = step(make_state(jax.tree.map(jnp.copy, variables), optimiser, 0), batch())
    return variables, after, metrics


def test_a_step_moves_the_statistics_by_all_clips_on_any_mesh():
    before, one, metrics_one = stepped("updated", 1)
    _, many, metrics_many = stepped("updated", 4)
    np.testing.assert_allclose(metrics_one.clip_losses, metrics_many.clip_losses, rtol=2e-5)
    assert jax.tree.structure(one.batch_stats) == jax.tree.structure(before["batch_stats"])
    for a, b, old in zip(
        *(jax.tree.leaves(x) for x in (one.batch_stats, many.batch_stats, before["batch_stats"])), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
        assert np.abs(np.asarray(a) - np.asarray(old)).max() > 1e-3


def test_frozen_statistics_survive_a_step():
    before, after, _ = stepped("frozen", 1, "step")  # recomputed frame by frame, which must not lose them
    assert jax.tree.structure(after.batch_stats) == jax.tree.structure(before["batch_stats"])
    for a, b in zip(jax.tree.leaves(after.batch_stats), jax.tree.leaves(before["batch_stats"]), strict=True):
        np.testing.assert_array_equal(a, b)
    scale, trained = (x["params"]["encoder"]["norm0"]["scale"] for x in (before, {"params": after.params}))
    assert np.abs(np.asarray(scale) - np.asarray(trained)).max() > 0  # the affine part learns all the same
