"""From encoded pictures of a data set, in a folder or packed, to the arrays a clip is made of."""

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import cv2
import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from hmhi_jax.data.masks import decode_mask
from hmhi_jax.errors import InputError


@runtime_checkable
class Picture(Protocol):
    """Where an encoded picture is: a `Path`, a record of a packed data set, a frame of a clip yet to be rendered. All
    name themselves with `str()`."""

    def read_bytes(self) -> bytes:
        """The picture's file, encoded. Raises OSError."""
        ...


READINGS = ("exact", "fast")
"""How pictures are brought to training size.

exact: decoded whole, resized with Pillow's bilinear filter as at inference.
fast: JPEG pictures of at least twice the size are decoded at 1/2, 1/4 or 1/8, and what remains is averaged over areas.
Pixels differ by one or two levels of 255 on average; docs/data.md has what it gains.
"""

_FLAGS = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION  # masks are never turned, so frames must not be
_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"


class PictureError(InputError):
    """One picture of a data set cannot be read; the message begins with where it is."""


@dataclass(frozen=True)
class Window:
    """The part of a picture that is used, as fractions of its height and width: 0 <= top < bottom <= 1."""

    top: float = 0.0
    left: float = 0.0
    bottom: float = 1.0
    right: float = 1.0

    def pixels(self, height: int, width: int) -> tuple[slice, slice]:
        """Rows and columns of a picture; at least one each."""
        rows, columns = (
            slice(start := min(round(low * extent), extent - 1), max(round(high * extent), start + 1))
            for low, high, extent in ((self.top, self.bottom, height), (self.left, self.right, width))
        )
        return rows, columns


def read_picture(
    picture: Picture, size: tuple[int, int] | None = None, reading: str = "exact", window: Window | None = None
) -> UInt8[np.ndarray, "H W 3"]:
    """A frame or a flow picture as 8-bit RGB, cut to `window` and resized to `size` = (height, width) when given.

    Raises PictureError when it is missing, truncated or no picture.
    """
    data = _bytes(picture)
    whole = reading == "exact" or size is None or window is not None
    try:
        pixels = _decode_jpeg(data, None if whole else size) if data.startswith(_JPEG) else _decode(data)
    except (cv2.error, ValueError) as error:
        raise PictureError(f"{picture}: {_complaint(data, str(error))}; replace it") from error
    if pixels is None:
        raise PictureError(f"{picture}: {_complaint(data, 'cannot be decoded')}; replace it")
    if window is not None:
        pixels = pixels[window.pixels(*pixels.shape[:2])]
    if size is None or pixels.shape[:2] == size:
        return np.ascontiguousarray(pixels)
    if reading == "fast":
        return cv2.resize(np.ascontiguousarray(pixels), size[::-1], interpolation=cv2.INTER_AREA)
    return np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR))


def read_mask(
    picture: Picture, size: tuple[int, int] | None = None, window: Window | None = None
) -> UInt8[np.ndarray, "H W 1"]:
    """A ground-truth mask as 0 and 1, all objects merged, cut to `window` and resized to `size` (nearest) when given.

    How files are understood is told by `decode_mask`; 1 is what is at least half an object, and void is 0.

    Raises PictureError when it is missing, truncated, too large or no picture.
    """
    data = _bytes(picture)
    try:
        if data.startswith(_PNG):  # `load` does not look at checksums
            Image.open(io.BytesIO(data)).verify()
        image = Image.open(io.BytesIO(data))
        image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what Pillow raises
        raise PictureError(f"{picture}: {_complaint(data, str(error))}; replace it") from error
    mask = decode_mask(image).foreground
    if window is not None:
        mask = mask[window.pixels(*mask.shape)]
    if size is not None and mask.shape != size:
        mask = np.asarray(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST))
    return mask[..., None]


def picture_size(picture: Picture) -> tuple[int, int]:
    """(height, width) from the header, also checking that the file's end is there. Raises PictureError.

    Of a file, only its two ends are read.
    """
    if not isinstance(picture, Path):
        return _check_ends(picture, io.BytesIO(_bytes(picture)))
    try:
        with picture.open("rb") as file:
            return _check_ends(picture, file)
    except FileNotFoundError:
        raise PictureError(f"{picture}: not found") from None
    except OSError as error:
        raise PictureError(f"{picture}: {error.strerror or error}") from error


def _check_ends(picture: Picture, file: io.BufferedIOBase) -> tuple[int, int]:
    begin = file.read(4096)
    if not begin:
        raise PictureError(f"{picture}: is empty; replace it")
    length = file.seek(0, os.SEEK_END)
    file.seek(max(0, length - 4096))
    # Zeros are what an interrupted copy or a full disk leaves; some cameras append a little of their own.
    end = file.read().rstrip(b"\0")
    file.seek(0)
    size = _size(picture, file, begin)
    if (begin.startswith(_JPEG) and b"\xff\xd9" not in end) or (begin.startswith(_PNG) and b"IEND" not in end):
        raise PictureError(f"{picture}: is cut off after {length} bytes; replace it")
    return size


def _bytes(picture: Picture) -> bytes:
    try:
        data = picture.read_bytes()
    except FileNotFoundError:
        raise PictureError(f"{picture}: not found") from None
    except OSError as error:
        raise PictureError(f"{picture}: {error.strerror or error}") from error
    if not data:
        raise PictureError(f"{picture}: is empty; replace it")
    return data


def _size(picture: Picture, file: io.BufferedIOBase, data: bytes) -> tuple[int, int]:
    try:
        width, height = Image.open(file).size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise PictureError(f"{picture}: {_complaint(data, str(error))}; replace it") from error
    return height, width


def _decode(data: bytes) -> UInt8[np.ndarray, "H W 3"] | None:
    return cv2.imdecode(np.frombuffer(data, np.uint8), _FLAGS)


def _decode_jpeg(data: bytes, size: tuple[int, int] | None) -> UInt8[np.ndarray, "H W 3"] | None:
    """Decode at 1/2, 1/4 or 1/8 when that still has at least `size` pixels (other fractions are slower than the whole).

    The pixels are Pillow's, from the same library; OpenCV would take twice as long for pictures with halved colours.
    """
    least = (0, 0)
    if size is not None:
        height, width = simplejpeg.decode_jpeg_header(data)[:2]
        parts = [n for n in (2, 4, 8) if height >= n * size[0] and width >= n * size[1]]
        least = (-(-height // parts[-1]), -(-width // parts[-1])) if parts else least
    try:
        return simplejpeg.decode_jpeg(data, min_height=least[0], min_width=least[1])
    except ValueError as error:
        if "extraneous bytes" in str(error):  # stray bytes between segments, as some cameras write: other readers shrug
            return _decode(data)
        raise


def _complaint(data: bytes, otherwise: str) -> str:
    """What is wrong with bytes that do not decode: in Pillow's words, which are the clearest, where it objects."""
    try:
        Image.open(io.BytesIO(data)).verify()
        Image.open(io.BytesIO(data)).load()
    except UnidentifiedImageError:
        return f"is no picture (it begins with {data[:12]!r})"
    except Exception as error:
        otherwise = str(error)
    return f"is damaged ({otherwise})"
