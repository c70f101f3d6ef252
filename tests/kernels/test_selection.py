"""Both formulations of the exact selection against `lax.top_k`, ties, constants and -inf included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from hmhi_jax.kernels import selection

_in_blocks = jax.jit(selection.top_k_in_blocks, static_argnums=1)


@jax.jit
def _lay_out_scores(scores):
    laid_out = selection.lay_out(scores[:, :, None])[:, :, 0]
    beyond = selection.laid_out_index(scores.shape[1]) >= scores.shape[1]
    return jnp.where(beyond[None], -jnp.inf, laid_out)


_laid_out = jax.jit(lambda scores, k: selection.top_k_laid_out(_lay_out_scores(scores), k), static_argnums=1)


def _check(scores: np.ndarray, k: int):
    value, index = map(np.asarray, lax.top_k(scores, k))
    laid_value, laid_index = map(np.asarray, _laid_out(scores, k))
    np.testing.assert_array_equal(laid_value, value)
    np.testing.assert_array_equal(laid_index, index)
    block_value, block_index = map(np.asarray, _in_blocks(scores, k))
    np.testing.assert_array_equal(block_index, np.sort(index, -1))
    np.testing.assert_array_equal(block_value, np.take_along_axis(scores, block_index, -1))


@pytest.mark.parametrize(("count", "k"), [(20480, 50), (12288, 50), (1000, 50), (50, 50), (33, 1)])
def test_random_scores(count, k):
    _check(np.random.default_rng(count).normal(size=(16, count)).astype(np.float32), k)


@pytest.mark.parametrize("count", [12288, 300])
def test_few_distinct_values(count):
    """As bfloat16 scores or flat pictures give: far more ties than places."""
    rng = np.random.default_rng(1)
    for levels in (1, 2, 3, 40, 700):
        _check(rng.integers(-levels, levels, size=(8, count)).astype(np.float32), 50)


def test_signs_extremes_and_infinities():
    rng = np.random.default_rng(2)
    special = np.array([0.0, -0.0, np.inf, -np.inf, 3.4e38, -3.4e38, 1.2e-38, -1.2e-38, 1.0, -1.0], np.float32)
    _check(rng.choice(special, size=(32, 2080)), 50)
    mostly_masked = np.where(rng.random((8, 4096)) < 0.01, rng.normal(size=(8, 4096)), -np.inf).astype(np.float32)
    _check(mostly_masked, 50)


_SHAPES = ((96, 5), (257, 2), (800, 6))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(_SHAPES), st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 5, 60, 10**6]), st.floats(0, 1))
def test_any_mixture_of_ties_and_infinities(shape, seed, levels, masked):
    count, k = shape
    rng = np.random.default_rng(seed)
    scores = (rng.integers(0, levels, size=(4, count)) - levels // 2).astype(np.float32) / 7
    _check(np.where(rng.random(scores.shape) < masked, np.float32(-np.inf), scores), k)


@pytest.mark.parametrize("limit", [20, 50, 1000, 2048, 2049, 2079, 4096])
def test_limit_equals_masking(limit):
    scores = np.random.default_rng(limit).normal(size=(8, 4096)).astype(np.float32)
    scores[:, limit:] += 100  # the block that the limit cuts looks like the best one
    masked = np.where(np.arange(4096) < limit, scores, -np.inf).astype(np.float32)
    value, index = _in_blocks(scores, 50, jnp.int32(limit))
    expected_value, expected_index = _in_blocks(masked, 50)
    np.testing.assert_array_equal(value, expected_value)
    np.testing.assert_array_equal(index, expected_index)


def test_packed_masks():
    rng = np.random.default_rng(3)
    mask = rng.random((64, 70)) < 0.5
    words = selection.packed(jnp.asarray(mask))
    bits = (np.asarray(words)[:, :, None] >> np.arange(32, dtype=np.uint32)[None, None]) & 1
    np.testing.assert_array_equal(bits.reshape(64, -1)[:, :70], mask)
    count = rng.integers(0, 40, 64)
    kept = selection.keep_first(words, jnp.asarray(count, jnp.int32))
    expected = selection.packed(jnp.asarray(mask & (mask.cumsum(-1) <= count[:, None])))
    np.testing.assert_array_equal(kept, expected)
    places = selection.set_places(words, 10)
    np.testing.assert_array_equal(places, np.stack([np.flatnonzero(row)[:10] for row in mask]))
