"""From encoded pictures of a data set, in a folder or packed, to the arrays a clip is made of."""

import io
import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from hmhi_jax.data.packing import PackedPicture
from hmhi_jax.errors import InputError

Picture = Path | PackedPicture
"""Where an encoded picture is: both kinds have `read_bytes()` and name themselves with `str()`."""

READINGS = ("exact", "fast")
"""How pictures are brought to training size.

exact: decoded whole, resized with Pillow's bilinear filter as at inference.
fast: JPEG pictures of at least twice the size are decoded at 1/2, 1/4 or 1/8, and what remains is averaged over areas.
Pixels differ by one or two levels of 255 on average; docs/data.md has what it gains.
"""

_FLAGS = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION  # masks are never turned, so frames must not be
_VOID_COLOUR = (224, 224, 192)  # of label 255 in the palette of PASCAL VOC and DAVIS
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

    - Palette pictures: every label but 0 is foreground; label 255 is not where the palette marks it as void.
    - Grey pictures of 8 or 16 bits: the upper half of the type's range is foreground; where nothing reaches it, the
      values are labels and all but 0 are. JPEG pictures are never labels.
    - Colour pictures: all but black is foreground; all but white in PPM files (FBMS), and where there is white but no
      black.

    Raises PictureError when it is missing, truncated or no picture.
    """
    data = _bytes(picture)
    try:
        if data.startswith(_PNG):  # `load` does not look at checksums
            Image.open(io.BytesIO(data)).verify()
        image = Image.open(io.BytesIO(data))
        image.load()
    except (OSError, SyntaxError, ValueError) as error:  # Pillow raises all three for damaged files
        raise PictureError(f"{picture}: {_complaint(data, str(error))}; replace it") from error
    mask = _foreground(image)
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


def _foreground(image: Image.Image) -> UInt8[np.ndarray, "H W"]:
    if image.mode == "P":
        labels = np.asarray(image)
        palette = image.getpalette("RGB") or []
        colours = [tuple(palette[i : i + 3]) for i in range(0, len(palette), 3)]
        background = 0
        if colours and colours[0] == (255, 255, 255) and (0, 0, 0) in colours:  # a black and white picture, re-encoded
            background = colours.index((0, 0, 0))
        mask = labels != background
        if len(colours) > 255 and colours[255] == _VOID_COLOUR:
            mask &= labels != 255
        return mask.view(np.uint8)
    if image.mode == "1":
        return (np.asarray(image.convert("L")) > 127).view(np.uint8)
    if image.mode in ("RGBA", "LA", "PA"):
        image = image.convert("L" if image.mode == "LA" else "RGB")
    if image.format == "JPEG":
        return (np.asarray(image.convert("L")) > 127).view(np.uint8)
    if image.mode in ("RGB", "RGBX"):
        pixels = np.asarray(image)[..., :3]
        if image.format != "PPM" and (pixels == pixels[..., :1]).all():
            return _by_level(pixels[..., 0], 128)
        black, white = (pixels == 0).all(-1), (pixels == 255).all(-1)
        inverted = image.format == "PPM" or (white.any() and not black.any())
        return (~(white if inverted else black)).view(np.uint8)
    levels = np.asarray(image)
    if levels.dtype.kind == "f":
        return (levels > 0.5 * max(1.0, float(levels.max()))).view(np.uint8)
    return _by_level(levels, 128 if levels.dtype == np.uint8 else 32768)


def _by_level(levels: np.ndarray, half: int) -> UInt8[np.ndarray, "H W"]:
    return (levels >= half if int(levels.max()) >= half else levels > 0).view(np.uint8)
