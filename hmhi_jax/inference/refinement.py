"""Masks that keep to the edges of the frame: logits are enlarged by a guided filter (He et al., ECCV 2010, in the fast
form of He and Sun, 2015).

In every window of the frame at the network's size the logits are fitted by a linear function of its colours. The
functions, averaged over all windows that a pixel lies in and enlarged, are applied to the frame at its own size: so a
boundary that the network drew a little beside an edge goes to the edge, and parts finer than the network's grid
follow the frame's colours.
"""

import math

import cv2
import numpy as np
from jaxtyping import Float, UInt8

RADIUS = 8  # of a window, in pixels of the network: 17 x 17
STEADINESS = 1e-4 * 255**2  # colours (0 to 255) that vary less than this variance within a window explain nothing
LIMIT = 6.0  # logits beyond count as this much: certainty is no measure of a boundary's place

WORTH, LARGEST = 2.5, 1920  # see `guide_of`

_BAND = 48  # rows of a frame at a time: what is needed in between stays in the processor's cache

_Map = Float[np.ndarray, "h w"]


def guide_of(
    frame: UInt8[np.ndarray, "H W 3"], network_size: tuple[int, int], wanted: bool | None
) -> UInt8[np.ndarray, "h w 3"] | None:
    """What a frame's logits are refined by: the frame, at most 1920 pixels a side; None where they are not.

    `wanted` None means where the frame has at least `WORTH` times the pixels of `network_size`, (height, width).
    """
    height, width = frame.shape[:2]
    if not (height * width >= WORTH * math.prod(network_size) if wanted is None else wanted):
        return None
    scale = LARGEST / max(height, width)
    if scale >= 1:
        return frame
    return cv2.resize(frame, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)


def refine(
    logits: _Map, small: UInt8[np.ndarray, "h w 3"], frame: UInt8[np.ndarray, "H W 3"]
) -> Float[np.ndarray, "H W"]:
    """Logits at the size of `frame`, float32, from logits at the network's size and the frame at that size."""
    functions = _linear_functions(np.clip(logits, -LIMIT, LIMIT), cv2.split(small.astype(np.float32)))
    (height, width), rows = frame.shape[:2], len(logits)
    # Bilinear with half-pixel centres; rows first, so that a band of the frame needs nothing but its own rows.
    places = np.clip((np.arange(height) + 0.5) * rows / height - 0.5, 0, rows - 1)
    above = places.astype(int)
    below, share = np.minimum(above + 1, rows - 1), np.float32(places - above)[:, None]
    refined = np.empty((height, width), np.float32)
    for first in range(0, height, _BAND):
        band = np.s_[first : first + _BAND]
        *slopes, sums = (
            cv2.resize(
                each[above[band]] * (1 - share[band]) + each[below[band]] * share[band], (width, len(share[band]))
            )
            for each in functions
        )
        for slope, channel in zip(slopes, cv2.split(frame[band]), strict=True):
            sums += np.multiply(slope, channel, out=slope)
        refined[band] = sums
    return refined


def _linear_functions(logits: _Map, colours: tuple[_Map, ...]) -> list[_Map]:
    """The slopes of three colours and the offset of the function at every pixel, the mean of those of all windows."""
    means = [_mean(colour) for colour in colours]
    mean = _mean(logits)

    def covariance(i: int, j: int) -> _Map:
        return _mean(colours[i] * colours[j]) - means[i] * means[j]

    rr, gg, bb = (covariance(i, i) + np.float32(STEADINESS) for i in range(3))
    rg, rb, gb = covariance(0, 1), covariance(0, 2), covariance(1, 2)
    r, g, b = (_mean(colour * logits) - own * mean for colour, own in zip(colours, means, strict=True))
    # The three equations of every window, [[rr rg rb] [rg gg gb] [rb gb bb]] slopes = [r g b], by elimination.
    by_r, by_r_too = rg / rr, rb / rr
    gg, gb, bb = gg - by_r * rg, gb - by_r * rb, bb - by_r_too * rb
    g, b = g - by_r * r, b - by_r_too * r
    by_g = gb / gg
    slope_b = (b - by_g * g) / (bb - by_g * gb)
    slope_g = (g - gb * slope_b) / gg
    slope_r = (r - rg * slope_g - rb * slope_b) / rr
    slopes = [slope_r, slope_g, slope_b]
    offset = mean - sum(slope * own for slope, own in zip(slopes, means, strict=True))
    return [_mean(each) for each in (*slopes, offset)]


def _mean(values: _Map) -> _Map:
    """Over the window around every pixel; beyond the border the picture is mirrored."""
    side = 2 * RADIUS + 1
    return cv2.blur(values, (side, side))
