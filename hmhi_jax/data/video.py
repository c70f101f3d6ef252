"""A video as everything else sees it, whatever it is read from: its frames one by one, and what is known before."""

import dataclasses
import hashlib
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from jaxtyping import UInt8

from hmhi_jax.complete_files import readable
from hmhi_jax.data.pictures import MOST_PIXELS
from hmhi_jax.errors import InputError

SMALLEST_SIDE = 16  # pixels; optical flow needs a few patches
LARGEST_SIDE = 16_384


@dataclasses.dataclass(frozen=True)
class Frame:
    """One picture of a video.

    index        its number from 0
    name         what its results are called
    picture      8-bit RGB, as it is meant to be seen
    time         when it is shown, in seconds; None: frames are shown one by one at the video's rate
    duration     for how long, in seconds, where that is known
    decoded      the frame as FFmpeg decoded it, with all its bits and not turned, where there is one
    begins_shot  whether it is known to be the first of a new shot
    """

    index: int
    name: str
    picture: UInt8[np.ndarray, "H W 3"]
    time: Fraction | None = None
    duration: Fraction | None = None
    decoded: av.VideoFrame | None = None
    begins_shot: bool = False


@dataclasses.dataclass(frozen=True)
class Colours:
    """How colours are stored as luma and chroma: numbers of ITU-T H.273, and FFmpeg's for the range (0 not said, 1
    limited, 2 full). By default as pictures are best stored as a video: BT.709."""

    matrix: int = 1
    primaries: int = 1
    transfer: int = 1
    range: int = 1


@dataclasses.dataclass(frozen=True)
class Sound:
    """Where a video's sound can be read: a file, and the time in it, in seconds, that is 0 for the frames; `earlier`
    says whether sound from before that counts."""

    path: str
    origin: Fraction
    earlier: bool = True


class Video(ABC):
    """A video that can be read from its first frame as often as wanted (a live one: once).

    name          what its folder of results is called; may hold '/'
    path          what the user gave, for messages
    size          (height, width) of every frame, in pixels, as it is meant to be seen
    frame_rate    frames per second
    sample_aspect_ratio   width over height of a pixel as it is meant to be shown
    time_base     what the frames' times are multiples of, in seconds; None where frames have no times
    colours       how its colours are stored; those of pictures are not
    sound         where its sound can be read, if it has any
    first         number of its first frame in the file: not 0 where it is a part of one
    to_its_end    whether its last frame is the file's
    frame_count   how many frames to expect, None if nobody knows (a camera)
    live          whether frames come at their own pace and cannot be read again
    notes         what the user should know about the reading so far, one sentence each (a file that is cut off)
    failure       the note that is an error, once the frames before it are done; None if there is none
    """

    name: str
    path: str
    size: tuple[int, int]
    frame_rate: Fraction
    sample_aspect_ratio: Fraction = Fraction(1)
    time_base: Fraction | None = None
    colours: Colours = Colours()
    sound: Sound | None = None
    first: int = 0
    to_its_end: bool = True
    frame_count: int | None
    live: bool = False
    notes: list[str]
    failure: str | None = None

    @abstractmethod
    def frames(self, start: int = 0) -> Iterator[Frame]:
        """Read frames from number `start` on, one at a time. Raises `InputError` for what cannot be used."""

    def begin_at(self, first: int) -> None:  # noqa: B027 - a hint
        """Nobody will ask for frames before number `first`, so that they need not be decoded."""

    def end(self) -> None:  # noqa: B027 - there is nothing to do for files
        """Have a live video end as if its camera were switched off, also while a frame is waited for."""

    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """What tells this video from another at the same path, as JSON; costs no decoding."""

    def frame_names(self) -> Sequence[str] | None:
        """Names of all frames, where they are known before reading."""
        return None

    def frame_files(self) -> Sequence[str] | None:
        """Names of the files that hold the frames, one for each of `frame_names`, if they are files."""
        return None

    def frame_at(self, seconds: Fraction) -> int:
        """The number of the first frame that is shown at or after a time, counted from the first frame's."""
        return math.ceil(seconds * self.frame_rate)


class FileVideo(Video):
    """A video in one file."""

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        self.name = Path(path).stem
        self.notes = []

    def fingerprint(self) -> dict[str, Any]:
        status = os.stat(self.path)
        return {"path": os.path.abspath(self.path), "bytes": status.st_size, "modified": status.st_mtime_ns}


def check_size(size: tuple[int, int], what: str) -> None:
    """Refuse pictures that are too small for optical flow or too large for memory; `what` names the picture."""
    height, width = size
    if min(size) < SMALLEST_SIDE:
        raise InputError(
            f"{what} is {width} x {height} pixels, expected at least {SMALLEST_SIDE} x {SMALLEST_SIDE}; "
            "motion cannot be seen in less"
        )
    if max(size) > LARGEST_SIDE or height * width > MOST_PIXELS:
        raise InputError(
            f"{what} is {width} x {height} pixels, expected at most {LARGEST_SIDE} a side and "
            f"{MOST_PIXELS // 2**20} megapixels; scale it down first"
        )


def check_same_size(size: tuple[int, int], what: str, first: tuple[int, int], of: str, advice: str) -> None:
    """Refuse a frame (`what`) of another size than the first one (`of`)."""
    if size != first:
        raise InputError(
            f"{what} is {size[1]} x {size[0]} pixels but {of} is {first[1]} x {first[0]}, expected frames of one size; "
            f"{advice}"
        )


def files_fingerprint(files: Iterable[Path]) -> str:
    """A hash of names, sizes and times of change; costs no reading."""
    digest = hashlib.sha256()
    for path in files:
        with readable(path):
            status = path.stat()
        digest.update(f"{path.name}/{status.st_size}/{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()
