"""Figures from histograms against the same definitions written pixel by pixel."""

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hmhi_jax.evaluation import measures as saliency
from hmhi_jax.evaluation.measures import EXTRA_MEASURES, extra_measures

shapes = st.tuples(st.integers(2, 12), st.integers(2, 12))
frames = shapes.flatmap(lambda shape: st.tuples(arrays.arrays(np.uint8, shape), arrays.arrays(bool, shape)))
settings.register_profile("quick", max_examples=60, deadline=None)
settings.load_profile("quick")


def blob(height=120, width=161, seed=0):
    """A soft prediction near a disk, and the disk."""
    y, x = np.mgrid[:height, :width]
    truth = (y - height * 0.55) ** 2 + (x - width * 0.4) ** 2 < (height / 4) ** 2
    noise = np.random.default_rng(seed).integers(0, 60, truth.shape)
    distance = np.hypot(y - height * 0.5, x - width * 0.45)
    return np.clip(255 - 3 * distance + noise, 0, 255).astype(np.uint8), truth


def pixel_curves(prediction, truth):
    """F and E at every threshold from whole pictures."""
    g = truth.astype(np.float64)
    f, e = [], []
    for level in saliency.threshold_levels():
        p = (prediction >= level).astype(np.float64)
        hit = (p * g).sum()
        precision, found = hit / max(p.sum(), 1), hit / max(g.sum(), 1)
        f.append(1.3 * precision * found / (0.3 * precision + found + 1e-10))
        a, b = p - p.mean(), g - g.mean()
        e.append((((2 * a * b / (a * a + b * b + 1e-20)) + 1) ** 2 / 4).sum() / (g.size - 1))
    return np.array(f), np.array(e)


def pixel_s_measure(prediction, truth):
    """The S-measure from whole pictures."""
    p, g = prediction / 255, truth.astype(np.float64)
    share = g.mean()
    if share < 1e-4:
        return 1 - p.mean()
    if share == 1:
        return p.mean()

    def object_score(values):
        spread = values.std(ddof=1) if values.size > 1 else 0
        return 2 * values.mean() / (values.mean() ** 2 + 1 + spread)

    score = share * object_score(p[truth]) + (1 - share) * object_score(1 - p[~truth])
    row, column = (int(np.round(np.argwhere(truth)[:, axis].mean())) for axis in (0, 1))
    region = 0
    for rows in (slice(None, row), slice(row, None)):
        for columns in (slice(None, column), slice(column, None)):
            a, b = p[rows, columns], g[rows, columns]
            if a.size == 0:
                continue
            n = max(a.size - 1, 1)
            spread = (((a - a.mean()) ** 2).sum() + ((b - b.mean()) ** 2).sum()) / n
            common = ((a - a.mean()) * (b - b.mean())).sum() / n
            top, bottom = 4 * a.mean() * b.mean() * common, (a.mean() ** 2 + b.mean() ** 2) * spread
            constant = np.ptp(prediction[rows, columns]) == 0 or np.ptp(b) == 0
            if constant:
                similarity = 1.0 if bottom < 1e-25 else 0.0
            else:
                similarity = top / bottom
            region += similarity * a.size / g.size
    return max((score + region) / 2, 0)


def measures(prediction, truth):
    histograms = saliency.quadrant_histograms(prediction, truth)
    whole = histograms.sum(axis=0)
    s = saliency.s_measure(histograms)
    return saliency.mean_absolute_error(whole), saliency.f_curve(whole), saliency.e_curve(whole), s


def check(prediction, truth):
    mae, f, e, s = measures(prediction, truth)
    expected_f, expected_e = pixel_curves(prediction, truth)
    assert mae == pytest.approx(np.abs(prediction / 255 - truth).mean(), abs=1e-12)
    np.testing.assert_allclose(f, expected_f, atol=1e-9)
    np.testing.assert_allclose(e, expected_e, atol=1e-9)
    assert s == pytest.approx(pixel_s_measure(prediction, truth), abs=1e-9)


@given(frames)
def test_histograms_hold_everything(frame):
    check(*frame)


@pytest.mark.parametrize("seed", range(3))
def test_histograms_hold_everything_on_real_shapes(seed):
    check(*blob(seed=seed))


def test_empty_and_full():
    prediction, truth = blob()
    for mask in (np.zeros_like(truth), np.ones_like(truth)):
        check(prediction, mask)
        for constant in (0, 255):
            check(np.full_like(prediction, constant), mask)


def test_perfect_prediction():
    _, truth = blob()
    mae, f, e, s = measures(truth.astype(np.uint8) * 255, truth)
    assert mae == 0
    assert s == pytest.approx(1)
    assert f[1:].min() == pytest.approx(1)
    assert e.max() == pytest.approx(1, abs=1e-4)


def test_thresholds_are_the_releases():
    """float32 rounding: 63 thresholds exclude the level that a real number would include."""
    levels = saliency.threshold_levels()
    index = np.arange(256)
    assert ((levels == index) | (levels == index + 1)).all()
    assert (levels != index).sum() == 63
    assert (levels[3], levels[4], levels[127], levels[128], levels[255]) == (4, 4, 128, 128, 255)


def test_extra_measures_are_the_packages():
    import py_sod_metrics

    prediction, truth = blob()
    found = extra_measures(prediction, truth)
    assert tuple(found) == EXTRA_MEASURES
    weighted, e_measure = py_sod_metrics.WeightedFmeasure(), py_sod_metrics.Emeasure()
    for measure in (weighted, e_measure):
        measure.step(pred=prediction, gt=truth.astype(np.uint8) * 255)
    assert found["sod_weighted_F"] == weighted.get_results()["wfm"]
    assert found["sod_mean_E"] == e_measure.get_results()["em"]["curve"].mean()
    # Definitions differ from the release's: that is why the names do.
    whole = saliency.quadrant_histograms(prediction, truth).sum(axis=0)
    assert found["sod_mean_F"] != pytest.approx(saliency.f_curve(whole).mean(), abs=1e-6)
