"""Which frames of a video make a training clip (docs/model.md 7)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hmhi_jax.data.records import VideoRecord
from hmhi_jax.errors import InputError


@dataclass(frozen=True)
class ClipSampling:
    """How frames are drawn.

    frames  length T of a clip
    reach   each next frame is at most this many frames from the one drawn before
    among   "all": any frame, but the first one drawn has a mask, so that no clip is without; "annotated": only frames
            with masks, numbered as if the others were not there (YouTube-VOS, whose every fifth frame is annotated, as
            the release trains on it)
    """

    frames: int = 5
    reach: int = 7
    among: str = "all"

    def __post_init__(self) -> None:
        for field in ("frames", "reach"):
            if (value := getattr(self, field)) < 1:
                raise InputError(f"clip sampling: {field} is {value}, expected at least 1")
        if self.among not in ("all", "annotated"):
            raise InputError(f"clip sampling: among is {self.among!r}, expected 'all' or 'annotated'")


def sample_clip(rng: np.random.Generator, video: VideoRecord, sampling: ClipSampling) -> tuple[int, ...]:
    """Numbers of the frames of one clip, ascending; a video with too few repeats its last one.

    The first frame is drawn uniformly, each next one among the frames not yet drawn within `reach` of the one before
    (or among all not yet drawn, when that leaves none); then they are sorted.

    Raises InputError for a video without masks.
    """
    annotated = video.annotated
    if not annotated:
        raise InputError(f"video {video.name!r}: no frame has a mask; it cannot be trained on")
    if sampling.among == "annotated":
        drawn = _draw(rng, range(len(annotated)), range(len(annotated)), sampling)
        return tuple(annotated[number] for number in drawn)
    return _draw(rng, range(len(video)), annotated, sampling)


def _draw(
    rng: np.random.Generator, frames: Sequence[int], first: Sequence[int], sampling: ClipSampling
) -> tuple[int, ...]:
    left = set(frames)
    drawn = [int(first[rng.integers(len(first))])]
    left.remove(drawn[0])
    while left and len(drawn) < sampling.frames:
        last = drawn[-1]
        near = [n for n in range(last - sampling.reach, last + sampling.reach + 1) if n in left] or sorted(left)
        drawn.append(near[rng.integers(len(near))])
        left.remove(drawn[-1])
    drawn.sort()
    return tuple(drawn + [drawn[-1]] * (sampling.frames - len(drawn)))
