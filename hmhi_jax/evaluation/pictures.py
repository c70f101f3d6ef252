"""From picture files to masks: readings of predictions, and every way in which ground truth is stored."""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8

from hmhi_jax.data.masks import (
    cut_out_of_lossy,
    decode_mask,
    is_grey_ramp,
    is_tinged_grey,
    merge_colours,
    opacity,
)
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
_FEW_COLOURS = 256  # as many as a palette could hold


class Prediction(NamedTuple):
    """A prediction's 8-bit values, and by which rule worth knowing they were understood ("" by none)."""

    values: UInt8[np.ndarray, "H W"]
    rule: str = ""


def read_prediction(source: Picture) -> UInt8[np.ndarray, "H W"]:
    """A prediction's file as 8-bit values; see `understand_prediction`."""
    return understand_prediction(source).values


def understand_prediction(source: Picture) -> Prediction:
    """A prediction's file as 8-bit values.

    8-bit grey is taken as it is, 16-bit grey is scaled to 8 bits, floats in 0..1 times 255. Label pictures (a palette,
    or 16 bits with no value above 255) and 1-bit pictures become 0 and 255. Colour pictures of few colours are label
    pictures too, understood as ground truth is, as are lossy ones with objects on a plain ground; of others the
    brightest channel is taken. Of cut-outs, pictures whose
    transparency differs from pixel to pixel, the opacity is. Raises `InputError` if the file is no picture.
    """
    picture = open_picture(source)
    if picture.mode == "L":
        return Prediction(np.asarray(picture))
    if picture.mode == "1":
        return Prediction(np.asarray(picture, np.uint8) * np.uint8(255))
    if picture.mode == "P" and not is_grey_ramp(picture):
        return Prediction(decode_mask(picture, None).grey)
    if picture.mode.startswith("I"):
        values = np.asarray(picture).astype(np.int64)
        if values.max() <= 255:
            return Prediction((values > 0).view(np.uint8) * np.uint8(255))
        return Prediction(np.clip(np.rint(values / 257), 0, 255).astype(np.uint8))
    if picture.mode == "F":
        shares = np.nan_to_num(np.asarray(picture), nan=0.0)
        return Prediction(np.clip(np.rint(shares * 255), 0, 255).astype(np.uint8))
    if (opaque := opacity(picture)) is not None:
        return Prediction(opaque, "cut-outs, whose opacity is taken for the mask")
    colours = np.asarray(picture.convert("RGB"))
    if is_tinged_grey(colours):
        return Prediction(np.asarray(picture.convert("L")))
    if picture.info["lossy"]:
        if (cut := cut_out_of_lossy(picture)) is not None:
            return Prediction(cut)
    elif picture.convert("RGB").getcolors(_FEW_COLOURS):
        return Prediction(merge_colours(colours, picture.format))
    return Prediction(colours.max(axis=-1), "pictures of many colours, whose brightest channel is taken for the mask")


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
