"""Logits become the same 8-bit pictures on a device as on the host; refined ones keep to the edges of the frame."""

import cv2
import jax.numpy as jnp
import numpy as np
import pytest

from hmhi_jax.evaluation.measures import jaccard
from hmhi_jax.inference.masks import HALVED, LIMIT, RADIUS, read_logits, refine
from hmhi_jax.inference.network_input import guide_of

SMALL, FULL = (48, 80), (192, 320)


@pytest.fixture(scope="module")
def logits():
    return np.random.default_rng(0).normal(0, 4, (32, 48)).astype(np.float32)


@pytest.mark.parametrize("size", [(32, 48), (45, 80)])
@pytest.mark.parametrize("reading", ["plain", "release"])
def test_values_of_host_and_device(logits, size, reading):
    host, device = read_logits(logits, size, reading), read_logits(jnp.asarray(logits), size, reading)
    assert host.shape == device.shape == size
    assert host.dtype == device.dtype == np.uint8
    assert len(np.unique(host)) > 100
    assert np.abs(host.astype(int) - device.astype(int)).max() <= 1


def test_masks_of_host_and_device(logits):
    """They may differ only where the probability is the threshold to within rounding."""
    for threshold in (0.3, 0.5):
        host, device = (read_logits(x, (45, 80), "mask", threshold) for x in (logits, jnp.asarray(logits)))
        assert set(np.unique(host)) == {0, 255}
        close = np.abs(read_logits(logits, (45, 80), "plain") / 255 - threshold) < 1 / 255
        assert close.mean() < 0.05
        np.testing.assert_array_equal(host[~close], device[~close])


def test_without_colours_it_is_a_mean_of_means():
    logits = np.random.default_rng(0).normal(0, 3, SMALL).astype(np.float32)
    side = 2 * RADIUS + 1
    means = cv2.blur(cv2.blur(logits.clip(-LIMIT, LIMIT), (side, side)), (side, side))
    refined = refine(logits, np.full((*SMALL, 3), 90, np.uint8), np.full((*FULL, 3), 90, np.uint8))
    assert refined.dtype == np.float32
    np.testing.assert_allclose(refined, cv2.resize(means, FULL[::-1]), atol=1e-4)


def test_what_is_linear_in_the_colours_comes_back():
    """The small frame is exact, so the slope is that of the logits but for the steadying variance."""
    small = np.random.default_rng(1).integers(0, 256, (*SMALL, 3), dtype=np.uint8)
    logits = (small @ np.array([0.02, -0.01, 0.005]) - 1).astype(np.float32)
    assert np.abs(logits).max() < LIMIT
    np.testing.assert_allclose(refine(logits, small, small), logits, atol=0.02)


@pytest.mark.parametrize("shift", [-3, 3])
@pytest.mark.parametrize("size", [SMALL, (208, 352)])
def test_a_boundary_goes_to_the_edge_beside_it(size, shift):
    """In every window that sees the edge the logits' mean over a colour has the sign of most of its pixels; the second
    size is halved."""
    assert (size == SMALL) == (size[0] * size[1] < HALVED)
    rows, columns = np.mgrid[: 4 * size[0], : 4 * size[1]]
    truth = columns > 1.75 * size[1] + 0.4 * rows
    frame = np.where(truth[..., None], (200, 60, 90), (40, 120, 80)).astype(np.uint8)
    small = cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA)
    certain = np.where(cv2.resize(truth.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA) > 0.5, 5, -5)
    logits = cv2.GaussianBlur(np.roll(certain, shift, 1)[:, 4:-4].astype(np.float32), (0, 0), 1)
    frame, truth, small = frame[:, 16:-16], truth[:, 16:-16], np.ascontiguousarray(small[:, 4:-4])
    before = cv2.resize(logits, truth.shape[::-1]) > 0
    assert jaccard(before, truth) < (0.95 if size == SMALL else 0.99)
    assert jaccard(refine(logits, small, frame) > 0, truth) > 0.995


@pytest.mark.parametrize("full", [(192, 320), (180, 307), (97, 161), (300, 320)])
@pytest.mark.parametrize("size", [(96, 160), (208, 352)])
@pytest.mark.parametrize("bound", [0.0, 2.0, -4.0])
def test_what_no_colour_can_change_is_not_computed(size, full, bound):
    """A disc below: the mask is the same; above, and beside it where columns fall together, no colour is looked at."""
    rng = np.random.default_rng(2)
    rows, columns = np.mgrid[: size[0], : size[1]] / size[0]
    inside = (rows - 0.85) ** 2 + (columns - 0.9) ** 2 < 0.08**2
    logits = cv2.GaussianBlur(np.where(inside, 9, -9).astype(np.float32), (0, 0), 1)
    small = rng.integers(90, 120, (*size, 3)).astype(np.uint8) + np.uint8(80) * inside[..., None]
    frame = cv2.resize(small, full[::-1], interpolation=cv2.INTER_LINEAR)
    whole, found = refine(logits, small, frame), refine(logits, small, frame, bound)
    np.testing.assert_array_equal(found > bound, whole > bound)
    assert 0 < (whole > bound).mean() < 0.1
    told = found == bound - 1
    assert told[0].all()
    assert told[-1, [0, -1]].all() == (full[1] == 320)
    assert not told[-1].all()


def test_frames_that_guide():
    frame = np.zeros((100, 201, 3), np.uint8)
    assert guide_of(frame, (50, 229), None) is frame
    assert guide_of(frame, (50, 230), None) is None
    assert guide_of(frame, (50, 230), True) is frame
    assert guide_of(frame, (10, 10), False) is None
    assert guide_of(np.zeros((40, 3840, 3), np.uint8), (8, 8), None).shape == (20, 1920, 3)
