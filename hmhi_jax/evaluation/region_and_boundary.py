"""J and F of one frame, and mean, recall and decay of a video (Perazzi et al., CVPR 2016).

The definitions are those of the official DAVIS toolkit, pixel for pixel: the boundary map is offset half a pixel
towards the origin, the last row and column only look along the picture's border, the tolerance is a disk, and two
empty masks agree perfectly. Void pixels are background in both masks; `hmhi_jax.evaluation.frame_scores` takes care of
that before anything here is called.
"""

from functools import cache
from math import ceil, hypot

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

BOUNDARY_TOLERANCE = 0.008
"""Boundary tolerance as a fraction of the picture's diagonal (8 pixels at 854 x 480)."""


def jaccard(prediction: Bool[np.ndarray, "H W"], truth: Bool[np.ndarray, "H W"]) -> float:
    """Region similarity J: intersection over union; 1 where both masks are empty."""
    union = np.count_nonzero(prediction | truth)
    if union == 0:
        return 1.0
    return np.count_nonzero(prediction & truth) / union


def boundary_map(mask: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """Pixels that differ from their right, lower or lower right neighbour.

    A pixel of the last row has only a right neighbour, one of the last column only a lower one, the last pixel none:
    a mask that leaves the picture has no boundary along the picture's border.
    """
    edge = np.zeros(mask.shape, bool)
    here = mask[:-1, :-1]
    edge[:-1, :-1] = (here ^ mask[:-1, 1:]) | (here ^ mask[1:, :-1]) | (here ^ mask[1:, 1:])
    edge[-1, :-1] = mask[-1, :-1] ^ mask[-1, 1:]
    edge[:-1, -1] = mask[:-1, -1] ^ mask[1:, -1]
    return edge


@cache
def _disk(radius: int) -> UInt8[np.ndarray, "diameter diameter"]:
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return (x * x + y * y <= radius * radius).astype(np.uint8)


def boundary_f(
    prediction: Bool[np.ndarray, "H W"], truth: Bool[np.ndarray, "H W"], tolerance: float = BOUNDARY_TOLERANCE
) -> float:
    """Contour accuracy F: harmonic mean of the precision and recall of boundary pixels.

    A boundary pixel is right if the other mask has one within the tolerance: `ceil(tolerance * diagonal)` pixels, or
    `tolerance` pixels where it is 1 or more. Without any boundary in either mask F is 1, with one in only one of them
    0.
    """
    radius = ceil(tolerance if tolerance >= 1 else tolerance * hypot(*prediction.shape))
    predicted, true = boundary_map(prediction), boundary_map(truth)
    predicted_count, true_count = np.count_nonzero(predicted), np.count_nonzero(true)
    if predicted_count == 0 or true_count == 0:
        return float(predicted_count == true_count)
    disk = _disk(radius)
    near_true = cv2.dilate(true.view(np.uint8), disk).view(bool)
    near_predicted = cv2.dilate(predicted.view(np.uint8), disk).view(bool)
    precision = np.count_nonzero(predicted & near_true) / predicted_count
    recall = np.count_nonzero(true & near_predicted) / true_count
    if precision + recall == 0:
        return 0.0
    return 2 * precision * recall / (precision + recall)


def recall(values: Float[np.ndarray, " T"]) -> float:
    """Share of frames whose score is above one half; NaN (not scored) frames do not count; NaN for no frame at all."""
    scored = values[~np.isnan(values)]
    return float((scored > 0.5).mean()) if scored.size else float("nan")


def decay(values: Float[np.ndarray, " T"]) -> float:
    """How much the score falls over a video: mean of its first quarter minus mean of its last.

    Neighbouring quarters share a frame, as in the toolkit: they end at the rounded 1-based positions
    `linspace(1, T, 5)`. NaN frames do not count; NaN where a quarter has no scored frame.
    """
    if not values.size:
        return float("nan")
    ends = np.round(np.linspace(1, values.size, 5) + 1e-10).astype(int) - 1
    first, last = values[ends[0] : ends[1] + 1], values[ends[3] : ends[4] + 1]
    if np.isnan(first).all() or np.isnan(last).all():
        return float("nan")
    return float(np.nanmean(first) - np.nanmean(last))
