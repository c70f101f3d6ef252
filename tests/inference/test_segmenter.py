"""Streams equal the whole clip, hold little, go on from saved states, and refuse what is no video."""

import functools
import gc
import itertools
import json
import threading

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file
from small_network import random_variables
from small_videos import ARGUMENTS, SIZE, moving_square, network, save_network

from hmhi_jax.data.flow import FlowRecipe, flow_picture
from hmhi_jax.data.preprocessing import normalise, resize_picture
from hmhi_jax.data.video import Frame
from hmhi_jax.errors import InputError
from hmhi_jax.inference.colours import Colours
from hmhi_jax.inference.masks import read_logits, refine
from hmhi_jax.inference.pipeline import WORKERS, Pipeline
from hmhi_jax.inference.segmenter import VideoSegmenter, auto_size
from hmhi_jax.inference.stream_state import StreamState
from hmhi_jax.models import build_model, segment_clip


@pytest.fixture(scope="module")
def variables():
    return random_variables(network())


@pytest.fixture(scope="module")
def segmenter(variables):
    return VideoSegmenter(network(), variables, size=SIZE, chunk=2)


@pytest.fixture(scope="module")
def frames():
    return moving_square(9)


@pytest.fixture(scope="module")
def soft(segmenter, frames):
    """Probabilities of the clip, streamed."""
    return list(segmenter.stream(frames, soft=True))


def half_pixel_bilinear(grid, size):
    """The definition: half-pixel centres, edges clamped, no antialiasing."""
    for axis, wanted in enumerate(size):
        have = grid.shape[axis]
        place = np.clip((np.arange(wanted) + 0.5) * have / wanted - 0.5, 0, have - 1)
        lower = np.floor(place).astype(int)
        share = (place - lower).reshape([-1 if a == axis else 1 for a in range(2)])
        upper = np.minimum(lower + 1, have - 1)
        grid = np.take(grid, lower, axis) * (1 - share) + np.take(grid, upper, axis) * share
    return grid


def flows_of(frames):
    """Forward, and backward for the last one."""
    nexts = [*frames[1:], frames[-2]]
    return [flow_picture(a, b, FlowRecipe()) for a, b in zip(frames, nexts, strict=True)]


def test_a_stream_equals_the_clip_in_one_piece(segmenter, variables, frames, soft):
    def network_input(pictures):
        return normalise(np.stack([resize_picture(picture, SIZE) for picture in pictures]))[None]

    whole = jax.jit(functools.partial(segment_clip, network()))
    logits = whole(variables, network_input(frames), network_input(flows_of(frames)))
    assert len(soft) == len(frames)
    for mask, grid in zip(soft, np.asarray(logits)[0, :, :, :, 0], strict=True):
        expected = half_pixel_bilinear(grid.astype(np.float64), (48, 80))
        assert mask.dtype == np.uint8
        assert np.abs(mask - 255 / (1 + np.exp(-expected))).max() < 0.51
    spread = np.stack(soft)
    assert spread.std() > 10  # the comparison is about something


@pytest.mark.parametrize(("chunk", "live"), [(1, False), (2, True)])
def test_chunks_do_not_matter(segmenter, variables, frames, soft, chunk, live):
    other = VideoSegmenter(network(), variables, size=SIZE, chunk=chunk)
    for a, b in zip(other.stream(iter(frames), soft=True, live=live), soft, strict=True):
        assert np.abs(a.astype(int) - b).max() <= 1


@pytest.mark.parametrize("threshold", [0.3, 0.5])
def test_masks_are_probabilities_above_the_threshold(segmenter, frames, soft, threshold):
    for mask, probability in zip(segmenter.stream(frames, threshold=threshold), soft, strict=True):
        assert set(np.unique(mask)) <= {0, 255}
        clear = np.abs(probability / 255 - threshold) > 0.003
        assert np.array_equal(mask[clear] > 0, probability[clear] > 255 * threshold)


def test_threshold_and_probability_of_known_logits():
    logits = np.array([[-100, -1, 0, 1e-6, 1, 100]], np.float32)
    assert read_logits(logits, (1, 6), "mask").tolist() == [[0, 0, 0, 255, 255, 255]]
    assert read_logits(logits, (1, 6), "mask", 0.75).tolist() == [[0, 0, 0, 0, 0, 255]]
    assert read_logits(logits, (1, 6), "plain").tolist() == [[0, 69, 128, 128, 186, 255]]


