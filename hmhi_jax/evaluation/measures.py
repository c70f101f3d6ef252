"""The measures of one frame: J and F, with mean, recall and decay of a video (Perazzi et al., CVPR 2016); and MAE,
F-measure and E-measure curves and S-measure, as the authors' release defines them.

J and F are those of the official DAVIS toolkit, pixel for pixel: the boundary map is offset half a pixel towards the
origin, the last row and column only look along the picture's border, the tolerance is a disk, and two empty masks agree
perfectly. Void pixels are background in both masks; `frame_scores` takes care of that before anything here is called.

The others follow exactly from eight histograms: of the 8-bit prediction, inside and outside the true object, in each of
the four quadrants around the object's centroid. Per threshold the F-measure (Achanta et al., CVPR 2009) and E-measure
(Fan et al., IJCAI 2018) need nothing but the four counts of a confusion table; the S-measure (Fan et al., ICCV 2017)
needs sums of values, of squares and of products. So a frame is read once, whatever the number of thresholds.

The release works in float32. Exact sums differ from it by its rounding (about 1e-6), and in one case by more: where a
prediction has one constant value, neither 0 nor 255, over a whole quadrant, the release divides rounding errors by each
other and ours is the exact result.
"""

from functools import cache
from math import ceil, hypot

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

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


def boundary_f(prediction: Bool[np.ndarray, "H W"], truth: Bool[np.ndarray, "H W"]) -> float:
    """Contour accuracy F: harmonic mean of the precision and recall of boundary pixels.

    A boundary pixel is right if the other mask has one within `ceil(BOUNDARY_TOLERANCE * diagonal)` pixels. Without any
    boundary in either mask F is 1, with one in only one of them 0.
    """
    radius = ceil(BOUNDARY_TOLERANCE * hypot(*prediction.shape))
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


THRESHOLDS = 256
BETA_SQUARED = 0.3
"""Weight of precision in the F-measure."""
ALPHA = 0.5
"""Weight of the object score in the S-measure; the region score has the rest."""


