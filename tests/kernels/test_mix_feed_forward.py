"""Bands against the plain form, at heights that bands divide and do not divide; values, gradients, transforms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hmhi_jax.kernels import mix_feed_forward as module
from hmhi_jax.kernels.mix_feed_forward import MixWeights, feed_forward, feed_forward_in_bands, mix_feed_forward


def _weights(channels: int) -> MixWeights:
    shapes = {
        "expand": (channels, 4 * channels),
        "expand_bias": (4 * channels,),
        "depthwise": (3, 3, 1, 4 * channels),
        "depthwise_bias": (4 * channels,),
        "project": (4 * channels, channels),
        "project_bias": (channels,),
    }
    return MixWeights(
        **{name: 0.5 * jax.random.normal(jax.random.key(i), s) for i, (name, s) in enumerate(shapes.items())}
    )


@pytest.mark.parametrize(("height", "band"), [(16, 4), (18, 4), (17, 16), (8, 1)])
def test_bands_equal_the_plain_form(height, band, monkeypatch):
    monkeypatch.setattr(module, "CACHED", 0)
    x = jax.random.normal(jax.random.key(9), (2, height, 12, 4))
    banded = jax.jit(feed_forward_in_bands, static_argnums=2)(x, _weights(4), band)
    np.testing.assert_allclose(banded, feed_forward(x, _weights(4)), atol=1e-5)


@pytest.mark.parametrize(("height", "band"), [(16, 4), (18, 4), (7, 16)])
def test_gradients_are_those_of_the_plain_form(height, band, monkeypatch):
    monkeypatch.setattr(module, "CACHED", 0)
    monkeypatch.setattr(module, "BAND", band)
    monkeypatch.setattr(module, "BACKWARD_BAND", band)
    x, weights = jax.random.normal(jax.random.key(9), (2, height, 8, 4)), _weights(4)

    def gradients(form):
        return jax.jit(jax.grad(lambda x, w: jnp.sin(form(x, w)).sum(), (0, 1)))(x, weights)

    found, expected = gradients(mix_feed_forward), gradients(feed_forward)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), found, expected)
    np.testing.assert_allclose(
        jax.jit(jax.vmap(mix_feed_forward, (0, None)))(x[:, None], weights)[:, 0], feed_forward(x, weights), atol=1e-5
    )