def test_masks_are_refined_where_frames_are_large(segmenter):
    pictures = moving_square(3, (128, 160))  # five times the network's pixels
    plain, refined, colours = [], [], Colours()
    with Pipeline() as pipeline:  # as `stream` does it: chunks of another length may differ in their last bits
        results = list(segmenter.results([Frame(t, str(t), x) for t, x in enumerate(pictures)], pipeline=pipeline))
    for result, picture in zip(results, pictures, strict=True):
        assert result.guide is None
        plain.append(read_logits(result.logits, result.size, "plain"))
        small = resize_picture(picture, SIZE)
        logits = refine(colours(np.asarray(result.logits), small), small, picture)
        refined.append(read_logits(logits, result.size, "plain"))
    assert np.abs(np.stack(plain).astype(int) - refined).mean() > 1
    np.testing.assert_array_equal(list(segmenter.stream(pictures, soft=True)), refined)
    np.testing.assert_array_equal(list(segmenter.stream(pictures, soft=True, refine=False)), plain)


def test_given_flow_pictures(segmenter, frames, soft):
    for a, b in zip(segmenter.stream(frames, flows=flows_of(frames), soft=True), soft, strict=True):
        assert np.array_equal(a, b)

    def in_one_array():
        array = np.empty_like(frames[0])
        for flow in flows_of(frames):
            array[:] = flow
            yield array

    for a, b in zip(segmenter.stream(frames, flows=in_one_array(), soft=True), soft, strict=True):
        assert np.array_equal(a, b)
    for bad in ([frames[0], frames[1][:20]], [frames[0][:0]], [frames[0], frames[1][..., 0]]):
        with pytest.raises(InputError, match=rf"flows: picture {len(bad) - 1} is "):
            list(segmenter.stream(frames, flows=iter(bad)))
    with pytest.raises(InputError, match="no flow picture for frame 8"):
        list(segmenter.stream(frames, flows=flows_of(frames)[:-1]))
    with pytest.raises(InputError, match="more flow pictures than frames"):
        list(segmenter.stream(frames[:-1], flows=flows_of(frames)))


def test_one_frame_and_two(segmenter, frames, soft):
    (mask,) = segmenter.stream(frames[:1])
    assert mask.shape == (48, 80)
    first, _ = segmenter.stream(frames[:2], soft=True)
    assert np.array_equal(first, soft[0])


class Counted:
    """An endless camera that knows how far ahead of the masks it is read."""

    def __init__(self, frames):
        self.pulled = 0
        self._frames = itertools.cycle(frames)

    def __iter__(self):
        return self

    def __next__(self):
        self.pulled += 1
        return next(self._frames)


@pytest.mark.parametrize("live", [True, False])
def test_a_caller_may_fill_one_array_again_and_again(segmenter, frames, soft, live):
    def in_one_array():
        array = np.empty_like(frames[0])
        for frame in frames:
            array[:] = frame
            yield array

    for a, b in zip(segmenter.stream(in_one_array(), soft=True, live=live), soft, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("live", [True, False])
def test_arrays_may_lie_in_memory_as_they_like(tmp_path, segmenter, frames, soft, live):
    class Named(np.ndarray):
        """As of other libraries."""

    mapped = np.memmap(tmp_path / "frame", np.uint8, "w+", shape=frames[4].shape)
    mapped[:] = frames[4]
    locked = frames[8].copy()
    locked.flags.writeable = False
    laid_out = [
        np.asfortranarray(frames[0]),
        frames[1][::-1, ::-1].copy()[::-1, ::-1],
        frames[2][..., ::-1].copy()[..., ::-1],  # of BGR
        np.pad(frames[3], ((3, 2), (1, 4), (0, 1)))[3:-2, 1:-4, :3],
        mapped,
        np.ascontiguousarray(frames[5].transpose(2, 0, 1)).transpose(1, 2, 0),
        frames[6].view(Named),
        np.ma.masked_array(frames[7], mask=frames[7] > 200),
        locked,
    ]
    for a, b in zip(segmenter.stream(laid_out, soft=True, live=live), soft, strict=True):
        assert type(a) is np.ndarray
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("live", [True, False])
def test_a_bounded_number_of_frames_is_read_ahead(segmenter, frames, live):
    camera, masks, ahead = Counted(frames), 0, []
    with segmenter.stream(camera, live=live) as stream:
        for _ in stream:
            masks += 1
            ahead.append(camera.pulled - masks)
            if masks == 40:
                break
    if live:
        assert ahead == [1] * 40  # one frame late, no more
    else:
        assert max(ahead) <= 4 * segmenter.chunk + 4 * (WORKERS + 1)
    pulled = camera.pulled
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("hmhi")]
    assert camera.pulled == pulled


def test_leaving_the_loop_stops_the_threads(segmenter, frames):
    for _ in segmenter.stream(Counted(frames)):
        break
    gc.collect()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("hmhi")]


def test_errors_of_the_source_reach_the_reader(segmenter, frames):
    class Unplugged(Exception):
        pass

    def camera():
        yield from frames[:5]
        raise Unplugged

    got = []
    with pytest.raises(Unplugged):
        got.extend(segmenter.stream(camera()))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("hmhi")]


