"""Parts of a video, exact to the frame: where they begin and end, and where new shots begin, as people write it."""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from hmhi_jax.complete_files import readable
from hmhi_jax.data.video import Frame, Sound, Video
from hmhi_jax.errors import InputError

# What a part has in common with the video.
_SHARED = (
    "name", "path", "size", "frame_rate", "sample_aspect_ratio", "time_base", "colours", "live",
)  # fmt: skip
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
    """The frames of a video from `first` to before `end`, as a video of its own: numbers count from 0, names stay."""

    def __init__(self, source: Video, first: int, end: int | None, cuts: frozenset[int] = frozenset()) -> None:
        """`end` is None for the source's own; `cuts` are frames of the source at which a new shot begins."""
        self.source, self.first, self.stop, self.cuts = source, first, end, cuts
        for name in _SHARED:
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
