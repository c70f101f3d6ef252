"""J and F against the toolkit's definitions written out pixel by pixel, and their properties."""

import math

import cv2
import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hmhi_jax.evaluation.measures import boundary_f, boundary_map, decay, jaccard, recall

masks = st.tuples(st.integers(1, 14), st.integers(1, 14)).flatmap(lambda shape: arrays.arrays(bool, shape))
pairs = st.tuples(st.integers(1, 14), st.integers(1, 14)).flatmap(
    lambda shape: st.tuples(arrays.arrays(bool, shape), arrays.arrays(bool, shape))
)
settings.register_profile("quick", max_examples=60, deadline=None)
settings.load_profile("quick")


def toolkit_boundary(mask: np.ndarray) -> np.ndarray:
    """The definition, one pixel at a time: differs from the right, lower or diagonal neighbour, borders aside."""
    height, width = mask.shape
    edge = np.zeros_like(mask)
    for y in range(height):
        for x in range(width):
            if y < height - 1 and x < width - 1:
                edge[y, x] = any(mask[y, x] != mask[y + dy, x + dx] for dy, dx in ((0, 1), (1, 0), (1, 1)))
            elif x < width - 1:
                edge[y, x] = mask[y, x] != mask[y, x + 1]
            elif y < height - 1:
                edge[y, x] = mask[y, x] != mask[y + 1, x]
    return edge


def toolkit_f(prediction: np.ndarray, truth: np.ndarray, tolerance: float = 0.008) -> float:
    """The definition by distances between all boundary pixels."""
    radius = math.ceil(tolerance * np.linalg.norm(prediction.shape))
    predicted, true = (np.argwhere(toolkit_boundary(mask)) for mask in (prediction, truth))
    if len(predicted) == 0 or len(true) == 0:
        return float(len(predicted) == len(true))
    squares = ((predicted[:, None] - true[None]) ** 2).sum(axis=-1)
    precision = (squares.min(axis=1) <= radius**2).mean()
    found = (squares.min(axis=0) <= radius**2).mean()
    return 0.0 if precision + found == 0 else 2 * precision * found / (precision + found)


@given(masks)
def test_boundary_map_is_the_toolkits(mask):
    np.testing.assert_array_equal(boundary_map(mask), toolkit_boundary(mask))


@given(pairs)
def test_f_is_the_toolkits(pair):
    assert boundary_f(*pair) == pytest.approx(toolkit_f(*pair), abs=1e-12)


@pytest.mark.parametrize("shape", [(480, 854), (101, 67), (333, 1)])
def test_f_is_the_toolkits_at_real_sizes(shape):
    height, width = shape
    y, x = np.mgrid[:height, :width]
    truth = (y - height / 2) ** 2 + (x - width / 3) ** 2 < (min(shape) / 3) ** 2
    prediction = np.roll(truth, (3, -7), axis=(0, 1)) | (x > width - 5)
    assert boundary_f(prediction, truth) == pytest.approx(toolkit_f(prediction, truth), abs=1e-12)


def test_boundary_at_the_pictures_border():
    full = np.ones((9, 13), bool)
    assert not boundary_map(full).any()
    half = full.copy()
    half[:, 6:] = False
    # A mask that leaves the picture on three sides has a boundary only where it ends inside, last row included.
    np.testing.assert_array_equal(np.argwhere(boundary_map(half)), [[y, 5] for y in range(9)])


def test_empty_masks():
    empty, some = np.zeros((20, 30), bool), np.zeros((20, 30), bool)
    some[5:9, 5:9] = True
    assert jaccard(empty, empty) == boundary_f(empty, empty) == 1
    assert jaccard(some, empty) == jaccard(empty, some) == 0
    assert boundary_f(some, empty) == boundary_f(empty, some) == 0
    # A full mask has no boundary either: F cannot tell it from an empty one, J can. So it is in the toolkit.
    assert boundary_f(~empty, empty) == 1
    assert jaccard(~empty, empty) == 0


@given(masks)
def test_identical_masks_are_perfect(mask):
    assert jaccard(mask, mask) == boundary_f(mask, mask) == 1


@given(pairs)
def test_both_are_symmetric_and_within_bounds(pair):
    for measure in (jaccard, boundary_f):
        assert 0 <= measure(*pair) <= 1
        assert measure(*pair) == pytest.approx(measure(*reversed(pair)), abs=1e-12)


@given(masks)
def test_disjoint_masks_have_nothing_in_common(mask):
    assert jaccard(mask, ~mask) == 0


def test_distant_masks_have_no_common_boundary():
    left, right = np.zeros((100, 200), bool), np.zeros((100, 200), bool)
    left[40:60, 20:40] = True
    right[40:60, 150:170] = True
    assert jaccard(left, right) == boundary_f(left, right) == 0


def test_both_fall_as_the_prediction_erodes():
    y, x = np.mgrid[:120, :160]
    truth = ((y - 60) ** 2 + (x - 80) ** 2 < 45**2) | ((abs(y - 60) < 12) & (x < 80))
    scores = []
    for steps in range(12):
        kernel = np.ones((2 * steps + 1, 2 * steps + 1), np.uint8)
        eroded = cv2.erode(truth.view(np.uint8), kernel).astype(bool)
        scores.append((jaccard(eroded, truth), boundary_f(eroded, truth)))
    region, boundary = np.array(scores).T
    assert (np.diff(region) < 0).all()
    assert (np.diff(boundary) <= 0).all()
    assert boundary[-1] < boundary[0]


def test_recall_and_decay():
    values = np.array([0.9, 0.8, 0.7, 0.6, 0.4, 0.3, 0.2, 0.1])
    assert recall(values) == 0.5
    # linspace(1, 8, 5) = 1, 2.75, 4.5, 6.25, 8 -> ends at 1, 3, 4, 6, 8: the quarters share their ends.
    assert decay(values) == pytest.approx(np.mean([0.9, 0.8, 0.7]) - np.mean([0.3, 0.2, 0.1]))
    values[0] = np.nan
    assert recall(values) == pytest.approx(3 / 7)
    assert decay(values) == pytest.approx(np.mean([0.8, 0.7]) - np.mean([0.3, 0.2, 0.1]))
    assert math.isnan(recall(np.array([])))
    assert math.isnan(decay(np.array([])))
    assert decay(np.array([0.4])) == 0
    long = np.linspace(1, 0, 1000)  # positions beyond 255 must not wrap around
    assert decay(long) == pytest.approx(0.75, abs=1e-3)
