"""Changes of shot: whether a frame shows what the frame before it shows, moved on."""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from hmhi_jax.data.pictures import halved

_SIZE = (64, 96)  # (height, width) at which pictures are compared; noise is averaged away, moving things are still seen
_DETAIL = 4.0  # deviation in pixels of what counts as detail; light that changes at large scale does not
_NOISE = 4.0  # variance of detail, in grey levels, below which there is nothing to compare
_CHANNELS = np.float32([1, 2, 2])  # weights of luma and the two chromas, which vary less
# By benchmarks/cuts.py: pictures on either side of a cut reach 0.30, neighbours in a shot of DAVIS are at least 0.46
# alike; where two of three frames are left out, of fast shots less than this.
LEAST_LIKENESS = 0.4


class Look(NamedTuple):
    """What of a picture is compared: grey levels, colours, and their detail, all small."""

    grey: UInt8[np.ndarray, "h w"]
    picture: UInt8[np.ndarray, "h w 3"]
    detail: Float[np.ndarray, "h w 3"]


def look_of(picture: UInt8[np.ndarray, "H W 3"]) -> Look:
    """What `likeness` compares of a picture."""
    height, width = _SIZE
    small = cv2.resize(halved(picture, (2 * height, 2 * width)), (width, height), interpolation=cv2.INTER_AREA)
    return Look(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), small, _detail(small))


def likeness(before: Look, frame: Look) -> float:
    """How much of the detail of `before` the next frame has, wherever it moved to: 1 is all of it, about 0 is none.

    The next frame is carried back along the optical flow, so that motion of things and of the camera does not count;
    what is compared are the pictures less their blurred selves, so that flashes and fades hardly count. It depends on
    the two frames alone: nothing has to be remembered, and a video that goes on elsewhere has the same cuts.
    """
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(before.grey, frame.grey, None)
    places = np.indices(_SIZE, np.float32)[::-1].transpose(1, 2, 0) + flow
    carried = cv2.remap(frame.picture, places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    one, other = before.detail, _detail(carried)
    return float((2 * (one * other).mean() + _NOISE) / ((one**2).mean() + (other**2).mean() + _NOISE))


def changes_shot(before: Look, frame: Look) -> bool:
    """Whether a new shot begins with `frame`. Finds hard cuts; a dissolve from one shot into another is none."""
    return likeness(before, frame) < LEAST_LIKENESS


def _detail(picture: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w 3"]:
    values = cv2.cvtColor(picture.astype(np.float32), cv2.COLOR_RGB2YCrCb) * _CHANNELS
    return values - cv2.GaussianBlur(values, (0, 0), _DETAIL)
