"""Where the network looks at every N-th frame only, what it says is carried to those between along the motion."""

import itertools

import cv2
import numpy as np
import pytest
from small_network import random_variables
from small_videos import SIZE, moving_square, network, save_network

from hmhi_jax.data.flow import FlowRecipe, flow_picture
from hmhi_jax.data.video import Frame
from hmhi_jax.errors import InputError
from hmhi_jax.inference.key_frames import KeyFrames
from hmhi_jax.inference.lanes import Result
from hmhi_jax.inference.network_input import prepare, windows
from hmhi_jax.inference.pipeline import Pipeline, StageTimes
from hmhi_jax.inference.segmenter import VideoSegmenter
from hmhi_jax.inference.stream_state import StreamState

BIG = (128, 192)
MOVES = 4  # pixels a frame


@pytest.fixture(scope="module", params=[1, 2], ids=["frames one by one", "chunks of two"])
def segmenter(request):
    return VideoSegmenter(network(), random_variables(network()), size=SIZE, chunk=request.param, every=3)


@pytest.fixture(scope="module")
def frames():
    return moving_square(11)


def numbered(pictures, cuts=()):
    return [Frame(t, str(t), picture, begins_shot=t in cuts) for t, picture in enumerate(pictures)]


def results(segmenter, frames, **options):
    with Pipeline() as pipeline:
        return list(segmenter.results(iter(frames), pipeline=pipeline, **options))


def keys_of(found):
    """Those that the network looked at: the others have the flow picture of the one before them."""
    return [found[0], *(result for before, result in itertools.pairwise(found) if result.flow is not before.flow)]


def disc_before_a_wall(count):
    """Pictures of a textured disc that moves before a textured wall, and where it is."""
    rng = np.random.default_rng(0)
    wall, skin = (
        cv2.resize(rng.integers(low, low + 130, (48, 64, 3)).astype(np.uint8), (260, 160)) for low in (0, 120)
    )
    pictures, places = [], []
    y, x = np.ogrid[: BIG[0], : BIG[1]]
    for t in range(count):
        there = (y - 64) ** 2 + (x - 60 - MOVES * t) ** 2 < 30**2
        moved = np.roll(skin, MOVES * t, 1)[: BIG[0], : BIG[1]]
        pictures.append(np.where(there[..., None], moved, wall[: BIG[0], : BIG[1]]))
        places.append(there)
    return pictures, places


def prepared_for(pictures, every, **options):
    options |= {"network_size": lambda size: BIG, "every": every, "times": StageTimes()}
    return [prepare(each, FlowRecipe(), **options) for each in windows(numbered(pictures), FlowRecipe(), None)]


def carried(pictures, said, every, expected=None):
    """Logits of all frames, where the network says `said` of those that it is asked about: `expected` ones, None for
    the multiples of `every` and the last."""
    prepared, times = prepared_for(pictures, every), StageTimes()
    key_frames = KeyFrames()
    keys = [Result(**vars(frame), logits=said[frame.index]) for frame in key_frames.keys(prepared)]
    looked_at = [key.index for key in keys]
    found = list(key_frames.results(iter(keys), times))
    assert [result.index for result in found] == list(range(len(pictures)))
    assert looked_at == (expected or sorted({*range(0, len(pictures), every), len(pictures) - 1}))
    return [result.logits for result in found]


def overlap(one, other):
    return (one & other).sum() / (one | other).sum()


@pytest.mark.parametrize("every", [2, 3, 5])
def test_what_is_said_of_key_frames_goes_with_the_object(every):
    pictures, places = disc_before_a_wall(11)
    said = [np.where(there, np.float32(5), np.float32(-5)) for there in places]
    logits = carried(pictures, said, every)
    assert min(overlap(found > 0, there) for found, there in zip(logits, places, strict=True)) > 0.93
    assert overlap(places[every - 1], places[0]) < 0.92  # not so without the motion


