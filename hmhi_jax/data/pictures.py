"""Pictures: frames, flow pictures and masks, of folders, packed data sets and files, read by one set of rules.

Which files are pictures is said by their suffix, whatever its case, and their order by the numbers in their names:
frame2 comes before frame10. A picture is seen upright: EXIF's orientation is applied to its pixels and to its size,
wherever it comes from and whatever it shows.
"""

import contextlib
import io
import itertools
import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import cv2
import numpy as np
import simplejpeg
from jaxtyping import Shaped, UInt8
from PIL import Image, UnidentifiedImageError

from hmhi_jax.complete_files import refuse_special
from hmhi_jax.data.preprocessing import resize_picture
from hmhi_jax.errors import InputError

warnings.filterwarnings("ignore", "Corrupt EXIF data|Truncated File Read", module="PIL")  # of files that are cut off

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
# What a file may be, whatever its name (MPO is among JPEG): other readers of Pillow run programs (EPS) or follow paths.
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "PPM", "GIF")
MOST_PIXELS = 2**26  # of one picture: twice 8K video

PICTURE_READINGS = ("exact", "fast")
"""How pictures are brought to training size.

exact: decoded whole, resized with Pillow's bilinear filter as at inference.
fast: JPEG pictures of at least twice the size are decoded at 1/2, 1/4 or 1/8, and what remains is averaged over areas.
Pixels differ by one or two levels of 255 on average; docs/data.md has what it gains.
"""

_ORIENTATION = 0x0112  # EXIF tag
_SUBFILE_TYPE = 254  # TIFF tag; an odd value: a preview of another page
_CAN_BE_ANIMATED = (".png", ".webp", ".tif", ".tiff")
_END = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND"}  # stands near the end of a file that is whole


class PictureError(InputError):
    """One picture cannot be read; the message begins with where it is."""


@runtime_checkable
class Picture(Protocol):
    """Where an encoded picture is: a `Path`, or a record of a packed data set. Names itself with `str()`."""

    def read_bytes(self) -> bytes: ...


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


def is_picture(file: str | Path) -> bool:
    """Whether a file's name says that it is a picture; hidden files, such as a Mac's `._a.jpg`, are none."""
    name = os.path.basename(file)
    return os.path.splitext(name)[1].lower() in PICTURE_SUFFIXES and not name.startswith(".")


class Turn(NamedTuple):
    """What shows a picture as it is meant to be seen: rows and columns change places, then it is turned upside down,
    then left to right."""

    swapped: bool = False
    up: bool = False
    left: bool = False

    def pixels(self, stored: Shaped[np.ndarray, "H W *channels"]) -> Shaped[np.ndarray, "h w *channels"]:
        """The pixels to be seen, contiguous where they are moved."""
        if not any(self):
            return stored
        rows_and_columns = stored.swapaxes(0, 1) if self.swapped else stored
        return np.ascontiguousarray(rows_and_columns[:: -1 if self.up else 1, :: -1 if self.left else 1])

    def size(self, stored: tuple[int, int]) -> tuple[int, int]:
        """The size (height, width) to be seen, of a stored one; and the other way round."""
        return stored[::-1] if self.swapped else stored


_TURNS = {  # by EXIF's orientation
    2: Turn(left=True),
    3: Turn(up=True, left=True),
    4: Turn(up=True),
    5: Turn(swapped=True),
    6: Turn(swapped=True, left=True),
    7: Turn(swapped=True, up=True, left=True),
    8: Turn(swapped=True, up=True),
}


def read_picture(
    picture: Picture, size: tuple[int, int] | None = None, reading: str = "exact", window: Window | None = None
) -> UInt8[np.ndarray, "H W 3"]:
    """A frame or a flow picture as 8-bit RGB, cut to `window` and resized to `size` = (height, width) when given.

    16-bit pictures keep their upper 8 bits. Raises PictureError when it is missing, truncated, too large, no picture,
    or one of 32 bits.
    """
    data = read_bytes(picture)
    with _decoding(picture, data):
        image, turn = _open(picture, io.BytesIO(data))
        _refuse_32_bits(picture, image)
        whole = reading == "exact" or size is None or window is not None
        pixels = turn.pixels(_decode(data, image, None if whole else turn.size(size)))
    if window is not None:
        pixels = pixels[window.pixels(*pixels.shape[:2])]
    if size is None or pixels.shape[:2] == size:
        return np.ascontiguousarray(pixels)
    if reading == "fast":
        return cv2.resize(np.ascontiguousarray(pixels), size[::-1], interpolation=cv2.INTER_AREA)
    return resize_picture(pixels, size)


def read_pictures(picture: Picture) -> Iterator[tuple[UInt8[np.ndarray, "H W 3"], float | None]]:
    """All pictures of a file that holds several (animated WebP, PNG and GIF, TIFF with pages), each with how many
    milliseconds it is shown, where the file says so.

    A TIFF's previews of its pages are left out, as is a picture that an animated PNG keeps for those who cannot show
    it. Raises PictureError, of a file that is cut off after all pictures that are whole.
    """
    data = read_bytes(picture)
    whole = _up_to_its_end(data)
    with _decoding(picture, data), io.BytesIO(whole) as file:
        image, turn = _open(picture, file)
        for _ in _each(image):
            image.load()
            yield turn.pixels(_rgb(image)), image.info.get("duration")
        trailer = data[file.tell() - 1 : file.tell()]  # the last that was read
    if whole is not data or (image.format == "GIF" and trailer != b";"):
        raise PictureError(f"{picture}: is cut off after {len(data)} bytes; replace it")