@pytest.mark.parametrize("split", [2, 6, 8])
@pytest.mark.parametrize("live", [False, True])
def test_going_on_from_a_saved_state(tmp_path, segmenter, variables, frames, soft, split, live):
    """Masks are the same to the bit, also where only the last frame is left and its flow goes back."""
    if live:
        soft = list(segmenter.stream(frames, soft=True, live=True))
    path = tmp_path / "state.safetensors"
    with segmenter.stream(frames, soft=True, live=live, state_every=split) as stream:
        first = list(itertools.islice(stream, split))
        assert stream.state.frames == split
        stream.state.save(path)
    elsewhere = VideoSegmenter(network(), variables, size=SIZE, chunk=2, device=jax.devices()[0])
    stream = elsewhere.stream(frames[split:], soft=True, live=live, state=StreamState.load(path))
    for a, b in zip([*first, *stream], soft, strict=True):
        assert np.array_equal(a, b)
    assert stream.state.frames == 9
    assert list(elsewhere.stream([], state=stream.state)) == []


@pytest.mark.parametrize("live", [False, True])
def test_a_cut_that_is_told_begins_anew(segmenter, frames, live):
    """Both shots have the masks they have alone, wherever the chunks lie; without it the second one has others."""

    def edited():
        yield from frames[:5]
        stream.cut()
        yield from frames[5:]

    options = {"soft": True, "live": live, "detect_cuts": False}
    stream = segmenter.stream(edited(), **options)
    masks = [(mask, stream.begins_shot) for mask in stream]
    alone = [*segmenter.stream(frames[:5], **options), *segmenter.stream(frames[5:], **options)]
    assert [begins for _, begins in masks] == [index == 5 for index in range(9)]
    for (mask, _), expected in zip(masks, alone, strict=True):
        assert np.abs(mask.astype(int) - expected).max() <= 1  # the rounding of another place in a chunk
    assert np.abs(masks[6][0].astype(int) - list(segmenter.stream(frames, **options))[6]).max() > 1


def test_states_of_another_network_are_refused(segmenter, variables, frames):
    stream = segmenter.stream(frames[:2])
    assert stream.state is None
    list(stream)
    larger = VideoSegmenter(build_model(**{**ARGUMENTS, "memory_frames": 2}), variables, size=SIZE)
    with pytest.raises(InputError, match=r"saved memory: .*keys is float32 \(1, 3, .*expected float32 \(1, 2, "):
        list(larger.stream(frames[2:], state=stream.state))
    wider = VideoSegmenter(network(), variables, size=(64, 96))
    with pytest.raises(InputError, match="ran at 64 x 64, now it would run at 64 x 96"):
        list(wider.stream(frames[2:], state=stream.state))
    cropped = [np.ascontiguousarray(frame[:, 16:]) for frame in frames[2:]]
    with pytest.raises(InputError, match=r"frame 00002: is .*, but frames were .* before the state was saved"):
        list(segmenter.stream(cropped, state=stream.state))


