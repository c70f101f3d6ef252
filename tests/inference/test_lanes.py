"""Which lane gets which frames when, and that a chunk as one program gives what its frames give one by one."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_network import random_variables
from small_videos import SIZE, network

from hmhi_jax.errors import InputError
from hmhi_jax.inference.functions import functions_of
from hmhi_jax.inference.lanes import Lanes, share_of
from hmhi_jax.inference.network import Network
from hmhi_jax.inference.network_input import Prepared
from hmhi_jax.inference.pipeline import StageTimes

lengths_of_videos = st.lists(st.integers(1, 40), max_size=12)


class Noted(Network):
    """In the place of a network: notes the rounds. A frame's pixels are its video's and its own number, and so are its
    "logits"."""

    def __init__(self, lanes, seconds=0.0):
        self.lanes, self.rounds, self._seconds = lanes, [], seconds

    def run(self, memory, frames, flows, fresh, counts, wanted):
        time.sleep(self._seconds)
        pieces = [
            [tuple(frames[lane, t, 0, 0, :2].tolist()) for t in range(count)] for lane, count in enumerate(counts)
        ]
        self.rounds.append((pieces, fresh.tolist()))
        return None, [jnp.asarray(frames[:, t, 0, 0, :2]) for t in range(counts.max())], {}

    def lane_logits(self, logits, lane):
        return np.asarray(logits[lane], np.float32)[None]


def prepared(video, length):
    for t in range(length):
        picture = np.full((1, 2, 3), (video, t, 0), np.uint8)
        yield Prepared(t, str(t), (1, 2), picture, picture)


def through_lanes(lengths, lanes, chunk, source=prepared, seconds=0.0):
    """What every video gets, each in a thread of its own, and the rounds in which it was made."""
    noted = Noted(lanes, seconds)
    shared = Lanes(noted, chunk)

    def drive(video):
        return [
            (one.index, tuple(one.logits[0].tolist()))
            for one in shared.results(source(video, lengths[video]), None, StageTimes())
        ]

    with ThreadPoolExecutor(max(1, len(lengths))) as pool:
        running = [pool.submit(drive, video) for video in range(len(lengths))]
    return running, noted.rounds


@given(lengths_of_videos, st.integers(1, 5), st.integers(1, 9))
@settings(max_examples=50, deadline=None)
def test_every_frame_comes_once_and_in_order_on_one_lane(lengths, lanes, chunk):
    running, rounds = through_lanes(lengths, lanes, chunk)
    seen = dict.fromkeys(range(len(lengths)), 0)
    lane_of = {}
    for pieces, fresh in rounds:
        assert len(pieces) == lanes
        assert any(pieces)
        for lane, piece in enumerate(pieces):
            if not piece:
                continue
            ((video, start), (_, stop)) = piece[0], piece[-1]
            assert lane_of.setdefault(video, lane) == lane
            assert start == seen[video]
            assert fresh[lane] == (start == 0)
            assert piece == [(video, t) for t in range(start, stop + 1)]
            assert len(piece) <= chunk
            seen[video] = stop + 1
            assert stop + 1 == lengths[video] or len(piece) == chunk
    assert seen == dict(enumerate(lengths))
    for video, future in enumerate(running):
        assert future.result() == [(t, (video, t)) for t in range(lengths[video])]


def test_a_long_video_does_not_hold_up_the_others():
    """All begin at once; a lane that is freed goes to a video that waits before the next round."""
    begin = threading.Barrier(5)

    def together(video, length):
        begin.wait()
        yield from prepared(video, length)

    running, rounds = through_lanes([40, 10, 10, 10, 10], lanes=2, chunk=10, source=together, seconds=0.1)
    assert [len(future.result()) for future in running] == [40, 10, 10, 10, 10]
    assert 4 <= len(rounds) <= 7  # the first one may hold a single video, and the long one may begin late
    assert sum(all(pieces) for pieces, _ in rounds) >= 2


def test_a_video_that_fails_costs_the_others_nothing():
    def damaged(video, length):
        yield from prepared(video, length if video else 3)
        if video == 0:
            raise InputError("a damaged frame")

    running, _ = through_lanes([9, 9, 4, 9], lanes=2, chunk=2, source=damaged)
    assert str(running[0].exception()) == "a damaged frame"
    assert [len(future.result()) for future in running[1:]] == [9, 4, 9]


def test_what_the_network_cannot_do_is_told_to_all(monkeypatch):
    def full(*arguments):
        raise MemoryError("no more")

    monkeypatch.setattr(Noted, "run", full)
    running, _ = through_lanes([3, 5], lanes=2, chunk=2)
    assert all(isinstance(future.exception(), MemoryError) for future in running)


def clip(videos, frames):
    """Random pictures and flow pictures, uint8 `[N, T, H, W, 3]`."""
    return np.random.default_rng(0).integers(0, 256, (2, videos, frames, *SIZE, 3), np.uint8)


@pytest.fixture(scope="module")
def variables():
    return random_variables(network())


def logits_of(network, chunks, memory=None):
    """Logits `[N, T, h, w]` of chunks of (frames, flows, fresh, counts)."""
    outputs = []
    for chunk in chunks:
        memory, logits, _ = network.run(memory, *chunk)
        outputs += [np.asarray(one)[:, 0, :, :, 0] for one in logits]
    return np.stack(outputs, 1), memory


def test_a_chunk_as_one_program(variables):
    """Frames as they come, the last chunk not full, and the lane's next video in the memory of the one before."""
    frames, flows = clip(1, 8)
    yes, no = np.array([True]), np.array([False])
    two, one = np.array([2], np.int32), np.array([1], np.int32)
    cuts = [(slice(0, 2), yes, two), (slice(2, 4), no, two), (slice(4, 6), no, one), (slice(6, 8), yes, two)]
    chunks = [(frames[:, cut], flows[:, cut], fresh, count) for cut, fresh, count in cuts]
    step_by_step, memory = logits_of(Network(functions_of(network()), variables, whole_chunks=False), chunks)
    whole, same = logits_of(Network(functions_of(network()), variables, whole_chunks=True), chunks)
    assert step_by_step.std() > 0.1
    np.testing.assert_allclose(whole, step_by_step, atol=1e-5)
    assert memory.written.tolist() == same.written.tolist() == [2]