@pytest.mark.parametrize(
    ("every", "changes", "looked_at"),
    [
        (3, 12.0, [0, 3, 6, 9, 12, 15, 18, 19]),
        (3, 8.5, [0, 6, 12, 18, 19]),  # less than 10
        (3, 0.0, [0, 12, 19]),  # less than 10 over the root of two, and not more than 16 frames apart
        (5, 0.0, [0, 10, 19]),
        (9, 0.0, [0, 9, 18, 19]),
        (2, 0.0, [0, 16, 19]),
        (1, 0.0, [*range(20)]),
    ],
)
def test_less_is_looked_at_where_little_changes(every, changes, looked_at):
    """Of frames whose brightness changes by so many levels, which no motion explains."""
    pictures, _ = disc_before_a_wall(1)
    half = np.uint8(pictures[0] // 2)
    frames = [half + np.uint8(64 + (-1) ** t * changes / 2) for t in range(20)]
    assert [each.index for each in prepared_for(frames, every) if each.flow is not None] == looked_at
    later = [each.index for each in prepared_for(frames, every, first=1) if each.flow is not None]
    assert later == sorted({*looked_at, 1})


def test_what_goes_with_the_object_goes_further_where_little_changes():
    """Over a gap of twelve frames, along motions that are added up."""
    pictures, places = disc_before_a_wall(13)
    pale = [picture // 8 + np.uint8(100) for picture in pictures]
    said = [np.where(there, np.float32(5), np.float32(-5)) for there in places]
    logits = carried(pale, said, 3, [0, 12])
    assert min(overlap(found > 0, there) for found, there in zip(logits, places, strict=True)) > 0.9


def test_sides_that_differ_from_the_frame_say_little():
    """A frame that resembles neither key frame is left to the colours; where one side does, it alone is believed."""
    pictures, places = disc_before_a_wall(3)
    said = [np.where(there, np.float32(5), np.float32(-5)) for there in places]
    strange = np.random.default_rng(1).integers(0, 256, pictures[0].shape, np.uint8)
    assert np.abs(carried([pictures[0], strange, pictures[2]], said, 2)[1]).mean() < 0.5
    (_, found, _) = carried([pictures[0], pictures[0], strange], [said[0], None, -said[0]], 2)
    assert overlap(found > 0, places[0]) > 0.95


def test_the_network_looks_at_few_frames_and_these_alone_are_remembered(segmenter, frames):
    """Of two shots, 0 to 4 and 5 to 10: every third frame, and the first and the last of each shot."""
    looked_at = [0, 3, 4, 5, 6, 9, 10]
    found = results(segmenter, numbered(frames, cuts=[5]))
    assert [result.index for result in found] == list(range(11))
    assert [key.index for key in keys_of(found)] == looked_at
    assert [result.begins_shot for result in found] == [t == 5 for t in range(11)]
    every_frame = VideoSegmenter(network(), random_variables(network()), size=SIZE, chunk=segmenter.chunk)
    flows = [flow_picture(frames[t], frames[t - 1 if t in (4, 10) else t + 1]) for t in looked_at]
    chosen = [frame for frame in numbered(frames, cuts=[5]) if frame.index in looked_at]
    alone = results(every_frame, chosen, flow_of=iter(flows))
    for one, other in zip(keys_of(found), alone, strict=True):
        np.testing.assert_array_equal(one.logits, other.logits)
        np.testing.assert_array_equal(one.flow, other.flow)
    assert found[1].flow is found[0].flow


@pytest.mark.parametrize("cut", [None, -2, -1], ids=["one shot", "cut two before", "cut one before"])
@pytest.mark.parametrize("pale", [False, True], ids=["every third frame", "every twelfth"])
def test_going_on_from_a_saved_state(tmp_path, segmenter, cut, pale):
    """At the first frame that is surely looked at after as many as were asked for: to the bit."""
    split = segmenter.whole_chunks(4)
    assert split == 12 * segmenter.chunk
    frames = moving_square(split + 5)
    if pale:
        frames = [frame // 16 + np.uint8(100) for frame in frames]
    found = results(segmenter, numbered(frames))
    assert [key.index for key in keys_of(found)] == [*range(0, split + 4, 12 if pale else 3), split + 4]

    def shots(begin, stream):
        for t in range(begin, len(frames)):
            if cut and t == split + cut:
                stream[0].cut()
            yield frames[t]

    def stream(begin=0, **options):
        made = []
        made.append(segmenter.stream(shots(begin, made), soft=True, refine=True, detect_cuts=False, **options))
        return made[0]

    whole = list(stream())
    with stream(state_every=4) as first:
        masks = list(itertools.islice(first, split))
        first.state.save(tmp_path / "state")
    state = StreamState.load(tmp_path / "state")
    assert state.frames == split
    np.testing.assert_array_equal(state.previous, frames[split - 1])
    np.testing.assert_array_equal([*masks, *stream(begin=split, state=state)], whole)


def test_going_on_from_the_end(segmenter, frames):
    """The first frame is looked at, whatever its number."""
    list(first := segmenter.stream(frames[:5]))
    assert first.state.frames == 5
    found = results(segmenter, numbered(frames)[5:], state=first.state)
    assert [key.index for key in keys_of(found)] == [5, 6, 9, 10]


def test_live_streams_look_at_every_frame(segmenter, frames):
    """Masks would wait for the next key frame."""
    every_frame = VideoSegmenter(network(), random_variables(network()), size=SIZE, chunk=1)
    for options in ({}, {"refine": True}):
        live, plain = (list(each.stream(frames, soft=True, live=True, **options)) for each in (segmenter, every_frame))
        np.testing.assert_array_equal(live, plain)


def test_weights_say_how_often(tmp_path):
    path = save_network(tmp_path / "weights.safetensors", every=4)
    assert VideoSegmenter.load(path).every == 4
    assert VideoSegmenter.load(path, every=1).every == 1
    assert VideoSegmenter.load(save_network(tmp_path / "other.safetensors")).every == 1
    for every in (0, 17):
        with pytest.raises(InputError, match=f"every is {every}, expected a number of frames, from 1 to 16"):
            VideoSegmenter.load(path, every=every)


def test_frames_of_other_sizes_are_refused(segmenter, frames):
    with pytest.raises(InputError, match=r"frame 2: is \(24, 40, 3\), expected \(48, 80, 3\)"):
        results(segmenter, numbered([*frames[:2], frames[2][::2, ::2], *frames[3:]]))
