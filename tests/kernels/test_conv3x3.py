"""The convolution with few multiplications against XLA's: values, rounding, sizes, bands, gradients, choice."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hmhi_jax.kernels import conv3x3 as dispatch
from hmhi_jax.kernels import winograd
from hmhi_jax.kernels.conv3x3 import conv3x3, conv3x3_joined, plain_conv3x3, plain_conv3x3_joined
from hmhi_jax.kernels.winograd import transform_kernel, winograd_conv, winograd_conv_joined
from hmhi_jax.models.layers import Conv3x3


def _arrays(shape: tuple[int, ...], features: int):
    x = jax.random.normal(jax.random.key(0), shape)
    return x, jax.random.normal(jax.random.key(1), (3, 3, shape[-1], features)) / (9 * shape[-1]) ** 0.5


def _exact(x, kernel) -> np.ndarray:
    """In float64."""
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = x.shape[1:3]
    return sum(padded[:, i : i + height, j : j + width] @ kernel[i, j] for i in range(3) for j in range(3))


@pytest.mark.parametrize("shape", [(2, 8, 12, 5), (1, 5, 9, 3), (1, 1, 2, 4), (3, 16, 3, 2)])
def test_every_size(shape):
    x, kernel = _arrays(shape, 6)
    found = jax.jit(winograd_conv)(x, transform_kernel(kernel))
    np.testing.assert_allclose(found, _exact(x, kernel), atol=5e-6)


@pytest.mark.parametrize("size", [(4, 6), (5, 3), (1, 2), (8, 9)])
def test_an_enlarged_map_joins(size):
    """Edges, where enlargement clamps and convolution pads, included."""
    height, width = size
    small, kernel = _arrays((2, height, width, 4), 6)
    x = jax.random.normal(jax.random.key(2), (2, 2 * height, 2 * width, 3))
    kernel = jnp.concatenate([kernel, kernel[:, :, :3]], 2)
    found = jax.jit(winograd_conv_joined)(x, small, transform_kernel(kernel))
    np.testing.assert_allclose(found, plain_conv3x3_joined(x, small, kernel), atol=1e-5)


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
    joined_whole = winograd_conv_joined(large, x, transform_kernel(joined))
    monkeypatch.setattr(winograd, "BAND_TILES", 12)  # of the picture's 6 rows of 2 x 3 tiles, two at a time
    np.testing.assert_allclose(winograd_conv(x, transform_kernel(kernel)), whole, atol=1e-13)
    np.testing.assert_allclose(winograd_conv_joined(large, x, transform_kernel(joined)), joined_whole, atol=1e-13)


def test_rounding_stays_near_that_of_the_plain_sum():
    """Root mean square, at full width, after a ReLU as in the network."""
    x, kernel = _arrays((1, 16, 16, 256), 64)
    x = jax.nn.relu(x)
    exact = _exact(x, kernel)

    def error(outputs) -> float:
        return float(np.sqrt(np.mean((np.asarray(outputs) - exact) ** 2)) / exact.std())

    plain = error(plain_conv3x3(x, kernel))
    assert plain < 4e-7
    assert error(winograd_conv(x, transform_kernel(kernel))) < 6 * plain


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

    pairs = [(conv3x3, plain_conv3x3, (x, kernel)), (conv3x3_joined, plain_conv3x3_joined, (x[..., :2], small, kernel))]
    for form, plain_form, inputs in pairs:
        *ours, ours_kernel = gradients(form, *inputs)
        *plain, plain_kernel = gradients(plain_form, *inputs)
        for one, other in zip(ours, plain, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)
        # A sum over all pixels, of far larger numbers: its rounding is that of the transforms, relative to the largest.
        np.testing.assert_allclose(ours_kernel, plain_kernel, atol=1e-6 * float(jnp.abs(plain_kernel).max()))


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
    np.testing.assert_allclose(jax.jit(conv3x3)(x, kernel), plain_conv3x3(x, kernel), atol=1e-5)


def test_the_layer_has_the_parameters_of_a_convolution():
    x, _ = _arrays((1, 4, 4, 3), 1)
    layer = Conv3x3(5, jnp.dtype("float32"))
    variables = layer.init(jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, variables["params"]) == {"kernel": (3, 3, 3, 5), "bias": (5,)}
    shifted = {"params": variables["params"] | {"bias": jnp.arange(5.0)}}
    difference = layer.apply(shifted, x) - layer.apply(variables, x)
    np.testing.assert_allclose(difference, np.broadcast_to(np.arange(5.0), (1, 4, 4, 5)), atol=1e-6)
