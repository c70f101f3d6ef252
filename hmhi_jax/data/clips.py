"""Which frames of a video make a training clip (docs/model.md 7), and its arrays: only its frames are read, decoded and
changed, straight into the batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hmhi_jax.data.augmentation import ClipChange, add_flow_noise, change_colours, flip
from hmhi_jax.data.flow import NO_MOTION
from hmhi_jax.data.masks import read_mask
from hmhi_jax.data.pictures import Picture, PictureError, read_picture
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


def empty_clips(clips: int, frames: int, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Room for a batch of clips of pictures of `size` = (height, width); the values are arbitrary. By name:

    frames  RGB, uint8 `[B, T, H, W, 3]`
    flows   flow pictures, uint8 `[B, T, H, W, 3]`
    masks   0 or 1, uint8 `[B, T, H, W, 1]`; 0 where not known
    valid   whether the frame's mask is known (sparse ground truth), bool `[B, T]`
    """
    channels = {"frames": 3, "flows": 3, "masks": 1}
    pictures = {name: np.empty((clips, frames, *size, count), np.uint8) for name, count in channels.items()}
    return pictures | {"valid": np.empty((clips, frames), bool)}


def load_clip(
    video: VideoRecord,
    numbers: Sequence[int],
    change: ClipChange,
    reading: str,
    out: Mapping[str, np.ndarray],
    other: tuple[VideoRecord, Sequence[int]] | None = None,
) -> None:
    """Read the frames `numbers` of a video into `out` (a clip of `empty_clips`, which also says the size), changed as
    drawn. Flow pictures are read from the `other` video and its frames, if there is one.

    Raises PictureError naming the first picture that cannot be read.
    """
    size = out["frames"].shape[1:3]
    decoded: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray | None]] = {}  # a short video repeats its last frame
    moved, moments = other or (video, numbers)
    for place, number in enumerate(numbers):
        if number not in decoded:
            frame = read_picture(video.frames[number], size, reading, change.window)
            flow = read_picture(_flow(moved, moments[place]), size, reading, change.window)
            mask = video.masks[number]
            decoded[number] = frame, flow, None if mask is None else read_mask(mask, size, change.window)
        frame, flow, mask = decoded[number]
        if colours := change.colours[place]:
            frame = change_colours(frame, colours)
        if change.flow_noise:
            flow = add_flow_noise(flow, change.flow_noise, place)
        for picture, kept in ((frame, out["frames"]), (flow, out["flows"]), (mask, out["masks"])):
            if picture is None:
                kept[place] = 0
            elif change.flips[place]:
                flip(picture, kept[place])
            else:
                kept[place] = picture
        if change.still[place]:
            out["flows"][place] = NO_MOTION
        out["valid"][place] = mask is not None


def _flow(video: VideoRecord, number: int) -> Picture:
    if (picture := video.flows[number]) is not None:
        return picture
    raise PictureError(
        f"{video.flow_folder or video.name}: no flow picture for frame {video.frame_names[number]}; "
        "make it with `hmhi flow`"
    )
