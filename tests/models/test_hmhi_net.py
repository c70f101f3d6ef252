"""Properties of the network that hold for any weights."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from block_programs import block_programs, forget_programs
from flax import serialization
from small_network import random_variables, small_model

import hmhi_jax as hmhi
from hmhi_jax.models import Bank, frame, segment_features


@pytest.fixture(scope="module", autouse=True)
def _compiled_programs():
    yield
    forget_programs()


@cache
def tiny(**arguments):
    model = small_model(**arguments)
    return model, random_variables(model)


def applied(variables, *inputs, method="__call__", **arguments):
    """The unrolled network or a part of it, in programs that these tests share."""
    with block_programs():
        return small_model(**arguments).apply(variables, *inputs, method=method)


def parts(**arguments):
    """`encode`, `start` and `step`."""
    return tuple(partial(applied, method=name, **arguments) for name in ("encode", "start", "step"))


def clip(batch=1, time=5, height=64, width=64, seed=0):
    keys = jax.random.split(jax.random.key(seed))
    return tuple(jax.random.normal(key, (batch, time, height, width, 3)) for key in keys)


@cache
def jitted(**arguments):
    model, variables = tiny(**arguments)
    return jax.jit(partial(hmhi.segment_clip, model)), variables


def close(a, b, tolerance=2e-4):
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=tolerance, rtol=tolerance)


def test_later_frames_change_nothing_earlier():
    segment, variables = jitted()
    frames, flows = clip()
    changed = frames.at[:, 3:].add(1.0)
    before, after = segment(variables, frames, flows), segment(variables, changed, flows)
    close(before[:, :3], after[:, :3], 1e-5)
    assert np.abs(before[:, 3:] - after[:, 3:]).max() > 1e-2


def test_no_gradient_flows_back_in_time_and_the_memory_carries_it_forward():
    _, variables = tiny()
    frames, flows = clip()
    gradient = jax.grad(lambda x: applied(variables, x, flows)[:, 2].sum())(frames)
    per_frame = np.abs(np.asarray(gradient)).max((0, 2, 3, 4))
    assert per_frame[3] == 0
    assert (per_frame[:3] > 0).all()


def test_scan_equals_the_unrolled_loop():
    segment, variables = jitted()
    inputs = clip()
    close(segment(variables, *inputs), applied(variables, *inputs))


def test_batch_of_two_equals_two_batches_of_one_and_vmap():
    segment, variables = jitted()
    model, _ = tiny()
    frames, flows = clip(batch=2)
    together = applied(variables, frames, flows)
    alone = [segment(variables, frames[i : i + 1], flows[i : i + 1]) for i in range(2)]
    close(together, jnp.concatenate(alone))
    mapped = jax.jit(jax.vmap(lambda x, y: hmhi.segment_clip(model, variables, x[None], y[None])[0]))
    close(mapped(frames, flows), together)


@pytest.mark.parametrize("splits", [(1, 4), (2, 3), (1, 1, 1, 2)])
def test_chunks_with_the_memory_handed_on_equal_one_scan(splits):
    segment, variables = jitted()
    encode, start, step = parts()
    frames, flows = clip()
    memory, outputs, at = None, [], 0
    for length in splits:
        part = slice(at, at + length)
        features = encode(variables, frames[:, part], flows[:, part])
        for t in range(length):
            if memory is None:
                memory, logits = start(variables, frame(features, t))
            else:
                memory, logits = step(variables, memory, frame(features, t))
            outputs.append(logits)
        at += length
    close(jnp.stack(outputs, 1), segment(variables, frames, flows))


def test_a_memory_saved_mid_video_goes_on_elsewhere(tmp_path):
    _, variables = tiny()
    encode, start, step = parts()
    frames, flows = clip()
    features = encode(variables, frames, flows)
    memory, _ = start(variables, frame(features, 0))
    memory, _ = step(variables, memory, frame(features, 1))
    (tmp_path / "memory.msgpack").write_bytes(serialization.to_bytes(memory))

    blank = jax.tree.map(jnp.zeros_like, memory)
    loaded = serialization.from_bytes(blank, (tmp_path / "memory.msgpack").read_bytes())
    for t in (2, 3, 4):
        memory, expected = step(variables, memory, frame(features, t))
        loaded, logits = step(variables, jax.tree.map(jnp.asarray, loaded), frame(features, t))
        np.testing.assert_array_equal(logits, expected)


@pytest.mark.parametrize("capacity", [1, 2, 3])
def test_the_bank_holds_exactly_the_last_entries(capacity):
    entries = jax.random.normal(jax.random.key(0), (7, 2, 4, 8))
    bank = Bank.empty(2, capacity, 4, 8, jnp.dtype(jnp.float32))
    for written, entry in enumerate(entries):
        bank = bank.write(entry, -entry, jnp.asarray(written))
        slots, rest = divmod(int(bank.filled(jnp.asarray(written + 1))), 4)
        assert not rest
        held = {np.asarray(k).tobytes() for k in bank.keys[0, :slots]}
        expected = entries[max(0, written + 1 - capacity) : written + 1, 0]
        assert held == {np.asarray(e).tobytes() for e in expected}
        np.testing.assert_array_equal(bank.values, -bank.keys)


def test_a_wrapped_ring_reads_like_one_that_did_not():
    """Frames 3.. of a video see the last M frames; a fresh memory filled with just those must give the same."""
    _, variables = tiny()
    encode, start, step = parts(memory_frames=2)
    frames, flows = clip(time=6)
    features = encode(variables, frames, flows)
    memory, _ = start(variables, frame(features, 0))
    for t in range(1, 5):
        memory, _ = step(variables, memory, frame(features, t))
    assert int(memory.written) == 5

    # The same two entries in the other order of slots, as an unwrapped ring would hold them.
    unwrapped = jax.tree.map(lambda x: x[:, ::-1] if x.ndim else jnp.asarray(2), memory)
    _, wrapped_logits = step(variables, memory, frame(features, 5))
    _, unwrapped_logits = step(variables, unwrapped, frame(features, 5))
    close(wrapped_logits, unwrapped_logits, 1e-5)


def test_slots_never_written_do_not_matter():
    """With more capacity than frames, only the order of summation may differ."""
    _, variables = tiny()
    inputs = clip()
    close(applied(variables, *inputs, memory_frames=7), applied(variables, *inputs, memory_frames=4))


@pytest.mark.parametrize("size", [(64, 96), (96, 32)])
def test_sizes_that_are_not_square(size):
    _, variables = tiny()
    logits = applied(variables, *clip(time=3, height=size[0], width=size[1]))
    assert logits.shape == (1, 3, *size, 1)
    assert np.isfinite(logits).all()


def test_square_and_non_square_code_agree_on_the_shared_part():
    """The encoder and decoder see through bounded windows only in part, so exact agreement is checked where it must
    hold: turning a non-square input by transposing both it and every kernel is the network's own symmetry."""
    from hmhi_jax.models.positions import _rotary_table, sine_table

    tall, wide = sine_table(3, 5, 8).reshape(3, 5, 8), sine_table(5, 3, 8).reshape(5, 3, 8)
    half = np.concatenate([wide[..., 4:], wide[..., :4]], -1)
    np.testing.assert_allclose(tall, half.transpose(1, 0, 2), rtol=1e-6)
    for tall, wide in zip(_rotary_table(3, 5, 8), _rotary_table(5, 3, 8), strict=True):
        tall, wide = tall.reshape(3, 5, 8), wide.reshape(5, 3, 8)
        swapped = np.concatenate([wide[..., 4:], wide[..., :4]], -1)
        np.testing.assert_allclose(tall, swapped.transpose(1, 0, 2), rtol=1e-6)