@cache
def threshold_levels() -> Int[np.ndarray, "256"]:
    """The smallest grey level that counts as foreground at each of the 256 thresholds.

    The release compares `level / 255` with `linspace(0, 1, 256)`, both in float32. For 63 of the thresholds the two
    roundings differ, and a pixel of exactly that level falls below: the level is `i + 1` there, `i` elsewhere.
    """
    step = np.float32(1) / np.float32(255)
    up = np.arange(THRESHOLDS // 2, dtype=np.float32) * step
    down = (1.0 - np.float64(step) * np.arange(THRESHOLDS // 2 - 1, -1, -1)).astype(np.float32)
    levels = np.arange(256, dtype=np.float32) / np.float32(255)
    return np.searchsorted(levels, np.concatenate([up, down]), side="left")


def centroid(truth: Bool[np.ndarray, "H W"]) -> tuple[int, int]:
    """Row and column of the object's centre of mass, rounded half to even; the picture's middle for an empty mask."""
    height, width = truth.shape
    total = np.count_nonzero(truth)
    if total == 0:
        return round(height / 2), round(width / 2)
    rows = np.count_nonzero(truth, axis=1) @ np.arange(height)
    columns = np.count_nonzero(truth, axis=0) @ np.arange(width)
    return round(rows / total), round(columns / total)


def quadrant_histograms(
    prediction: UInt8[np.ndarray, "H W"], truth: Bool[np.ndarray, "H W"]
) -> Int[np.ndarray, "4 2 256"]:
    """Counts of each grey level: quadrant (upper left, upper right, lower left, lower right), outside/inside, level."""
    row, column = centroid(truth)
    # One index per pixel: level in the low byte, inside or outside in the next bit. np.bincount of it is the histogram.
    index = (truth.astype(np.uint16) << 8) | prediction
    parts = index[:row, :column], index[:row, column:], index[row:, :column], index[row:, column:]
    counts = [np.bincount(part.ravel(), minlength=512).reshape(2, 256) for part in parts]
    return np.stack(counts)


def mean_absolute_error(histogram: Int[np.ndarray, "2 256"]) -> float:
    """Mean of |prediction - truth| over the frame's pixels, both in 0..1."""
    outside, inside = histogram
    levels = np.arange(256)
    return float(outside @ levels + inside @ (255 - levels)) / 255 / int(histogram.sum())


def _counts_at_thresholds(histogram: Int[np.ndarray, "2 256"]) -> tuple[np.ndarray, np.ndarray]:
    """True and false positives at each of the 256 thresholds."""
    at_least = np.cumsum(histogram[:, ::-1], axis=1)[:, ::-1][:, threshold_levels()]
    return at_least[1], at_least[0]


def f_curve(histogram: Int[np.ndarray, "2 256"]) -> Float[np.ndarray, "256"]:
    """F-measure at each threshold; 0 where nothing of the object is found, so 0 throughout for an empty truth."""
    true_positive, false_positive = _counts_at_thresholds(histogram)
    precision = true_positive / np.maximum(true_positive + false_positive, 1)
    recall = true_positive / max(int(histogram[1].sum()), 1)
    return (1 + BETA_SQUARED) * precision * recall / (BETA_SQUARED * precision + recall + 1e-10)


def e_curve(histogram: Int[np.ndarray, "2 256"]) -> Float[np.ndarray, "256"]:
    """Enhanced-alignment measure at each threshold.

    A pixel's alignment depends only on whether it is predicted and whether it is true, so the sum over the picture is
    a sum over four counts. As in the release, an empty truth or prediction gets no case of its own (1/4 throughout),
    and the sum is divided by the number of pixels less one.
    """
    pixels, positives = int(histogram.sum()), int(histogram[1].sum())
    true_positive, false_positive = _counts_at_thresholds(histogram)
    false_negative = positives - true_positive
    true_negative = pixels - positives - false_positive
    predicted_share, true_share = (true_positive + false_positive) / pixels, positives / pixels
    total = np.zeros(THRESHOLDS)
    counts = true_positive, false_positive, false_negative, true_negative
    for count, (predicted, true) in zip(counts, ((1, 1), (1, 0), (0, 1), (0, 0)), strict=True):
        p, t = predicted - predicted_share, true - true_share
        alignment = 2 * p * t / (p * p + t * t + 1e-20)
        total += count * (alignment + 1) ** 2 / 4
    return total / max(pixels - 1, 1)


def s_measure(histograms: Int[np.ndarray, "4 2 256"]) -> float:
    """Structure measure of a frame's `quadrant_histograms`: half object score, half region score, not below 0.

    As in the release, a truth covering less than 1e-4 of the picture counts as empty (1 - mean of the prediction),
    and one covering all of it gives the mean of the prediction.
    """
    histogram = histograms.sum(axis=0)
    pixels, positives = int(histogram.sum()), int(histogram[1].sum())
    share = positives / pixels
    mean = float(histogram.sum(axis=0) @ np.arange(256)) / 255 / pixels
    if share < 1e-4:
        return 1 - mean
    if positives == pixels:
        return mean
    inside, outside = _object_score(histogram[1]), _object_score(histogram[0, ::-1])
    object_score = share * inside + (1 - share) * outside
    region_score = sum(int(quadrant.sum()) * _similarity(quadrant) for quadrant in histograms) / pixels
    return max(ALPHA * object_score + (1 - ALPHA) * region_score, 0.0)


def _object_score(histogram: Int[np.ndarray, "256"]) -> float:
    """How bright and how even the prediction is over the pixels of one kind."""
    levels, count = np.arange(256), int(histogram.sum())
    total, squares = int(histogram @ levels), int(histogram @ levels**2)
    mean = total / count / 255
    variance = (squares - total * total / count) / (count - 1) / 255**2 if count > 1 else 0.0
    return 2 * mean / (mean * mean + 1 + max(variance, 0.0) ** 0.5)


def _similarity(histogram: Int[np.ndarray, "2 256"]) -> float:
    """Structural similarity of prediction and truth over one quadrant (0 for an empty one: its weight is 0)."""
    levels, count = np.arange(256), int(histogram.sum())
    if count == 0:
        return 0.0
    grey = histogram.sum(axis=0)
    # Python integers: exact whatever the picture's size, so "zero" below is zero.
    total, squares = int(grey @ levels), int(grey @ levels**2)
    positives, product = int(histogram[1].sum()), int(histogram[1] @ levels)
    variances = (count * squares - total * total) / 255**2 + (count * positives - positives * positives)
    covariance = (count * product - total * positives) / 255
    x, y = total / count / 255, positives / count
    divisor = count * max(count - 1, 1)
    similarity, contrast = 4 * x * y * covariance / divisor, (x * x + y * y) * variances / divisor
    if similarity != 0:
        return similarity / contrast
    return 1.0 if contrast == 0 else 0.0


EXTRA_MEASURES = ("sod_mean_F", "sod_adaptive_F", "sod_mean_E", "sod_adaptive_E", "sod_weighted_F")


def extra_measures(prediction: UInt8[np.ndarray, "H W"], truth: Bool[np.ndarray, "H W"]) -> dict[str, float]:
    """The five figures of one frame: the mean over 256 thresholds, the figure at twice the frame's mean, weighted F.

    They are those of the PySODMetrics package, whose definitions differ from the release's: every prediction is
    stretched to 0..1 per frame whatever the reading, the truth is what exceeds 128, empty truths have cases of their
    own. So the names carry `sod_` and never stand in for the release's.

    Weighted F: Margolin et al., CVPR 2014 (beta = 1). The others: beta squared .3.
    """
    import py_sod_metrics as sod

    handler = sod.FmeasureHandler(with_dynamic=True, with_adaptive=True, beta=0.3)
    f_measure, e_measure, weighted = sod.FmeasureV2({"F": handler}), sod.Emeasure(), sod.WeightedFmeasure()
    grey = truth.view(np.uint8) * np.uint8(255)
    for measure in (f_measure, e_measure, weighted):
        measure.step(prediction, grey)
    f, e = f_measure.get_results()["F"], e_measure.get_results()["em"]
    values = f["dynamic"].mean(), f["adaptive"], e["curve"].mean(), e["adp"], weighted.get_results()["wfm"]
    return {name: float(value) for name, value in zip(EXTRA_MEASURES, values, strict=True)}
