"""One step: recomputation and accumulation change nothing but memory."""

import dataclasses
from unittest import mock

import jax
import numpy as np
import pytest
import tiny_run_config
from small_network import random_variables

from hmhi_jax.data.device_batches import batch_shardings, network_inputs
from hmhi_jax.data.preprocessing import normalise
from hmhi_jax.errors import InputError
from hmhi_jax.models import build_model, segment_clip
from hmhi_jax.training import assemble
from hmhi_jax.training import step as step_module
from hmhi_jax.training.losses import segmentation_loss
from hmhi_jax.training.mesh import FEWEST_ROWS, check_rows, make_mesh, replicated
from hmhi_jax.training.step import batch_loss, make_state, make_train_step


def batch(clips=4, frames=3, size=64):
    generator = np.random.default_rng(0)
    shape = (clips, frames, size, size)
    valid = np.ones(shape[:2], bool)
    valid[0, 1] = False
    return {
        "frames": generator.integers(0, 256, (*shape, 3), np.uint8),
        "flows": generator.integers(0, 256, (*shape, 3), np.uint8),
        "masks": (generator.random((*shape, 1)) < 0.3).astype(np.uint8),
        "valid": valid,
    }


SMALL = {"backbone": tiny_run_config.BACKBONE, "memory_frames": 2, "feedforward": 16, "top_k": 8}


@pytest.fixture(scope="module")
def plain():
    """Variables, clips, and the loss and gradients of the clip's plain definition."""
    model = build_model(**SMALL)
    variables = random_variables(model)
    clips = batch(2)

    def loss(params, clips):
        logits = segment_clip(model, {"params": params}, normalise(clips["frames"]), normalise(clips["flows"]))
        return segmentation_loss(logits, clips["masks"].astype(np.float32), clips["valid"])

    return variables, clips, *jax.jit(jax.value_and_grad(loss))(variables["params"], clips)


@pytest.mark.slow
def test_half_precision_gives_nearly_the_same_loss_and_gradient(plain):
    variables, clips, expected_loss, expected = plain
    model = build_model(**SMALL, dtype="bfloat16")

    def loss(params, clips):
        return batch_loss(model, params, {}, clips, None, checkpoint="read_outs", unroll=False)[0]

    value, gradients = jax.jit(jax.value_and_grad(loss))(variables["params"], clips)
    assert value.dtype == np.float32
    assert {x.dtype.name for x in jax.tree.leaves(gradients)} == {"float32"}
    np.testing.assert_allclose(value, expected_loss, rtol=0.01)
    one, other = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)]) for tree in (gradients, expected))
    assert one @ other > 0.98 * np.linalg.norm(one) * np.linalg.norm(other)


@pytest.mark.slow
def test_the_maps_weight_is_what_it_says(plain):
    """Without the map terms the loss is dice alone."""
    variables, clips, *_ = plain
    model = build_model(**SMALL)

    @jax.jit
    def losses(params):
        # The forward pass, which takes long to compile, is the same for both weights: it is written down once.
        forward = step_module.clip_logits(model, {"params": params}, *network_inputs(clips)[:2])
        with mock.patch.object(step_module, "clip_logits", return_value=forward):
            return [batch_loss(model, params, {}, clips, None, map_weight=weight)[:2] for weight in (0, 20)]

    (dice_alone, _), (whole, (_, means, _)) = losses(variables["params"])
    annotated = clips["valid"].sum() / len(clips["valid"])
    np.testing.assert_allclose(dice_alone, means["dice"] * annotated, rtol=1e-5)
    np.testing.assert_allclose(whole - dice_alone, 20 * (means["focal"] + means["bce"] / 2) * annotated, rtol=1e-5)


@pytest.mark.slow
def test_recomputing_gives_the_gradients_of_the_plain_clip(plain):
    model = build_model(**SMALL)
    variables, clips, expected_loss, expected = plain
    for policy, unroll in (("read_outs", True), ("step", False), ("cheap", True)):

        def loss(params, clips, policy=policy, unroll=unroll):
            return batch_loss(model, params, {}, clips, None, checkpoint=policy, unroll=unroll)[0]

        value, gradients = jax.jit(jax.value_and_grad(loss))(variables["params"], clips)
        np.testing.assert_allclose(value, expected_loss, rtol=1e-6)
        largest = max(float(np.abs(x).max()) for x in jax.tree.leaves(expected))
        for one, other in zip(jax.tree.leaves(gradients), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5 * largest)


@pytest.mark.slow
def test_a_step_that_was_kept_trains_to_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setenv("HMHI_CACHE", str(tmp_path))
    mesh = make_mesh(1, 1, jax.devices()[:1])
    parts = dataclasses.replace(assemble.assemble(tiny_run_config.get_config(), steps=12), what="the step of this test")
    state = jax.device_get(make_state(random_variables(parts.model), parts.optimiser, 0))

    def trained():
        given = jax.device_put((state, batch(2, size=32)), (replicated(mesh), batch_shardings(mesh)))
        return jax.device_get(parts.step_compiler(mesh)(*given)(*given))

    made = trained()
    monkeypatch.setattr(assemble, "make_train_step", None)  # not needed any more
    jax.tree.map(np.testing.assert_array_equal, made, trained())


def test_what_a_step_and_first_weights_are_kept_under():
    config = tiny_run_config.get_config()
    short, long = (assemble.assemble(config, steps=steps) for steps in (6, 12))
    assert short.what != long.what  # a cosine's length is that of the run
    config.optimiser.schedule = "constant"
    constant, as_constant = (assemble.assemble(config, steps=steps) for steps in (6, 12))
    assert short.what != constant.what == as_constant.what
    assert short.network == long.network == constant.network
    config.model.decoder_width = 16
    assert assemble.assemble(config, steps=6).network != short.network


@pytest.mark.slow
def test_accumulated_parts_give_the_step_of_the_whole_batch():
    config = tiny_run_config.get_config()
    model = assemble.model_of(config)
    optimiser, schedule = assemble.optimiser_of(config, 10)
    mesh = make_mesh(2, 1, jax.devices()[:2])
    results = []
    for parts in (1, 2):
        step = make_train_step(model, optimiser, schedule, mesh, accumulate=parts, dropout=False, ema_decay=0.5)
        state = make_state(random_variables(model), optimiser, 0, ema=True)
        results.append(step(state, batch(4)))
    (first, one), (second, other) = results
    np.testing.assert_allclose(one.clip_losses, other.clip_losses, rtol=1e-6)
    for name in one.scalars:
        np.testing.assert_allclose(one.scalars[name], other.scalars[name], rtol=1e-5)
    for a, b in zip(jax.tree.leaves(first.ema), jax.tree.leaves(second.ema), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)


@pytest.mark.slow
def test_clips_and_rows_split_over_a_mesh_give_the_losses_of_one_device():
    """At the fewest rows that are allowed; below, XLA's partitioner is wrong."""
    model = build_model(**SMALL)
    params, clips = random_variables(model)["params"], batch(2, 2, FEWEST_ROWS)
    by_clip = []
    for data, space in ((1, 1), (2, 2)):
        mesh = make_mesh(data, space, jax.devices()[: data * space])
        check_rows(FEWEST_ROWS, mesh)
        losses = jax.jit(
            lambda params, clips: batch_loss(model, params, {}, clips, None)[1][0],
            in_shardings=(replicated(mesh), batch_shardings(mesh)),
        )
        by_clip.append(losses(params, clips))
    np.testing.assert_allclose(*by_clip, rtol=1e-6)
    with pytest.raises(InputError, match="224 rows on a mesh of 2 x 2"):
        check_rows(224, mesh)
