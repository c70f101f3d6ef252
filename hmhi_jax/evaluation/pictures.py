"""From picture files to masks: readings of predictions, and every way in which ground truth is stored."""

import cv2
import numpy as np
from jaxtyping import UInt8

from hmhi_jax.data.masks import Mask, VoidLabel, decode_mask, is_grey_ramp
from hmhi_jax.data.pictures import Picture, open_picture

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


def read_prediction(source: Picture) -> UInt8[np.ndarray, "H W"]:
    """A prediction's file as 8-bit values.

    8-bit grey is taken as it is, colour is turned into grey, 16-bit grey is scaled to 8 bits, floats in 0..1 times
    255. Label pictures (a palette, or 16 bits with no value above 255) and 1-bit pictures become 0 and 255.

    Raises:
        InputError: the file is no picture.
    """
    picture = open_picture(source)
    if picture.mode == "L":
        return np.asarray(picture)
    if picture.mode == "1":
        return np.asarray(picture, np.uint8) * np.uint8(255)
    if picture.mode == "P" and not is_grey_ramp(picture):
        return (np.asarray(picture) > 0).view(np.uint8) * np.uint8(255)
    if picture.mode.startswith("I"):
        values = np.asarray(picture).astype(np.int64)
        if values.max() <= 255:
            return (values > 0).view(np.uint8) * np.uint8(255)
        return np.clip(np.rint(values / 257), 0, 255).astype(np.uint8)
    if picture.mode == "F":
        return np.clip(np.rint(np.asarray(picture) * 255), 0, 255).astype(np.uint8)
    return np.asarray(picture.convert("L"))


def read_truth(source: Picture, void_label: VoidLabel = "auto") -> Mask:
    """Ground truth of one frame; `decode_mask` tells how files are understood and what `void_label` does.

    UVOS takes what is above 0 of its `grey`, as the release does, VSOD what is at least half.

    Raises:
        InputError: the file is no picture.
    """
    return decode_mask(open_picture(source), void_label)


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
