"""Logits become the same 8-bit pictures on a device as on the host."""

import jax.numpy as jnp
import numpy as np
import pytest

from hmhi_jax.inference.masks import read_logits


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
