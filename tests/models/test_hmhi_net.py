"""Properties of the network that hold for any weights."""

import re
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from block_programs import block_programs, forget_programs
from flax import serialization
from flax.traverse_util import flatten_dict, unflatten_dict
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
    mapped = jax.vmap(lambda v, x, y: hmhi.segment_clip(model, v, x[None], y[None])[0], (None, 0, 0))
    close(jax.jit(mapped)(variables, frames, flows), together)


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
        loaded, logits = step(variables, jax.device_put(loaded), frame(features, t))
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


# Where a variable's channels are those of F2 or F4, whose position codes hold rows in one half of the channels and
# columns in the other: (pattern of its path, whether its input channels are, whether its output channels are).
_CODED = [
    (r"encoder/stage2_block0/attn/(kv|kv_adapter/\w+|reduce_norm)/.*", False, False),
    (r"encoder/stage[24]_block0/(attn/(q|kv|reduce|.*_adapter/down)|mlp/expand|adapter/down)/kernel", True, False),
    (
        r"encoder/stage[24]_block0/(attn/(q|kv|reduce|.*_adapter/(down|up))|mlp/(expand|dwconv)|adapter/down)/.*",
        False,
        False,
    ),
    (r"encoder/stage[24]_.*", False, True),
    (r"encoder/stage3_embed/kernel", True, False),
    (r"decoder/lateral[24]/kernel", True, False),
    (r".*_bank/reference_encoder/(block\d/expand/kernel)", True, False),
    (r".*_bank/reference_encoder/(mask_(conv|norm)|block\d/expand)/.*", False, False),
    (r".*_bank/reference_encoder/feature_proj/kernel|sgim_module/reduce/kernel|plam_module/mix/kernel", True, True),
    (r".*_bank/reference_encoder/.*|sgim_module/reduce/bias|plam_module/(downsample|mix|fuse)/.*", False, True),
    (r".*/(read_out|layer)/expand/kernel", True, False),
    (r".*/(read_out|layer)/expand/bias", False, False),
    (r".*/(read_out|layer)/(self|cross)_attn/\w+/kernel", True, True),
    (r".*/(read_out|layer)/.*", False, True),
]


def transposed(variables):
    """Weights under which rows and columns have changed places: every kernel turned over, and the two halves of the
    channels exchanged wherever position codes are added to them or turn them."""

    def exchanged(x, axis, parts=2):
        """The first and the second half of the channels changed over, in each of `parts` // 2 maps side by side."""
        pieces = np.split(np.asarray(x), parts, axis)
        return np.concatenate([pieces[i ^ 1] for i in range(parts)], axis)

    changed = {}
    for path, x in flatten_dict(variables["params"], sep="/").items():
        if x.ndim == 4:
            x = np.swapaxes(x, 0, 1)
        if path == "plam_module/cbam/conv/kernel":  # over both read-outs, one behind the other
            x = exchanged(x, 2, 4)
        _, inputs, outputs = next((row for row in _CODED if re.fullmatch(row[0], path)), ("", False, False))
        x = exchanged(x, -2) if inputs else x
        changed[path] = jax.device_put(exchanged(x, -1) if outputs else x)
    return {"params": unflatten_dict(changed, sep="/")}


def test_rows_and_columns_change_places():
    """The network has no preferred direction, whatever the shape: a clip turned over along its diagonal gives its
    logits turned over, if the weights are turned over too. (Encoder, both banks, their codes, SGIM, PLAM, decoder.)"""
    _, variables = tiny()
    frames, flows = clip(time=3, width=96)
    logits = applied(variables, frames, flows)
    turned = applied(transposed(variables), *(x.swapaxes(2, 3) for x in (frames, flows)))
    close(turned.swapaxes(2, 3), logits)
    assert np.abs(applied(variables, *(x.swapaxes(2, 3) for x in (frames, flows))) - turned).max() > 0.1


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
    run = jax.jit(partial(hmhi.segment_clip, model))
    first, again, other = (run(variables, frames, flows, jax.random.key(seed)) for seed in (1, 1, 2))
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
        ({"decoder_width": 0}, "decoder_width is 0, expected a whole number from 1 to 8192, or None"),
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
