"""From picture files to masks: readings of predictions, and every way in which ground truth is stored."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, UnidentifiedImageError

from hmhi_jax.errors import InputError

Reading = Literal["release", "plain"]
VoidLabel = int | None | Literal["auto"]

READINGS: dict[str, str] = {
    "plain": (
        "The file's 8-bit values as they are; foreground is above 128. This is what the release's scoring code does to "
        "the files it is given, and the honest reading of a probability map."
    ),
    "release": (
        "Each frame is stretched to 0..255 between its smallest and largest value, then foreground is above 128. The "
        "release does this when it saves a prediction, so a frame without any object is stretched to full contrast as "
        "well. A file that spans 0..255 already is unchanged."
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


def _open(path: Path) -> Image.Image:
    try:
        picture = Image.open(path)
        picture.load()
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        raise InputError(f"{path}: not a readable picture ({error}); save it again as PNG") from error
    return picture


def _is_grey_ramp(picture: Image.Image) -> bool:
    """Whether a palette picture is an ordinary grey one in disguise: entry i is the grey level i."""
    palette = picture.getpalette("RGB") or []
    return len(palette) > 6 and all(value == i // 3 for i, value in enumerate(palette))


def read_prediction(path: Path) -> UInt8[np.ndarray, "H W"]:
    """A prediction's file as 8-bit values.

    8-bit grey is taken as it is, colour is turned into grey, 16-bit grey is scaled to 8 bits, floats in 0..1 times
    255. Label pictures (a palette, or 16 bits with no value above 255) and 1-bit pictures become 0 and 255.

    Raises:
        InputError: the file is no picture.
    """
    picture = _open(path)
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


def read_truth(path: Path, void_label: VoidLabel = "auto") -> Truth:
    """Ground truth of one frame from a grey, palette, 1-bit, 16-bit or colour picture.

    In label pictures (a palette, 16 bits with no value above 255, or 8 bits with no value above 127) every label but
    0 is object: objects are merged. In colour pictures everything but black is.

    Args:
        path: the picture. void_label: the value of pixels that do not count; "auto" is 255 in palette pictures, as in
        DAVIS, and none elsewhere.

    Raises:
        InputError: the file is no picture.
    """
    picture = _open(path)
    if picture.mode == "P" and not _is_grey_ramp(picture):
        labels, is_label = np.asarray(picture), True
        void_label = 255 if void_label == "auto" else void_label
    elif picture.mode == "1":
        labels, is_label = np.asarray(picture, np.uint8), True
    elif picture.mode in ("L", "P"):
        labels = np.asarray(picture)
        is_label = None
    elif picture.mode.startswith("I"):
        labels = np.asarray(picture).astype(np.int64)
        is_label = bool(labels.max() <= 255)
    else:
        labels, is_label = np.asarray(picture.convert("RGB")).max(axis=2), False
    void = None
    if isinstance(void_label, int):
        void = labels == void_label
        labels = np.where(void, labels.dtype.type(0), labels)
        void = void if void.any() else None
    if is_label is None:
        is_label = bool(labels.max() < 128)
    if is_label:
        grey = (labels > 0).view(np.uint8) * np.uint8(255)
    elif labels.dtype == np.uint8:
        grey = labels
    else:  # 16 bits; the smallest value above 0 must stay above 0
        grey = np.clip((labels + 256) // 257, 0, 255).astype(np.uint8)
    return Truth(grey, void)


def read_as(prediction: UInt8[np.ndarray, "H W"], reading: Reading) -> UInt8[np.ndarray, "H W"]:
    """Apply a reading (see `READINGS`) to a prediction's 8-bit values; a constant frame becomes 0 under `release`."""
    if reading == "plain":
        return prediction
    low, high = int(prediction.min()), int(prediction.max())
    if (low, high) == (0, 255):
        return prediction
    # A table of 256 exact integers: no rounding can change a file that is stretched already.
    levels = (np.clip(np.arange(256) - low, 0, high - low) * 255) // max(high - low, 1)
    return levels.astype(np.uint8)[prediction]


def resize_prediction(prediction: UInt8[np.ndarray, "H W"], shape: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
    """Bring a prediction to the truth's (height, width): bilinear on the 8-bit values, half-pixel centres."""
    return cv2.resize(prediction, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)
