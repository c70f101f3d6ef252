"""Which lane gets which frames when."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hmhi_jax.inference.lanes import plan_rounds, share_of

lengths_of_videos = st.lists(st.integers(1, 40), max_size=12)


@given(lengths_of_videos, st.integers(1, 5), st.integers(1, 9))
@settings(max_examples=100, deadline=None)
def test_every_frame_comes_once_and_in_order_on_one_lane(lengths, lanes, chunk):
    rounds = list(plan_rounds(lengths, lanes, chunk))
    seen = dict.fromkeys(range(len(lengths)), 0)
    lane_of = {}
    for pieces in rounds:
        assert len(pieces) == lanes
        assert any(piece is not None for piece in pieces)
        for lane, piece in enumerate(pieces):
            if piece is None:
                continue
            assert lane_of.setdefault(piece.video, lane) == lane
            assert piece.start == seen[piece.video]
            assert piece.first == (piece.start == 0)
            assert 0 < len(piece) <= chunk
            seen[piece.video] = piece.stop
            assert piece.last == (piece.stop == lengths[piece.video])
            assert piece.last or len(piece) == chunk
    assert seen == dict(enumerate(lengths))


def test_a_long_video_does_not_hold_up_the_others():
    rounds = list(plan_rounds([40, 10, 10, 10, 10], lanes=2, chunk=10))
    assert len(rounds) == 4
    assert all(None not in pieces for pieces in rounds)


@given(lengths_of_videos, st.integers(1, 5))
@settings(max_examples=50, deadline=None)
def test_hosts_share_videos_evenly(lengths, hosts):
    shares = [share_of(lengths, host, hosts) for host in range(hosts)]
    assert sorted(video for share in shares for video in share) == list(range(len(lengths)))
    loads = [sum(lengths[video] for video in share) for share in shares]
    assert max(loads) - min(loads) <= max(lengths, default=0)


def test_one_host_takes_all():
    assert share_of([3, 5, 1], 0, 1) == [0, 1, 2]
    assert list(plan_rounds([], 3, 4)) == []
    with pytest.raises(IndexError):
        share_of([3], 1, 1)