def is_animated(picture: Path) -> bool:
    """Whether a file holds more pictures than the one that `read_picture` reads, by its header."""
    if not str(picture).lower().endswith(_CAN_BE_ANIMATED):
        return False
    with _reading(picture), picture.open("rb") as file:
        begin = file.read(12)
        file.seek(0)
        with _decoding(picture, begin):
            data = file.read() if begin[:4] == b"RIFF" else b""
            whole = _up_to_its_end(data)
            pictures = _each(_open(picture, io.BytesIO(whole) if data else file)[0])
            next(pictures, None)
            try:
                return whole is not data or next(pictures, None) is not None
            except Exception:  # there is one, which is damaged
                return True


def _each(image: Image.Image) -> Iterator[int]:
    """Go from picture to picture of a file that may hold several."""
    first, uncounted = int(getattr(image, "default_image", False)), image.format in ("TIFF", "GIF")
    for number in itertools.count() if uncounted else range(first, getattr(image, "n_frames", 1)):
        try:
            image.seek(number)
        except EOFError:
            if uncounted:  # how many there are is known at the last one
                return
            raise
        if image.format != "TIFF" or not image.tag_v2.get(_SUBFILE_TYPE, 0) & 1:
            yield number


def _webp_chunks(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Name and end of each part of a WebP file that is there whole."""
    begin = 12
    while begin + 8 <= len(data):
        length = int.from_bytes(data[begin + 4 : begin + 8], "little")
        end = begin + 8 + length + length % 2
        if end > len(data):
            return
        yield data[begin : begin + 4], end
        begin = end


def _up_to_its_end(data: bytes) -> bytes:
    """A WebP that is cut off, which no decoder reads, up to the end of its last whole part; anything else as it is."""
    if data[:4] != b"RIFF" or len(data) >= 8 + int.from_bytes(data[4:8], "little"):
        return data
    end = max((end for _, end in _webp_chunks(data)), default=12)
    return data[:4] + (end - 8).to_bytes(4, "little") + data[8:end]


def open_picture(picture: Picture) -> Image.Image:
    """A picture decoded and upright, with the mode and the `format` of its file: what masks are understood from. Its
    `info` says whether it is "lossy", so that compression has left traces.

    Raises PictureError when it is missing, truncated, too large or no picture.
    """
    data = read_bytes(picture)
    with _decoding(picture, data):
        image, turn = _open(picture, io.BytesIO(data))
        file_format = image.format
        if file_format == "PNG":  # `load` does not look at checksums
            Image.open(io.BytesIO(data), formats=_FORMATS).verify()
        image.load()
    image.info["lossy"] = (
        file_format in ("JPEG", "MPO")
        or (file_format == "WEBP" and any(name == b"VP8 " for name, _ in _webp_chunks(data)))
        or image.info.get("compression") == "jpeg"  # of TIFF
    )
    transposes = Image.Transpose.TRANSPOSE, Image.Transpose.FLIP_TOP_BOTTOM, Image.Transpose.FLIP_LEFT_RIGHT
    for transpose in itertools.compress(transposes, turn):
        image = image.transpose(transpose)
    image.format = file_format
    return image


def picture_size(picture: Picture, *, ends: bool = True, mask: bool = False) -> tuple[int, int]:
    """(height, width) of a picture as it is meant to be seen, from its header. Raises PictureError.

    Args:
        ends: whether a file that lacks its end is refused; no more than its two ends are read.
        mask: whether it is a mask, which may have 32 bits; frames must not.
    """
    with (
        _reading(picture),
        picture.open("rb") if isinstance(picture, Path) else io.BytesIO(read_bytes(picture)) as file,
    ):
        begin = file.read(12)
        if not begin:
            raise PictureError(f"{picture}: is empty; replace it")
        file.seek(0)
        with _decoding(picture, begin):
            image, turn = _open(picture, file)
            if not mask:
                _refuse_32_bits(picture, image)
            if ends and _END.get(image.format or "", b"") not in _last_bytes(file):
                raise PictureError(f"{picture}: is cut off after {file.tell()} bytes; replace it")
            return turn.size(image.size[::-1])


def _last_bytes(file: io.BufferedIOBase) -> bytes:
    """The last 4 KiB, without zeros, which an interrupted copy or a full disk leaves; some cameras append a little of
    their own to what belongs there."""
    file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
    return file.read().rstrip(b"\0")


def encode_picture(pixels: UInt8[np.ndarray, "H W 3"], quality: int, codec: str = "jpeg") -> bytes:
    """RGB as the bytes of a file: PNG if `quality` is 0, else "webp" or "jpeg" (colours not subsampled) of it."""
    suffix, options = ".png", []
    if quality and codec == "webp":
        suffix, options = ".webp", [cv2.IMWRITE_WEBP_QUALITY, quality]
    elif quality:
        suffix, options = ".jpg", [cv2.IMWRITE_JPEG_QUALITY, quality]
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    return cv2.imencode(suffix, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)[1].tobytes()


@contextlib.contextmanager
def _reading(picture: Picture) -> Iterator[None]:
    if isinstance(picture, Path):
        refuse_special(picture, PictureError)
    try:
        yield
    except FileNotFoundError:
        raise PictureError(f"{picture}: not found") from None
    except OSError as error:
        raise PictureError(f"{picture}: cannot be read ({error.strerror or error})") from error


def read_bytes(picture: Picture) -> bytes:
    """A picture as it is stored. Raises PictureError when it is missing, empty or cannot be read."""
    with _reading(picture):
        data = picture.read_bytes()
    if not data:
        raise PictureError(f"{picture}: is empty; replace it")
    return data


@contextlib.contextmanager
def _decoding(picture: Picture, data: bytes) -> Iterator[None]:
    """Tell in one line what is wrong with the bytes of a picture."""
    try:
        yield
    except UnidentifiedImageError as error:
        raise PictureError(
            f"{picture}: is no picture (it begins with {data[:12]!r} and cannot be read as one); replace it"
        ) from error
    except Image.DecompressionBombError as error:
        raise PictureError(f"{picture}: is too large ({error}); scale it down first") from error
    except InputError:
        raise
    except Exception as error:  # decoders that meet damage raise whatever there is
        raise PictureError(f"{picture}: is damaged ({error}); replace it") from error


def _open(picture: Picture, file: io.BufferedIOBase) -> tuple[Image.Image, Turn]:
    """The header, nothing is decoded yet; and what shows the picture upright, by what stands before its pixels, which
    for a PNG is where eXIf belongs."""
    image = Image.open(file, formats=_FORMATS)
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise PictureError(
            f"{picture}: is {width} x {height} pixels, expected at most {MOST_PIXELS >> 20} megapixels; "
            "scale it down first"
        )
    if image.format == "TIFF" or getattr(picture, "as_stored", False):  # Pillow turns TIFF itself, size and pixels
        return image, Turn()
    # A PNG's own `getexif` decodes the picture first, to look for one behind the pixels.
    return image, _TURNS.get(Image.Image.getexif(image).get(_ORIENTATION), Turn())


def _refuse_32_bits(picture: Picture, image: Image.Image) -> None:
    if image.mode in ("I", "F") and image.format != "PPM":  # nothing says which values are black and white
        raise PictureError(f"{picture}: has 32 bits a pixel (mode {image.mode}), expected 8 or 16; save it with 8")


def _decode(data: bytes, image: Image.Image, size: tuple[int, int] | None) -> UInt8[np.ndarray, "H W 3"]:
    """The pixels as stored, by the fastest decoder that gives Pillow's; a JPEG may be decoded smaller, see `size`."""
    if image.format in ("JPEG", "MPO") and image.mode in ("L", "RGB"):
        return _decode_jpeg(data, size)
    still_webp = image.format == "WEBP" and not image.is_animated
    if still_webp or (image.format == "PNG" and _END["PNG"] in data[-4096:]):
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
        if pixels is not None:
            return pixels
        image.verify()  # says what is wrong, which OpenCV does not
        raise ValueError("cannot be decoded")
    return _rgb(image)


def _rgb(image: Image.Image) -> UInt8[np.ndarray, "H W 3"]:
    if image.mode.startswith("I"):  # of 16 bits; Pillow scales what a PGM file calls white to 65,535
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return np.asarray(image.convert("RGB"))


def _decode_jpeg(data: bytes, size: tuple[int, int] | None) -> UInt8[np.ndarray, "H W 3"]:
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
            return np.asarray(Image.open(io.BytesIO(data), formats=_FORMATS).convert("RGB"))
        raise


def natural_key(name: str) -> tuple:
    """Sort key under which `frame2` comes before `frame10`."""
    return tuple((int(part), "") if i % 2 else (-1, part) for i, part in enumerate(re.split(r"(\d+)", name))), name


def natural_order(path: Path) -> tuple:
    """Sort key of a file: its name without suffix, capitals or not."""
    return natural_key(path.stem.lower()), path.name


def last_number(stem: str) -> int | None:
    """The last number in a name: 12 of `dog_00012_gt` and of `00012`."""
    numbers = re.findall(r"\d+", stem)
    return int(numbers[-1]) if numbers else None


def halved(picture: UInt8[np.ndarray, "H W 3"], least: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
    """A picture at half its size, again and again, as long as it stays at least (height, width); the fast first part of
    making it much smaller."""
    picture = np.ascontiguousarray(picture)
    while picture.shape[0] >= 2 * least[0] and picture.shape[1] >= 2 * least[1]:
        half = picture.shape[1] // 2, picture.shape[0] // 2
        picture = cv2.resize(picture, half, interpolation=cv2.INTER_AREA)
    return picture
