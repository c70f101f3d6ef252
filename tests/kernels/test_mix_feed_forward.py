"""Bands against the plain form, at heights that bands divide and do not divide; values, gradients, transforms."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from rounding import assert_rounded_alike, in_float64

from hmhi_jax.kernels import feed_forward as module
from hmhi_jax.kernels.feed_forward import (
    MixWeights,
    feed_forward_in_bands,
    mix_feed_forward,
    mix_feed_forward_plain,
)


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
    assert_rounded_alike(
        banded, mix_feed_forward_plain(x, _weights(4)), in_float64(mix_feed_forward_plain, x, _weights(4))
    )


@pytest.mark.parametrize(("height", "band"), [(16, 4), (18, 4), (7, 16)])
def test_gradients_are_those_of_the_plain_form(height, band, monkeypatch):
    monkeypatch.setattr(module, "CACHED", 0)
    monkeypatch.setattr(module, "BAND", band)
    monkeypatch.setattr(module, "BACKWARD_BAND", band)
    x, weights = jax.random.normal(jax.random.key(9), (2, height, 8, 4)), _weights(4)

    def gradients(form, x, weights):
        return jax.jit(jax.grad(lambda x, w: jnp.sin(form(x, w)).sum(), (0, 1)))(x, weights)

    plain = partial(gradients, mix_feed_forward_plain)
    found = gradients(mix_feed_forward, x, weights)
    assert_rounded_alike(found, plain(x, weights), in_float64(plain, x, weights))
    mapped = jax.jit(jax.vmap(mix_feed_forward, (0, None)))(x[:, None], weights)[:, 0]
    assert_rounded_alike(mapped, mix_feed_forward_plain(x, weights), in_float64(mix_feed_forward_plain, x, weights))
