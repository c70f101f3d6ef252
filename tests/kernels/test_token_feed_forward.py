"""The read-out layers' feed-forward in pieces against the plain form, and the GELU against its definition."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rounding import EPSILON, assert_rounded_alike, in_float64

from hmhi_jax.kernels import feed_forward as module
from hmhi_jax.kernels.elementwise import gelu
from hmhi_jax.kernels.feed_forward import (
    FeedForwardWeights,
    feed_forward_in_pieces,
    token_feed_forward,
    token_feed_forward_plain,
)


def _inputs(batch: int, tokens: int):
    shapes = ((batch, tokens, 6), (6, 20), (20,), (20, 6), (6,))
    x, *weights = (jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(shapes))
    return x, FeedForwardWeights(*weights)


@pytest.mark.parametrize(("batch", "tokens"), [(1, 64), (2, 48), (1, 7), (1, 31)])
def test_pieces_equal_the_plain_form(batch, tokens, monkeypatch):
    monkeypatch.setattr(module, "PIECE", 16)
    x, weights = _inputs(batch, tokens)
    found = jax.jit(feed_forward_in_pieces)(x, weights)
    assert_rounded_alike(found, token_feed_forward_plain(x, weights), in_float64(token_feed_forward_plain, x, weights))


def test_gradients_are_those_of_the_plain_form(monkeypatch):
    monkeypatch.setattr(module, "PIECE", 16)
    x, weights = _inputs(1, 64)

    def gradients(form, x, weights):
        return jax.jit(jax.grad(lambda x, w: jnp.sin(form(x, w)).sum(), (0, 1)))(x, weights)

    plain = partial(gradients, token_feed_forward_plain)
    assert_rounded_alike(gradients(token_feed_forward, x, weights), plain(x, weights), in_float64(plain, x, weights))


def test_gelu():
    x = np.linspace(-8, 8, 4001).astype(np.float32)
    exact = [float(v) / 2 * (1 + math.erf(float(v) / math.sqrt(2))) for v in x]
    # `1 + erf` is a number up to 2 whose terms are off by a unit of 1 each at most, and is multiplied by half of x.
    assert (np.abs(gelu(jnp.asarray(x)) - np.array(exact)) <= 2 * EPSILON * np.abs(x)).all()
    half = jnp.asarray(x, jnp.bfloat16)
    assert gelu(half).dtype == jnp.bfloat16
    np.testing.assert_array_equal(gelu(half), gelu(half.astype(jnp.float32)).astype(jnp.bfloat16))
    slope = jax.vmap(jax.grad(gelu))(jnp.asarray([-1.0, 0.0, 2.0]))
    np.testing.assert_allclose(slope, [-0.0833155, 0.5, 1.0852318], atol=1e-6)
