"""A video as everything else sees it, whatever it is read from: its frames one by one, and what is known before; and
parts of one, exact to the frame: where they begin and end, and where new shots begin, as people write it."""

import dataclasses
import hashlib
import math
import os
import re
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


_FORMS = "a frame's number (120), seconds (4.8 or 4s), a time (0:04.8) or a time code (00:00:04:20)"


@dataclasses.dataclass(frozen=True)
class Part:
    """What is wanted of a video.

    start   the first frame, None for the video's own
    end     the frame before which it ends, None for the video's end
    cuts    where new shots are known to begin; None if that is not known
    """

    start: str | None = None
    end: str | None = None
    cuts: tuple[str, ...] | None = None

    def of(self, video: Video) -> Video:
        """That part of `video`, whose names stay the video's. Raises `InputError` for one outside of it."""
        if self == Part():
            return video
        first = 0 if self.start is None else _frame(self.start, "--start", video)
        end = None if self.end is None else _frame(self.end, "--end", video)
        count = video.frame_count
        if count is not None and first >= count:
            raise InputError(
                f"{video.path}: --start {self.start} is frame {first}, but it has {count} frames, from 0 to {count - 1}"
            )
        if end is not None and end <= first:
            raise InputError(
                f"{video.path}: --start {self.start or 0} and --end {self.end} hold no frame between them "
                f"(from {first} to before {end}); the end is the first frame that is left out"
            )
        part = VideoPart(video, first, end, frozenset(_frame(cut, "--cuts", video) for cut in self.cuts or ()))
        if count is not None and end is not None and end > count:
            part.own_notes.append(f"{video.path}: --end {self.end} is frame {end}, but it ends after {count} frames")
        if count is not None and part.cuts and max(part.cuts) >= count:
            raise InputError(f"{video.path}: --cuts has frame {max(part.cuts)}, but the last of it is {count - 1}")
        return part


def read_cuts(path: str | Path) -> tuple[str, ...]:
    """The lines of a file of cuts, each where a new shot begins; what follows a `#` is a remark."""
    with readable(Path(path)):
        text = Path(path).read_text(encoding="utf-8-sig", errors="replace")
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return tuple(filter(None, lines))


class VideoPart(Video):
    """The frames of a video from `first` to before `end`, as a video of its own: numbers count from 0, names stay, and
    what is not said here is the source's."""

    def __init__(self, source: Video, first: int, end: int | None, cuts: frozenset[int] = frozenset()) -> None:
        """`end` is None for the source's own; `cuts` are frames of the source at which a new shot begins."""
        self.source, self.first, self.stop, self.cuts = source, first, end, cuts
        for name in ("name", "path", "size", "frame_rate", "sample_aspect_ratio", "time_base", "colours", "live"):
            setattr(self, name, getattr(source, name))
        self.to_its_end = end is None
        count = source.frame_count
        self.frame_count = end and end - first if count is None else min(end or count, count) - first
        self.own_notes: list[str] = []
        source.begin_at(first)

    @property
    def notes(self) -> list[str]:
        return [*self.source.notes, *self.own_notes]

    @property
    def sound(self) -> Sound | None:
        return self.source.sound

    @property
    def failure(self) -> str | None:
        return self.source.failure

    def frames(self, start: int = 0) -> Iterator[Frame]:
        first, index = self.first, -1
        for frame in self.source.frames(0 if self.live else first + start):
            index = frame.index
            if index >= first:
                yield dataclasses.replace(frame, index=index - first, begins_shot=index > first and index in self.cuts)
            if index + 1 == self.stop:
                return
        if index < first and not start:
            raise InputError(f"{self.path}: ended before frame {first}, the first that is wanted")

    def end(self) -> None:
        self.source.end()

    def frame_names(self) -> Sequence[str] | None:
        names = self.source.frame_names()
        return names and names[self.first : self.stop]

    def frame_files(self) -> Sequence[str] | None:
        files = self.source.frame_files()
        return files and files[self.first : self.stop]

    def fingerprint(self) -> dict[str, Any]:
        cuts = {"cuts": sorted(self.cuts)} if self.cuts else {}
        return {**self.source.fingerprint(), "start": self.first, "end": self.stop, **cuts}


def _frame(text: str, option: str, video: Video) -> int:
    """The frame of `video` that a position means: of that name, of that number, or the first one shown from then on."""
    if text in (names := video.frame_names() or ()):
        return names.index(text)
    position = _position(text, option, video.frame_rate)
    return position if isinstance(position, int) else video.frame_at(position)


def _position(text: str, option: str, rate: Fraction) -> int | Fraction:
    """A number of a frame, or seconds."""
    if re.fullmatch(r"\d+", text):
        return int(text)
    if match := re.fullmatch(r"(\d*\.?\d+)s|(\d*\.\d+)", text):
        return Fraction(match[1] or match[2])
    if match := re.fullmatch(r"(?:(\d+):)?(\d+):(\d+(?:\.\d+)?)", text):
        return 3600 * int(match[1] or 0) + 60 * int(match[2]) + Fraction(match[3])
    if match := re.fullmatch(r"(\d+):(\d+):(\d+):(\d+)", text):
        hours, minutes, seconds, frames = map(int, match.groups())
        return (3600 * hours + 60 * minutes + seconds) * max(1, round(rate)) + frames
    raise InputError(f"{option} {text}: expected {_FORMS}")
