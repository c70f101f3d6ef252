"""A video as pictures: a folder of files, one per frame; or one file that holds several (animated WebP, PNG and GIF,
TIFF with pages)."""

import collections
import itertools
import os
import warnings
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from PIL import Image

from hmhi_jax.data.ffmpeg import cut_off_note
from hmhi_jax.data.pictures import (
    PICTURE_SUFFIXES,
    PictureError,
    is_animated,
    is_picture,
    natural_order,
    picture_size,
    read_picture,
    read_pictures,
)
from hmhi_jax.data.records import FolderPictures
from hmhi_jax.data.video import FileVideo, Frame, Video, check_same_size, check_size, files_fingerprint
from hmhi_jax.errors import InputError, first_of

DEFAULT_FRAME_RATE = Fraction(24)
_TOO_SHORT, _NO_TIME = 10, Fraction(1, 10)  # a picture of so few milliseconds is shown so many seconds by browsers


class FrameFolder(Video):
    """Pictures in natural order of their names (frame2 before frame10). Opening it reads their headers only."""

    def __init__(
        self, folder: str | Path, frame_rate: Fraction | None = None, pictures: Sequence[Path] | None = None
    ) -> None:
        """`pictures` chooses some of the folder's files; by default all with a picture's suffix."""
        folder = Path(folder)
        if pictures is None:
            pictures = [path for path in folder.iterdir() if is_picture(path)]
        names = [path.name for path in sorted(pictures, key=natural_order)]
        if not names:
            raise InputError(f"{folder}: the folder holds no frames ({', '.join(PICTURE_SUFFIXES)})")
        self.path = str(folder)
        self.name = folder.resolve().name
        self.frame_rate = frame_rate or DEFAULT_FRAME_RATE
        self.frame_count = len(names)
        self.notes = []
        self._pictures = FolderPictures(str(folder), tuple(names))
        self._names = [os.path.splitext(name)[0] for name in names]
        if len(set(self._names)) < len(self._names):
            twice = collections.Counter(self._names).most_common(1)[0][0]
            others = ", ".join(name for name in names if os.path.splitext(name)[0] == twice)
            raise InputError(f"{folder}: {others} would get the same mask name, expected one picture per frame name")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # such a picture is refused anyway
            sizes = [picture_size(picture, ends=False) for picture in self._pictures]
        self.size = sizes[0]
        check_size(self.size, str(self._pictures[0]))
        for picture, size in zip(self._pictures, sizes, strict=True):
            check_same_size(size, str(picture), self.size, names[0], "resize them, or segment them as two videos")

        more = [picture.name for picture in self._pictures if is_animated(picture)]
        if more:
            self.notes.append(
                f"{folder}: of {first_of(more)} only the first picture is read; name such a file alone to read all"
            )

    def frames(self, start: int = 0) -> Iterator[Frame]:
        for index in range(start, len(self._pictures)):
            picture = read_picture(self._pictures[index])
            if picture.shape[:2] != self.size:
                raise InputError(f"{self._pictures[index]}: changed its size while it was being read")
            yield Frame(index, self._names[index], picture)

    def frame_names(self) -> Sequence[str]:
        return self._names

    def frame_files(self) -> Sequence[str]:
        return [os.path.basename(str(picture)) for picture in self._pictures]

    def fingerprint(self) -> dict[str, Any]:
        files = files_fingerprint(self._pictures)
        return {"path": os.path.abspath(self.path), "frames": len(self._pictures), "files": files}


class AnimatedPicture(FileVideo):
    """The pictures of a file, as many a second as it says on average; pages of a TIFF have no times."""

    def __init__(self, path: str | Path, frame_rate: Fraction | None = None) -> None:
        """Decodes all pictures once. `frame_rate` is for pages (default 24)."""
        super().__init__(path)
        sizes, times = [], []
        try:
            for picture, milliseconds in read_pictures(Path(path)):
                sizes.append(picture.shape[:2])
                times.append(milliseconds)
        except PictureError:
            if not sizes:
                raise
            self.notes.append(cut_off_note(self.path, len(sizes)))
        self.size, self.frame_count = sizes[0], len(sizes)
        check_size(self.size, self.path)
        for number, size in enumerate(sizes):
            what = f"{self.path}: picture {number}"
            check_same_size(size, what, self.size, "the first", "save them as files of their own")
        self._durations = [Fraction(time) / 1000 if time and time > _TOO_SHORT else _NO_TIME for time in times]
        seconds = 0 if set(times) == {None} else sum(self._durations)
        self.time_base = Fraction(1, 1000) if seconds else None
        self.frame_rate = (
            Fraction(len(sizes) / seconds).limit_denominator(1001) if seconds else frame_rate or DEFAULT_FRAME_RATE
        )

    def frame_at(self, seconds: Fraction) -> int:
        if self.time_base is None:
            return super().frame_at(seconds)
        return sum(time + self.time_base <= seconds for time in itertools.accumulate([0, *self._durations[:-1]]))

    def frames(self, start: int = 0) -> Iterator[Frame]:
        time = Fraction(0)
        pictures = zip(self._durations, read_pictures(Path(self.path)), strict=False)  # no further than those
        for index, (duration, (picture, _)) in enumerate(pictures):
            if index >= start:
                shown = (time, duration) if self.time_base else (None, None)
                yield Frame(index, f"{index:05d}", picture, *shown)
            time += duration
