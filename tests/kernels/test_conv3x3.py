"""The convolution with few multiplications against XLA's: values, rounding, sizes, bands, gradients, choice."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rounding import EPSILON, assert_rounded_alike, in_float64

from hmhi_jax.kernels import conv3x3 as dispatch
from hmhi_jax.kernels import conv3x3 as winograd
from hmhi_jax.kernels.conv3x3 import conv3x3, plain_conv3x3, transform_kernel, winograd_conv
from hmhi_jax.kernels.convolution import plain_conv
from hmhi_jax.models.layers import Conv3x3


def _arrays(shape: tuple[int, ...], features: int):
    x = jax.random.normal(jax.random.key(0), shape)
    return x, jax.random.normal(jax.random.key(1), (3, 3, shape[-1], features)) / (9 * shape[-1]) ** 0.5


def _amplification() -> np.ndarray:
    """Of the rounding of the products at the points, for every output of a tile's row, from the transforms' weights.

    Along one axis an output is a weighted sum of six products, each of an evaluated row of inputs and of a kernel. Of
    independent inputs their variances are the sums of squared weights; those of the errors, which are relative to
    them, add up with the output's squared weights. The plain sum has three products with weights of one.
    """
    products = np.square(winograd.INPUT_TRANSFORM).sum(1) * np.square(winograd.KERNEL_TRANSFORM).sum(1)
    return np.sqrt(np.square(winograd.OUTPUT_TRANSFORM) @ products / 3)


def _rounded_like_plain(found, plain, exact) -> None:
    """Two axes amplify; half as much again, because it is the largest of many errors that is bounded."""
    assert_rounded_alike(found, plain, exact, times=1.5 * _amplification().max() ** 2)


def _exact(x, kernel) -> np.ndarray:
    """In float64, from the definition."""
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = x.shape[1:3]
    return sum(padded[:, i : i + height, j : j + width] @ kernel[i, j] for i in range(3) for j in range(3))


@pytest.mark.parametrize("shape", [(2, 8, 12, 5), (1, 5, 9, 3), (1, 1, 2, 4), (3, 16, 3, 2)])
def test_every_size(shape):
    x, kernel = _arrays(shape, 6)
    found = jax.jit(winograd_conv)(x, transform_kernel(kernel))
    _rounded_like_plain(found, plain_conv(x, kernel), _exact(x, kernel))


@pytest.mark.parametrize("size", [(4, 6), (5, 3), (1, 2), (8, 9)])
def test_an_enlarged_map_joins(size):
    """Edges, where enlargement clamps and convolution pads, included."""
    height, width = size
    small, kernel = _arrays((2, height, width, 4), 6)
    x = jax.random.normal(jax.random.key(2), (2, 2 * height, 2 * width, 3))
    kernel = jnp.concatenate([kernel, kernel[:, :, :3]], 2)
    found = jax.jit(winograd_conv)(x, transform_kernel(kernel), small)
    exact = in_float64(plain_conv3x3, x, kernel, small)
    _rounded_like_plain(found, plain_conv3x3(x, kernel, small), exact)


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def test_bands_change_nothing(monkeypatch, float64):
    """In float64: how a float32 product is rounded depends on the number of its rows."""
    x, kernel = (a.astype(np.float64) for a in _arrays((2, 21, 12, 4), 3))
    whole = winograd_conv(x, transform_kernel(kernel))
    assert whole.dtype == np.float64
    large = jax.random.normal(jax.random.key(2), (2, 42, 24, 2))
    joined = jnp.concatenate([kernel, kernel[:, :, :2]], 2)
    joined_whole = winograd_conv(large, transform_kernel(joined), x)
    monkeypatch.setattr(winograd, "BAND_TILES", 12)  # of the picture's 6 rows of 2 x 3 tiles, two at a time
    np.testing.assert_allclose(winograd_conv(x, transform_kernel(kernel)), whole, atol=1e-13)
    np.testing.assert_allclose(winograd_conv(large, transform_kernel(joined), x), joined_whole, atol=1e-13)


def test_the_amplification_is_what_the_documentation_says():
    """Four to five times on average over a tile, eight in its corner."""
    assert 4 < np.mean(_amplification() ** 2) < 5
    assert 8 < _amplification().max() ** 2 < 9


def test_rounding_stays_near_that_of_the_plain_sum():
    """Root mean square, at full width, after a ReLU as in the network. The products at the points are summed over the
    channels alone, the plain ones over nine times as many: it comes to less than the amplification."""
    x, kernel = _arrays((1, 16, 16, 256), 64)
    x = jax.nn.relu(x)
    exact = _exact(x, kernel)

    def error(outputs) -> float:
        return float(np.sqrt(np.mean((np.asarray(outputs) - exact) ** 2)) / exact.std())

    plain = error(plain_conv(x, kernel))
    # Terms added one after the other, each time a rounding of up to half a unit of a sum that has yet to grow: the
    # longest way of summing that any processor takes.
    terms = 9 * x.shape[-1]
    assert plain < (terms / 6) ** 0.5 * EPSILON / 2
    assert error(winograd_conv(x, transform_kernel(kernel))) < np.mean(_amplification() ** 2) * plain


@pytest.mark.parametrize("height", [8, 10])
@pytest.mark.parametrize("band", [1024, 3])
def test_gradients_are_those_of_the_plain_form(monkeypatch, height, band):
    """Both gradients of both forms, with rows of tiles that end outside of the picture, in one band and in several."""
    monkeypatch.setattr(dispatch, "FEWEST_TILES", 1)
    monkeypatch.setattr(dispatch, "FEWEST_CHANNELS", 1)
    monkeypatch.setattr(winograd, "BAND_TILES", band)
    x, kernel = _arrays((1, height, 8, 3), 4)

    small = jax.random.normal(jax.random.key(2), (1, height // 2, 4, 1))

    def gradients(form, *inputs):
        return jax.jit(jax.grad(lambda *inputs: jnp.sin(form(*inputs)).sum(), range(len(inputs))))(*inputs)

    for plain_form, inputs in ((plain_conv, (x, kernel)), (plain_conv3x3, (x[..., :2], kernel, small))):
        exact = in_float64(partial(gradients, plain_form), *inputs)
        _rounded_like_plain(gradients(conv3x3, *inputs), gradients(plain_form, *inputs), exact)


def _uses_convolution(x, kernel) -> bool:
    return "stablehlo.convolution" in jax.jit(conv3x3).trace(x, kernel).lower(lowering_platforms=("cpu",)).as_text()


def test_where_it_is_used():
    x, kernel = _arrays((1, 32, 32, 64), 64)
    assert not _uses_convolution(x, kernel)
    assert _uses_convolution(x[:, :16], kernel)  # few tiles
    assert _uses_convolution(x, kernel[..., :8])  # few channels
    assert _uses_convolution(x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16))
    text = jax.jit(conv3x3).trace(x, kernel).lower(lowering_platforms=("cuda",)).as_text()
    assert "stablehlo.convolution" in text
    _rounded_like_plain(jax.jit(conv3x3)(x, kernel), plain_conv(x, kernel), _exact(x, kernel))


def test_the_layer_has_the_parameters_of_a_convolution():
    x, _ = _arrays((1, 4, 4, 3), 1)
    layer = Conv3x3(5, jnp.dtype("float32"))
    variables = layer.init(jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, variables["params"]) == {"kernel": (3, 3, 3, 5), "bias": (5,)}
    shifted = {"params": variables["params"] | {"bias": jnp.arange(5.0)}}
    outputs = layer.apply(shifted, x)
    difference = outputs - layer.apply(variables, x)
    # Adding the bias rounds, by half a unit, and so does taking the difference.
    unit = EPSILON * float(jnp.abs(outputs).max())
    np.testing.assert_allclose(difference, np.broadcast_to(np.arange(5.0), (1, 4, 4, 5)), atol=unit)
