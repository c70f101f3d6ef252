"""Which videos a command is to segment, what of them, and which of several machines takes which."""

import dataclasses
import re
from fractions import Fraction
from pathlib import Path

from hmhi_jax.data.open_videos import Found, find_videos
from hmhi_jax.data.standard_input import RawPictures
from hmhi_jax.data.video import Video
from hmhi_jax.data.video_part import Part, read_cuts
from hmhi_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Sources:
    """Options of `hmhi segment`.

    start, end  of every video: a frame's number or name, seconds, a time or a time code; the end is left out
    cuts        "auto": changes of shot are looked for; "off": there are none; or a file that says where they are
    shard       "I/N": of N machines, this is number I, from 0
    raw_size    "WIDTHxHEIGHT" of pictures without a header on standard input
    raw_rate    so many of them are a second; None where there is a header
    """

    start: str | None = None
    end: str | None = None
    cuts: str = "auto"
    shard: str | None = None
    raw_size: str | None = None
    raw_rate: float | None = None

    @property
    def detect_cuts(self) -> bool:
        return self.cuts == "auto"

    def settings(self) -> dict[str, str]:
        """What says how results were made, apart from the parts of the videos, which are part of what they are."""
        return {"cuts": self.cuts if self.cuts in ("auto", "off") else "told"}

    def find(self, inputs: list[str], frame_rate: float | None) -> Found:
        """All videos of the command. Raises `InputError`."""
        self._shard()
        rate = Fraction(frame_rate).limit_denominator(1001) if frame_rate else None
        return find_videos(inputs, frame_rate=rate, raw=self._raw(inputs))

    def share(self, found: Found) -> list[Video]:
        """Of all videos every N-th, from the I-th on, and the part that is wanted of each.

        Who takes what follows from the names alone, so machines need not know of each other. What was passed over or
        could not be opened is the first one's to tell. A video without the part is a failure of its own.
        """
        number, machines = self._shard()
        if number:
            found.notes.clear()
            found.failures.clear()
        cuts = self._cuts(found.videos)
        part = Part(self.start, self.end, cuts)
        parts, failures = [], []
        for video in found.videos[number::machines]:
            try:
                parts.append(part.of(video))
            except InputError as error:
                failures.append(str(error))
        if failures and not parts and len(found.videos) == len(failures):
            raise InputError(failures[0])
        found.failures += failures
        return parts

    def _shard(self) -> tuple[int, int]:
        match = re.fullmatch(r"(\d+)/(\d+)", self.shard or "0/1")
        number, machines = map(int, match.groups()) if match else (0, 0)
        if number >= machines:
            raise InputError(
                f"--shard {self.shard}: expected I/N, number I of N machines counted from 0, such as 0/4 to 3/4"
            )
        return number, machines

    def _raw(self, inputs: list[str]) -> RawPictures | None:
        if self.raw_rate is None:
            return None
        if "-" not in inputs:
            raise InputError(f"--rate {self.raw_rate:g}: is of raw pictures on standard input, but no input is '-'")
        match = re.fullmatch(r"(\d+)x(\d+)", self.raw_size or "")
        if not match:
            given = f"--size {self.raw_size}" if self.raw_size else "no --size"
            raise InputError(
                f"{given}: raw pictures on standard input need their size, WIDTHxHEIGHT, such as --size 1280x720; "
                "the network's is --network-size"
            )
        return RawPictures((int(match[2]), int(match[1])), Fraction(self.raw_rate).limit_denominator(1001))

    def _cuts(self, videos: list[Video]) -> tuple[str, ...] | None:
        if self.cuts in ("auto", "off"):
            return None
        if not Path(self.cuts).is_file():
            raise InputError(f"--cuts {self.cuts}: is no file, expected auto, off, or a file with a cut a line")
        if len(videos) > 1:
            raise InputError(
                f"--cuts {self.cuts}: says where one video has its cuts, but there are {len(videos)}; "
                "segment them one by one"
            )
        return read_cuts(self.cuts)