@pytest.mark.slow
def test_lanes_of_one_program_know_nothing_of_each_other(variables):
    """Two videos that begin at different times, one of which ends earlier, each as it is alone."""
    frames, flows = clip(2, 6)
    alone = Network(functions_of(network()), variables, whole_chunks=False)
    expected = []
    for video, (begin, end) in enumerate(((0, 5), (2, 6))):
        fresh = [np.array([t == begin]) for t in range(begin, end)]
        count = np.ones(1, np.int32)
        own = slice(video, video + 1)
        chunks = [(frames[own, t : t + 1], flows[own, t : t + 1], fresh[t - begin], count) for t in range(begin, end)]
        expected.append(logits_of(alone, chunks)[0][0])
    for whole_chunks in (True, False):
        both = Network(functions_of(network()), variables, lanes_per_device=2, whole_chunks=whole_chunks)
        memory, found = None, []
        for cut, fresh, counts in (
            (slice(0, 2), (True, False), (2, 0)), (slice(2, 4), (False, True), (2, 2)),
            (slice(4, 6), (False, False), (1, 2)),
        ):  # fmt: skip
            chunk = frames[:, cut], flows[:, cut], np.array(fresh), np.array(counts, np.int32)
            memory, logits, copies = both.run(memory, *chunk, wanted=(0,))
            found += [np.asarray(one)[:, 0, :, :, 0] for one in logits]
            assert copies[0].written == cut.start + counts[0]
        np.testing.assert_allclose([one[0] for one in found[:5]], expected[0], atol=1e-4)
        np.testing.assert_allclose([one[1] for one in found[2:]], expected[1], atol=1e-4)


@given(lengths_of_videos, st.integers(1, 5))
@settings(max_examples=50, deadline=None)
def test_hosts_share_videos_evenly(lengths, hosts):
    shares = [share_of(lengths, host, hosts) for host in range(hosts)]
    assert sorted(video for share in shares for video in share) == list(range(len(lengths)))
    loads = [sum(lengths[video] for video in share) for share in shares]
    assert max(loads) - min(loads) <= max(lengths, default=0)


def test_one_host_takes_all():
    assert share_of([3, 5, 1], 0, 1) == [0, 1, 2]
    assert through_lanes([], 3, 4) == ([], [])
    with pytest.raises(IndexError):
        share_of([3], 1, 1)
