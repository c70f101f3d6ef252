"""Inverted residual blocks: the forms for CPU against XLA's own convolutions, values and gradients."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hmhi_jax.kernels import inverted_residual
from hmhi_jax.kernels.inverted_residual import (
    BranchWeights,
    _branch,
    _depthwise_native,
    _stem_native,
    _stem_patches,
    branch_recomputed,
    depthwise_same_conv,
    parts,
)


def drawn(channels: int, ratio: int, size: int, features: int) -> BranchWeights:
    """Weights that reach both ends of ReLU6 in some places."""
    wide = ratio * channels
    keys = iter(jax.random.split(jax.random.key(3), 6))
    expand = None if ratio == 1 else 2 * jax.random.normal(next(keys), (channels, wide))
    expand_bias = None if ratio == 1 else 1 + jax.random.normal(next(keys), (wide,))
    return BranchWeights(
        expand,
        expand_bias,
        jax.random.normal(next(keys), (size, size, 1, wide)),
        1 + jax.random.normal(next(keys), (wide,)),
        jax.random.normal(next(keys), (wide, features)),
        jax.random.normal(next(keys), (features,)),
    )


def value_and_gradients(form, *arguments):
    """The value and the gradients of a loss that weighs every output differently."""
    outputs, pullback = jax.vjp(form, *arguments)
    return outputs, pullback(jnp.cos(jnp.arange(outputs.size, dtype=jnp.float32)).reshape(outputs.shape))


def assert_same(found, expected):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, atol=2e-5 * float(jnp.abs(b).max()))


@pytest.mark.parametrize("part", [2**19, 700, 96])  # all at once; some pictures, or bands of rows that do not divide
@pytest.mark.parametrize(
    ("shape", "size", "stride", "ratio"),
    [
        ((4, 6, 8, 2), 3, 1, 1),
        ((4, 6, 8, 2), 3, 1, 6),
        ((4, 6, 8, 2), 3, 2, 6),
        ((4, 8, 6, 2), 5, 1, 6),
        ((4, 8, 6, 2), 5, 2, 6),
        ((2, 7, 5, 2), 3, 2, 6),  # odd sides are padded on both
        ((2, 7, 5, 2), 5, 2, 6),
        ((2, 2, 3, 2), 5, 1, 6),  # a kernel larger than the picture
    ],
)
def test_the_forms_agree(monkeypatch, part, shape, size, stride, ratio):
    monkeypatch.setattr(inverted_residual, "PART", part)
    x = jax.random.normal(jax.random.key(0), shape)
    weights = drawn(shape[-1], ratio, size, 5)
    ours, native = (partial(form, stride=stride) for form in (branch_recomputed, _branch))
    assert_same(value_and_gradients(jax.jit(ours), x, weights), value_and_gradients(jax.jit(native), x, weights))


@pytest.mark.parametrize(("size", "stride", "sides"), [(3, 1, (6, 8)), (3, 2, (6, 8)), (5, 2, (8, 7)), (5, 1, (3, 4))])
def test_the_depthwise_convolution_alone(size, stride, sides):
    x = jax.random.normal(jax.random.key(0), (2, *sides, 3))
    kernel = jax.random.normal(jax.random.key(1), (size, size, 1, 3))
    ours, native = (partial(form, stride=stride) for form in (depthwise_same_conv, _depthwise_native))
    assert_same(value_and_gradients(ours, x, kernel), value_and_gradients(native, x, kernel))


def test_the_stem():
    x = jax.random.normal(jax.random.key(0), (2, 8, 6, 3))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 3, 4))
    assert_same(value_and_gradients(_stem_patches, x, kernel), value_and_gradients(_stem_native, x, kernel))


def test_parts_cover_all_pictures_and_rows():
    for pictures in (1, 6, 7):
        for rows, row in ((1, 10), (9, 1000), (64, 50_000), (3, 2**21)):
            together, band = parts(pictures, rows, row)
            assert pictures % together == 0
            assert band == rows or together == 1
            assert 1 <= band <= rows
