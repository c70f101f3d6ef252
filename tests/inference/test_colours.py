"""Colours that the object has had so far tell its pixels where the network is unsure, and nothing where they cannot."""

import itertools

import numpy as np
import pytest
from small_network import random_variables
from small_videos import SIZE, moving_square, network

from hmhi_jax.errors import InputError
from hmhi_jax.inference.colours import Colours
from hmhi_jax.inference.segmenter import VideoSegmenter
from hmhi_jax.inference.stream_state import StreamState

RED, GREEN = (200, 40, 50), (60, 140, 70)
H, W = 60, 100


@pytest.fixture(scope="module")
def segmenter():
    return VideoSegmenter(network(), random_variables(network()), size=SIZE, chunk=2)


@pytest.fixture(scope="module")
def frames():
    return moving_square(7)


def scene(columns: slice, colour=RED):
    """An object over all rows in these columns, some noise over everything, and where the object is."""
    there = np.zeros((H, W), bool)
    there[:, columns] = True
    noise = np.random.default_rng(0).integers(-3, 4, (H, W, 3))
    return (np.where(there[..., None], colour, GREEN) + noise).astype(np.uint8), there


def test_what_was_seen_before_tells_the_unsure_pixels():
    """Certain in the first frame; in the second one the object is elsewhere and the network finds a third of it."""
    colours = Colours()
    picture, there = scene(np.s_[10:40])
    assert ((colours(np.where(there, 5.0, -5.0), picture) > 0) == there).all()
    picture, there = scene(np.s_[50:80])
    logits = np.where(there, -1.5, -5.0)
    logits[:20] = np.where(there[:20], 5.0, -5.0)
    assert ((logits > 0) == there).mean() < 0.85
    moved = colours(logits, picture)
    assert ((moved > 0) == there).all()
    assert (moved[~there] < logits[~there]).all()


def test_the_weight_of_the_evidence_is_bounded():
    """What the network is certain of stays, whatever the colours say."""
    colours = Colours()
    picture, there = scene(np.s_[10:40])
    for _ in range(5):
        colours(np.where(there, 9.0, -9.0), picture)
    assert (colours(np.where(there, -9.0, 9.0), picture) < 0).tolist() == there.tolist()


def test_nothing_found_and_nothing_to_tell_by():
    """Without an object nothing changes; where object and ground look alike, all logits sink alike and little."""
    picture, there = scene(np.s_[10:40])
    logits = np.full((H, W), -60.0)
    np.testing.assert_array_equal(Colours()(logits, picture), logits)
    alike = np.full((H, W, 3), GREEN, np.uint8)
    logits = np.where(there, 5.0, -5.0)
    shift = Colours()(logits, alike) - logits
    assert np.ptp(shift) < 1e-6
    assert -1.5 < shift.mean() < 0


def test_old_colours_fade():
    colours = Colours()
    for colour, count in ((RED, 20), ((40, 60, 210), 80)):
        picture, there = scene(np.s_[10:40], colour)
        for _ in range(count):
            colours(np.where(there, 5.0, -5.0), picture)
    picture, there = scene(np.s_[50:80], RED)
    assert colours.counts.sum() < 30 * H * W
    assert (colours(np.full((H, W), -1.5), picture)[there] < 0).all()


def test_each_shot_begins_without_colours(segmenter, frames):
    def edited():
        yield from frames[:4]
        stream.cut()
        yield from frames[4:]

    options = {"soft": True, "refine": True, "live": True, "detect_cuts": False}
    stream = segmenter.stream(edited(), **options)
    masks = list(stream)
    alone = [*segmenter.stream(frames[:4], **options), *segmenter.stream(frames[4:], **options)]
    np.testing.assert_array_equal(masks, alone)
    assert np.abs(masks[5].astype(int) - list(segmenter.stream(frames, **options))[5]).max() > 1


@pytest.mark.parametrize("live", [False, True])
def test_going_on_from_a_saved_state(tmp_path, segmenter, frames, live):
    """The colours are saved with the memory: masks are the same to the bit, and others without them."""
    options = {"soft": True, "refine": True, "live": live}
    whole = list(segmenter.stream(frames, **options))
    with segmenter.stream(frames, state_every=4, **options) as stream:
        first = list(itertools.islice(stream, 4))
        stream.state.save(tmp_path / "state")
    state = StreamState.load(tmp_path / "state")
    np.testing.assert_array_equal([*first, *segmenter.stream(frames[4:], state=state, **options)], whole)
    without = StreamState(state.frames, state.memory, state.previous, state.network_size)
    assert not np.array_equal(list(segmenter.stream(frames[4:], state=without, **options)), whole[4:])


def test_colours_of_something_else_are_refused(segmenter, frames):
    list(stream := segmenter.stream(frames[:2], refine=True))
    state = stream.state
    assert state.colours is not None
    for colours, shape in ((state.colours[:, :7], r"\(2, 7\)"), (-state.colours - 1, r"\(2, 65536\)")):
        other = StreamState(state.frames, state.memory, state.previous, state.network_size, colours)
        with pytest.raises(InputError, match=rf"its colours are float32 {shape}, expected counts, float32"):
            next(segmenter.stream(frames[2:], refine=True, state=other))


def test_masks_that_are_not_refined_have_no_colours(segmenter, frames):
    list(stream := segmenter.stream(frames[:2], refine=False))
    assert stream.state.colours is None
