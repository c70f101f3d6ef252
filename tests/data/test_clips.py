"""Clip sampling: the rules of docs/model.md 7, over many draws."""

import numpy as np
import pytest

from hmhi_jax.data.clips import ClipSampling, sample_clip
from hmhi_jax.data.records import FolderPictures, VideoRecord
from hmhi_jax.errors import InputError


def video(length: int, annotated=None) -> VideoRecord:
    names = tuple(f"{n:05d}" for n in range(length))
    masks = tuple(name if annotated is None or n in annotated else None for n, name in enumerate(names))
    return VideoRecord("v", names, FolderPictures("f", names), FolderPictures("o", names), FolderPictures("m", masks))


def draws(record: VideoRecord, sampling: ClipSampling, count: int = 400):
    return [sample_clip(np.random.default_rng([0, n]), record, sampling) for n in range(count)]


def test_frames_ascend_differ_and_stay_within_reach():
    gaps = set()
    for clip in draws(video(60), ClipSampling(frames=5, reach=7)):
        assert len(clip) == 5
        gaps |= set(np.diff(clip).tolist())
    # Sorted, neighbours are never further apart than one draw may be from the one before it.
    assert gaps == set(range(1, 8))


def test_every_frame_is_drawn_about_equally_often_as_the_first():
    starts = np.bincount([clip[0] for clip in draws(video(10), ClipSampling(frames=1), 4000)], minlength=10)
    assert starts.min() > 300  # 400 expected, deviation 19
    assert starts.max() < 500


def test_short_videos_repeat_their_last_frame():
    assert draws(video(3), ClipSampling(frames=5), 1) == [(0, 1, 2, 2, 2)]
    assert draws(video(1), ClipSampling(frames=5), 1) == [(0,) * 5]


def test_when_nothing_is_near_any_frame_left_is_drawn():
    for clip in draws(video(4), ClipSampling(frames=4, reach=1)):
        assert clip == (0, 1, 2, 3)


def test_a_clip_has_a_mask_at_least():
    record = video(40, annotated={3, 20})
    for clip in draws(record, ClipSampling(frames=3, reach=2)):
        assert {3, 20} & set(clip)


def test_annotated_frames_only():
    record = video(50, annotated=set(range(0, 50, 5)))
    for clip in draws(record, ClipSampling(frames=3, reach=2, among="annotated")):
        assert all(frame % 5 == 0 for frame in clip)
        assert max(np.diff(clip)) <= 10  # two annotated frames on


def test_what_cannot_be_is_refused():
    with pytest.raises(InputError, match="'v': no frame has a mask"):
        sample_clip(np.random.default_rng(0), video(5, annotated=set()), ClipSampling())
    with pytest.raises(InputError, match="frames is 0"):
        ClipSampling(frames=0)
    with pytest.raises(InputError, match="among is 'some'"):
        ClipSampling(among="some")