@pytest.mark.parametrize(
    "switches",
    [
        {"shallow_memory": False},
        {"deep_memory": False},
        {"shallow_memory": False, "deep_memory": False},
        {"sgim": False},
        {"plam": False},
        {"top_k": 3},
        {"memory_frames": 1},
    ],
)
def test_every_switch_runs_and_matters(switches):
    _, variables = tiny(**switches)
    inputs = clip()
    logits = applied(variables, *inputs, **switches)
    assert np.isfinite(logits).all()
    # Weights are drawn by name, so what both networks have is the same; a switched-off module has none.
    _, full_variables = tiny()
    assert set(variables["params"]) <= set(full_variables["params"])
    assert np.abs(logits - applied(full_variables, *inputs)).max() > 1e-4


def test_dropout_follows_its_key():
    model, variables = tiny()
    frames, flows = clip()
    run = jax.jit(lambda key: hmhi.segment_clip(model, variables, frames, flows, key))
    first, again, other = run(jax.random.key(1)), run(jax.random.key(1)), run(jax.random.key(2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3
    segment, _ = jitted()
    evaluated = segment(variables, frames, flows)
    assert np.abs(first - evaluated).max() > 1e-3


def test_one_frame_is_a_clip():
    segment, variables = jitted()
    frames, flows = clip()
    close(applied(variables, frames[:, :1], flows[:, :1]), segment(variables, frames, flows)[:, :1], 1e-5)


def test_segment_features_is_the_second_half_of_segment_clip():
    model, variables = tiny()
    segment, _ = jitted()
    encode, _, _ = parts()
    inputs = clip()
    features = encode(variables, *inputs)
    close(jax.jit(partial(segment_features, model))(variables, features), segment(variables, *inputs))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"backbone": "mit_b9"}, "mit_b1"),
        ({"memory_frames": 0}, "memory_frames"),
        ({"top_k": 0}, "top_k"),
        ({"decoder_width": 0}, "decoder_width is 0; it must be at least 1"),
        ({"backbone": "conv_joint", "decoder_width": 20}, "decoder_width is 20; .* must be a multiple of 8"),
    ],
)
def test_arguments_that_make_no_network(arguments, words):
    with pytest.raises(ValueError, match=words):
        hmhi.build_model(**arguments)


@pytest.mark.parametrize("bank", ["shallow_memory", "deep_memory"])
def test_interaction_needs_both_banks(bank):
    model = hmhi.build_model(sgim=True, plam=True, **{bank: False})
    assert (model.sgim, model.plam) == (False, False)
    direct = hmhi.models.HMHINet(**{bank: False}, dtype=jnp.dtype("float32"))
    pictures = jax.ShapeDtypeStruct((1, 2, 32, 32, 3), jnp.float32)
    with pytest.raises(ValueError, match="connect the two banks, and one is off"):
        jax.eval_shape(direct.init, jax.random.key(0), pictures, pictures)


def test_sizes_the_strides_do_not_divide_are_refused():
    model, variables = tiny()
    with pytest.raises(ValueError, match="multiples of 32"):
        hmhi.segment_clip(model, variables, *clip(height=60))