def test_no_saved_state(tmp_path):
    (tmp_path / "state").write_text("nothing")
    with pytest.raises(InputError, match="is no saved memory of a stream"):
        StreamState.load(tmp_path / "state")
    whole = {"frames": 3, "network_size": [64, 64], "note": {}}
    for key, other in (
        ("frames", None),
        ("network_size", None),
        ("network_size", [64]),
        ("note", None),
        ("frames", []),
        ("frames", -1),
        ("frames", 2.7),
        ("frames", True),
        ("network_size", [64.5, 64]),
    ):
        header = {name: value for name, value in {**whole, key: other}.items() if value is not None}
        save_file({"memory/x": np.zeros(1)}, tmp_path / "state", metadata={"hmhi_stream": json.dumps(header)})
        with pytest.raises(InputError, match="is no saved memory of a stream"):
            StreamState.load(tmp_path / "state")
    metadata = {"hmhi_stream": json.dumps(whole)}
    for arrays in (
        {"memory/x": np.full(1, np.nan)},
        {"memory/written": np.array(4, np.int32)},  # of three frames
        {"memory/written": np.array(-1, np.int32)},
        {"previous": np.zeros((48, 80, 3), np.float32)},
        {"previous": np.zeros((48, 80), np.uint8)},
    ):
        save_file(arrays, tmp_path / "state", metadata)
        with pytest.raises(InputError, match="is no saved memory of a stream"):
            StreamState.load(tmp_path / "state")
    save_file({"memory/x": np.zeros(1)}, tmp_path / "state", metadata)
    assert StreamState.load(tmp_path / "state").frames == 3


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([], "no frames"),
        ([np.zeros((48, 80, 3), np.float32)], r"frame 0: is float32 \(48, 80, 3\), expected .* uint8"),
        ([np.zeros((48, 80), np.uint8)], r"frame 0: is uint8 \(48, 80\)"),
        (["00000.png"], "frame 0: is str"),
        ([np.zeros((48, 80, 3), np.uint8), np.zeros((48, 81, 3), np.uint8)], r"frame 1: is uint8 \(48, 81, 3\)"),
        ([np.zeros((1, 1, 3), np.uint8)], "1 x 1 pixels, expected at least 16"),
        ([np.zeros((48, 80, 4), np.uint8)], r"frame 0: is uint8 \(48, 80, 4\)"),
        ([np.zeros((3, 48, 80), np.uint8)], r"frame 0: is uint8 \(3, 48, 80\)"),
        ([np.zeros((1, 48, 80, 3), np.uint8)], r"frame 0: is uint8 \(1, 48, 80, 3\)"),
        ([np.zeros((48, 80, 3), bool)], r"frame 0: is bool"),
        ([np.zeros((48, 80, 3), np.uint8), None], r"frame 1: is NoneType"),
        ([np.zeros((48, 80, 3), np.uint8), np.zeros((80, 48, 3), np.uint8)], r"frame 1: is uint8 \(80, 48, 3\)"),
        (
            [np.broadcast_to(np.uint8(0), (1 << 20, 1 << 20, 3))],
            "frame 0 is 1048576 x 1048576 pixels, expected at most",
        ),
    ],
)
@pytest.mark.parametrize("live", [True, False])
def test_frames_that_are_none(segmenter, bad, message, live):
    with pytest.raises(InputError, match=message):
        list(segmenter.stream(iter(bad), live=live))  # an iterator, which no type checker looks into


def test_sizes():
    assert auto_size((480, 854), (512, 512)) == (384, 672)
    assert auto_size((1080, 1920), (96, 160)) == (96, 160)
    assert auto_size((20, 1000), (64, 64)) == (32, 448)
    with pytest.raises(InputError, match="expected two multiples of 32"):
        VideoSegmenter(network(), {}, size=(100, 100))
    assert VideoSegmenter(network(), {}, size=64).size == (64, 64)
    with pytest.raises(InputError, match="network size is foo"):
        VideoSegmenter(network(), {}, size="foo")
    with pytest.raises(InputError, match="chunk is -1, expected a number of frames"):
        VideoSegmenter(network(), {}, size=SIZE, chunk=-1)
    with pytest.raises(InputError, match="chunk is 1000000, expected a number of frames, from 1 to 1024"):
        VideoSegmenter(network(), {}, size=SIZE, chunk=1_000_000)
    with pytest.raises(InputError, match="threshold is 1"):
        VideoSegmenter(network(), {}, size=SIZE).stream([], threshold=1.0)


def test_load(tmp_path, frames, soft):
    recipe = FlowRecipe(camera="affine", size=(48, 80))
    path = save_network(tmp_path / "net.safetensors", recipe)
    segmenter = VideoSegmenter.load(path)
    assert (segmenter.size, segmenter.flow_recipe, segmenter.model) == (SIZE, recipe, network(dtype="tensorfloat32"))
    assert len(list(segmenter.stream(frames[:2]))) == 2
    loaded = VideoSegmenter.load(path, size="auto", memory_frames=5, dtype="bfloat16", chunk=4)
    assert (loaded.network_size((48, 96)), loaded.model.memory_frames, loaded.model.dtype) == ((32, 96), 5, "bfloat16")
    assert loaded.chunk == 4
    assert VideoSegmenter.load(path, size=96).size == (96, 96)
    with pytest.raises(InputError, match=r"holds weights of mit_test, expected swin_tiny"):
        VideoSegmenter.load(path, backbone="swin_tiny")
    with pytest.raises(InputError, match=r"^dtype is 'float99', expected 'float32', 'tensorfloat32' or 'bfloat16'$"):
        VideoSegmenter.load(path, dtype="float99")
    with pytest.raises(InputError, match=r"^memory_frames is 0, expected a whole number from 1 to 1000$"):
        VideoSegmenter.load(path, memory_frames=0)


def test_devices_do_not_matter(variables, frames, soft):
    """Several videos at once on several devices: each gets what it would get alone."""
    segmenter = VideoSegmenter(network(), variables, size=SIZE, chunk=2)
    results = {}

    def run(number, device):
        results[number] = list(segmenter.to(device).stream(frames, soft=True))

    threads = [threading.Thread(target=run, args=item) for item in enumerate(jax.devices()[::5])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for masks in results.values():
        assert all(np.array_equal(a, b) for a, b in zip(masks, soft, strict=True))
    assert len(results) == 2
