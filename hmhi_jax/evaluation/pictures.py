"""From picture files to masks: readings of predictions, and every way in which ground truth is stored."""

import io
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, UnidentifiedImageError

from hmhi_jax.errors import InputError

VoidLabel = int | None | Literal["auto"]

READINGS: dict[str, str] = {
    "plain": (
        "The file's 8-bit values as they are; foreground is above 128. This is what the release's scoring code does to "
        "the files it is given, and the honest reading of a probability map."
    ),
    "release": (
        "Each frame is stretched to 0..255 between its smallest and largest value, then foreground is above 128. The "
        "release does this when it saves a prediction, so a frame without any object is stretched to full contrast as "
        "well. A file that spans 0 to 254 or 255 already is left as it is."
    ),
}
"""What each reading of a prediction file does."""

FOREGROUND_ABOVE = 128
PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm", ".pbm"})


@dataclass(frozen=True)
class Truth:
    """Ground truth of one frame.

    `grey` is uint8 [H, W]: 0 background, 255 object, values between where the file has soft edges. UVOS takes what is
    above 0, as the release does, VSOD what is at least half. `void` is bool [H, W] or None: pixels that do not count.
    """

    grey: UInt8[np.ndarray, "H W"]
    void: Bool[np.ndarray, "H W"] | None


@runtime_checkable
class Encoded(Protocol):
    """Where an encoded picture is: a `Path`, or a record of a packed data set. Names itself with `str()`."""

    def read_bytes(self) -> bytes: ...


def _open(source: Encoded) -> Image.Image:
    try:
        picture = Image.open(io.BytesIO(source.read_bytes()))
        picture.load()
    except FileNotFoundError as error:
        raise InputError(f"{source}: there is no such file") from error
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        reason = "not a picture" if isinstance(error, UnidentifiedImageError) else error
        raise InputError(f"{source}: cannot be read as a picture ({reason}); save it again as PNG") from error
    return picture


def _is_grey_ramp(picture: Image.Image) -> bool:
    """Whether a palette picture is an ordinary grey one in disguise: entry i is the grey level i."""
    palette = picture.getpalette("RGB") or []
    return len(palette) > 6 and all(value == i // 3 for i, value in enumerate(palette))


def read_prediction(source: Encoded) -> UInt8[np.ndarray, "H W"]:
    """A prediction's file as 8-bit values.

    8-bit grey is taken as it is, colour is turned into grey, 16-bit grey is scaled to 8 bits, floats in 0..1 times
    255. Label pictures (a palette, or 16 bits with no value above 255) and 1-bit pictures become 0 and 255.

    Raises:
        InputError: the file is no picture.
    """
    picture = _open(source)
    if picture.mode == "L":
        return np.asarray(picture)
    if picture.mode == "1":
        return np.asarray(picture, np.uint8) * np.uint8(255)
    if picture.mode == "P" and not _is_grey_ramp(picture):
        return (np.asarray(picture) > 0).view(np.uint8) * np.uint8(255)
    if picture.mode.startswith("I"):
        values = np.asarray(picture).astype(np.int64)
        if values.max() <= 255:
            return (values > 0).view(np.uint8) * np.uint8(255)
        return np.clip(np.rint(values / 257), 0, 255).astype(np.uint8)
    if picture.mode == "F":
        return np.clip(np.rint(np.asarray(picture) * 255), 0, 255).astype(np.uint8)
    return np.asarray(picture.convert("L"))


def read_truth(source: Encoded, void_label: VoidLabel = "auto") -> Truth:
    """Ground truth of one frame, however it is stored; objects are merged.

    - Label pictures (a palette, 1 or 16 bits with no value above 255, or grey with no value above 127): all but 0 is
    object.
    - Grey pictures: the values as they are, 16 bits scaled to 8. JPEG pictures are cut at half, since compression
    leaves
      traces in the background.
    - Colour pictures: all but black is object; all but white in PPM files (FBMS) and where there is white but no black.

    Args:
        source: the picture's file.
        void_label: the value of pixels that do not count; "auto" is 255 in palette pictures, as in the DAVIS toolkit
            (unless their palette shows it white, which is how binary masks are stored), and none elsewhere.

    Raises:
        InputError: the file is no picture.
    """
    picture = _open(source)
    if picture.mode == "P" and not _is_grey_ramp(picture):
        labels, half = np.asarray(picture), None
        if void_label == "auto" and (picture.getpalette("RGB") or [])[765:] != [255, 255, 255]:
            void_label = 255
    elif picture.mode in ("1", "L", "P"):
        labels = np.asarray(picture, np.uint8)
        half = 128 if labels.max() >= 128 else None
    elif picture.mode.startswith("I"):
        labels = np.asarray(picture).astype(np.int64)
        half = 32768 if labels.max() > 255 else None
    else:
        pixels = np.asarray(picture.convert("RGB"))
        labels, half = _merge_colours(pixels, picture.format), 128
    void = None
    if isinstance(void_label, int):
        void = labels == void_label
        labels = np.where(void, labels.dtype.type(0), labels)
        void = void if void.any() else None
    if half is None:
        grey = (labels > 0).view(np.uint8) * np.uint8(255)
    elif picture.format == "JPEG":
        grey = (labels >= half).view(np.uint8) * np.uint8(255)
    elif half == 128:
        grey = labels
    else:  # 16 bits; what is above 0 must stay above 0
        grey = np.clip((labels + 256) // 257, 0, 255).astype(np.uint8)
    return Truth(grey, void)


def _merge_colours(pixels: UInt8[np.ndarray, "H W 3"], file_format: str | None) -> UInt8[np.ndarray, "H W"]:
    """A colour picture as grey: its value where it is grey anyway, else 255 where it is not background."""
    if file_format != "PPM" and (pixels == pixels[..., :1]).all():
        return pixels[..., 0].copy()
    black, white = (pixels == 0).all(axis=-1), (pixels == 255).all(axis=-1)
    inverted = file_format == "PPM" or (white.any() and not black.any())
    return (~(white if inverted else black)).view(np.uint8) * np.uint8(255)


def read_as(prediction: UInt8[np.ndarray, "H W"], reading: str) -> UInt8[np.ndarray, "H W"]:
    """Apply a reading (see `READINGS`) to a prediction's 8-bit values; a constant frame becomes 0 under `release`."""
    if reading == "plain":
        return prediction
    low, high = int(prediction.min()), int(prediction.max())
    # The release rounds down what it saves, so the brightest pixel of a frame it has stretched may be 254.
    if low == 0 and high >= 254:
        return prediction
    levels = (np.clip(np.arange(256) - low, 0, high - low) * 255) // max(high - low, 1)
    return levels.astype(np.uint8)[prediction]


def resize_prediction(prediction: UInt8[np.ndarray, "H W"], shape: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
    """Bring a prediction to the truth's (height, width): bilinear on the 8-bit values, half-pixel centres."""
    return cv2.resize(prediction, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)
