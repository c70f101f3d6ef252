"""Both formulations of the depthwise convolution, and patches as a matrix product, against XLA's convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from hmhi_jax.kernels import convolution
from hmhi_jax.kernels.convolution import depthwise_conv
from hmhi_jax.models.layers import PatchConv

_NHWC = ("NHWC", "HWIO", "NHWC")


def _reference(x, kernel):
    padding = [(side // 2, side // 2) for side in kernel.shape[:2]]
    return lax.conv_general_dilated(
        x, kernel, (1, 1), padding, dimension_numbers=_NHWC, feature_group_count=x.shape[-1]
    )


def _arrays(height: int, width: int, size: int):
    shapes = ((2, height, width, 6), (size, size, 1, 6), (2, height, width, 6))
    return [jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(shapes)]


@pytest.mark.parametrize(("height", "width", "size"), [(16, 8, 3), (5, 9, 7), (8, 8, 7)])
def test_depthwise_values_and_gradients(height, width, size):
    x, kernel, cotangent = _arrays(height, width, size)

    @jax.jit
    def everything(x, kernel, cotangent):
        expected, pullback = jax.vjp(_reference, x, kernel)
        found, our_pullback = jax.vjp(depthwise_conv, x, kernel)
        return (expected, *pullback(cotangent)), (found, *our_pullback(cotangent))

    expected, found = everything(x, kernel, cotangent)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-4)


@pytest.mark.parametrize("form", [convolution._depthwise_shifted, convolution._grouped_native])
def test_depthwise_forms(form):
    x, kernel, _ = _arrays(12, 10, 3)
    np.testing.assert_allclose(jax.jit(form)(x, kernel), _reference(x, kernel), atol=1e-5)


@pytest.mark.parametrize("form", [convolution._kernel_gradient_shifted, convolution._kernel_gradient_native])
@pytest.mark.parametrize("height", [16, 12])
def test_kernel_gradient_forms(form, height):
    x, kernel, cotangent = _arrays(height, 10, 3)
    expected = jax.vjp(lambda k: _reference(x, k), kernel)[1](cotangent)[0]
    np.testing.assert_allclose(jax.jit(form)(x, kernel, cotangent), expected, atol=1e-4)


@pytest.mark.parametrize(("size", "outputs"), [(3, 7), (1, 4), (5, 1)])
def test_dense_gradient_forms(size, outputs):
    keys = [jax.random.key(i) for i in range(3)]
    x, cotangent = (jax.random.normal(keys[i], (2, 9, 11, c)) for i, c in enumerate((6, outputs)))
    kernel = jax.random.normal(keys[2], (size, size, 6, outputs))
    expected = jax.vjp(convolution._native, x, kernel)[1](cotangent)
    for form in (convolution._dense_gradient_native, convolution._dense_gradient_by_rows):
        np.testing.assert_allclose(jax.jit(form)(x, kernel, cotangent), expected[1], atol=2e-4)
    found = jax.jit(lambda *arrays: jax.vjp(convolution.same_conv, *arrays[:2])[1](arrays[2]))(x, kernel, cotangent)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-4)


@pytest.mark.parametrize(("height", "width", "size", "outputs"), [(12, 9, 3, 1), (7, 8, 5, 2)])
def test_few_outputs(height, width, size, outputs):
    keys = jax.random.split(jax.random.key(0), 3)
    x, kernel, given = (
        jax.random.normal(key, shape)
        for key, shape in zip(
            keys, ((2, height, width, 32), (size, size, 32, outputs), (2, height, width, outputs)), strict=True
        )
    )
    found, pullback = jax.vjp(convolution.few_outputs_conv, x, kernel)
    expected, expected_pullback = jax.vjp(convolution._native, x, kernel)
    for one, other in zip((found, *pullback(given)), (expected, *expected_pullback(given)), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-4)


def test_patches_leave_the_remainder_out():
    x = jax.random.normal(jax.random.key(0), (2, 11, 8, 3))
    layer = PatchConv(5, 4, jnp.dtype("float32"))
    variables = layer.init(jax.random.key(1), x)
    kernel = variables["params"]["kernel"]
    expected = lax.conv_general_dilated(x, kernel, (4, 4), "VALID", dimension_numbers=_NHWC)
    np.testing.assert_allclose(layer.apply(variables, x), expected, atol=1e-5)


def test_depthwise_under_vmap():
    x, kernel, _ = _arrays(8, 8, 3)
    both = jax.vmap(depthwise_conv)(jnp.stack([x, 2 * x]), jnp.stack([kernel, kernel]))
    np.testing.assert_allclose(both[1], 2 * both[0], atol=1e-5)
