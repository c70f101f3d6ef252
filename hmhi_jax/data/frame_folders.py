"""A video as a folder of picture files, one per frame."""

import collections
import os
import struct
import warnings
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from hmhi_jax.data.natural_order import natural_order
from hmhi_jax.data.video import PICTURE_SUFFIXES, Frame, Video, check_size, files_fingerprint
from hmhi_jax.errors import InputError

DEFAULT_FRAME_RATE = Fraction(24)
_ORIENTATION = 0x0112  # EXIF tag
_TURNS = {  # what shows a picture of an orientation upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,  # from here on height and width change places
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class FrameFolder(Video):
    """Pictures in natural order of their names (frame2 before frame10). Opening it reads their headers only."""

    def __init__(
        self, folder: str | Path, frame_rate: Fraction | None = None, pictures: Sequence[Path] | None = None
    ) -> None:
        """`pictures` chooses some of the folder's files; by default all with a picture's suffix."""
        folder = Path(folder)
        if pictures is None:
            pictures = [p for p in folder.iterdir() if p.suffix.lower() in PICTURE_SUFFIXES and p.name[0] != "."]
        self._files = sorted(pictures, key=natural_order)
        if not self._files:
            raise InputError(f"{folder}: the folder holds no frames ({', '.join(PICTURE_SUFFIXES)})")
        self.path = str(folder)
        self.name = folder.resolve().name
        self.frame_rate = frame_rate or DEFAULT_FRAME_RATE
        self.frame_count = len(self._files)
        self.notes = []
        self._names = [path.stem for path in self._files]
        if len(set(self._names)) < len(self._names):
            twice = collections.Counter(self._names).most_common(1)[0][0]
            others = ", ".join(path.name for path in self._files if path.stem == twice)
            raise InputError(f"{folder}: {others} would get the same mask name, expected one picture per frame name")
        self.size = picture_size(self._files[0])
        check_size(self.size, str(self._files[0]))
        height, width = self.size
        for path in self._files[1:]:
            if (size := picture_size(path)) != self.size:
                raise InputError(
                    f"{path} is {size[1]} x {size[0]} pixels but {self._files[0].name} is {width} x {height}, "
                    "expected frames of one size; resize them, or segment them as two videos"
                )

    def frames(self, start: int = 0) -> Iterator[Frame]:
        for index in range(start, len(self._files)):
            picture = read_picture(self._files[index])
            if picture.shape[:2] != self.size:
                raise InputError(f"{self._files[index]}: changed its size while it was being read")
            yield Frame(index, self._names[index], picture)

    def frame_names(self) -> Sequence[str]:
        return self._names

    def fingerprint(self) -> dict[str, Any]:
        files = files_fingerprint(self._files)
        return {"path": os.path.abspath(self.path), "frames": len(self._files), "files": files}


def picture_size(path: Path) -> tuple[int, int]:
    """(height, width) of a picture file as it is meant to be seen, from its header.

    Raises `InputError` for a file that is no picture, or one of 32 bits.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `check_size` says it better
        image = _open(path)
    with image:
        width, height = image.size
        return (width, height) if _orientation(image, path) >= 5 else (height, width)


def read_picture(path: Path) -> UInt8[np.ndarray, "H W 3"]:
    """A picture file as 8-bit RGB, turned as its EXIF orientation says; 16-bit grey keeps its upper 8 bits.

    Raises `InputError` for a file that is damaged or no picture, or one of 32 bits.
    """
    with _open(path) as image:
        orientation = _orientation(image, path)
        try:
            upright = image if orientation == 1 else image.transpose(_TURNS[orientation])
            if upright.mode.startswith("I;16"):
                upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
            return np.asarray(upright.convert("RGB"))
        except (OSError, SyntaxError, ValueError) as error:
            raise InputError(f"{path}: the picture is damaged ({error}); replace it") from error


def _orientation(image: Image.Image, path: Path) -> int:
    """From what stands before the pixels, which for a PNG is where eXIf belongs."""
    if image.format == "TIFF":  # Pillow turns these itself, size and pixels
        return 1
    try:
        # A PNG's own `getexif` decodes the picture first, to look for one behind the pixels.
        found = Image.Image.getexif(image).get(_ORIENTATION)
    except (OSError, SyntaxError, ValueError, struct.error) as error:
        raise InputError(f"{path}: the picture is damaged ({error}); replace it") from error
    return found if found in _TURNS else 1


def _open(path: Path) -> Image.Image:
    try:
        image = Image.open(path)
    except UnidentifiedImageError as error:
        raise InputError(f"{path}: is no picture, though its name says so; remove or replace it") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"{path}: {error}; scale it down first") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    if image.mode in ("I", "F"):  # nothing says which values are black and white
        image.close()
        raise InputError(f"{path}: has 32 bits a pixel (mode {image.mode}), expected 8 or 16; save it with 8")
    return image
