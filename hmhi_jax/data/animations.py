"""A video as one picture file that holds several pictures: animated WebP and PNG, TIFF with pages."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

from hmhi_jax.data.frame_folders import DEFAULT_FRAME_RATE
from hmhi_jax.data.pictures import read_pictures
from hmhi_jax.data.video import FileVideo, Frame, check_same_size, check_size

_NO_TIME = Fraction(1, 10)  # seconds that browsers show a picture for which a file says 0


class AnimatedPicture(FileVideo):
    """The pictures of a file, as many a second as it says on average; pages of a TIFF have no times."""

    def __init__(self, path: str | Path, frame_rate: Fraction | None = None) -> None:
        """Decodes all pictures once. `frame_rate` is for pages (default 24)."""
        super().__init__(path)
        sizes, durations = [], []
        for picture, milliseconds in read_pictures(Path(path)):
            sizes.append(picture.shape[:2])
            durations.append(Fraction(milliseconds or 0) / 1000)
        self.size, self.frame_count = sizes[0], len(sizes)
        check_size(self.size, self.path)
        for number, size in enumerate(sizes):
            what = f"{self.path}: picture {number}"
            check_same_size(size, what, self.size, "the first", "save them as files of their own")
        self._durations = [duration or _NO_TIME for duration in durations]
        seconds = sum(self._durations) if any(durations) else 0
        self.time_base = Fraction(1, 1000) if seconds else None
        self.frame_rate = (
            Fraction(len(sizes) / seconds).limit_denominator(1001) if seconds else frame_rate or DEFAULT_FRAME_RATE
        )

    def frames(self, start: int = 0) -> Iterator[Frame]:
        time = Fraction(0)
        for index, ((picture, _), duration) in enumerate(zip(read_pictures(Path(self.path)), self._durations)):  # noqa: B905
            if index >= start:
                shown = (time, duration) if self.time_base else (None, None)
                yield Frame(index, f"{index:05d}", picture, *shown)
            time += duration
