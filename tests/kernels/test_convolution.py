"""Both formulations of the depthwise convolution, and patches as a matrix product, against XLA's convolution."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from rounding import assert_rounded_alike, in_float64

from hmhi_jax.kernels import convolution
from hmhi_jax.kernels.convolution import depthwise_conv
from hmhi_jax.models.layers import PatchConv

_NHWC = ("NHWC", "HWIO", "NHWC")


def _reference(x, kernel):
    padding = [(side // 2, side // 2) for side in kernel.shape[:2]]
    return lax.conv_general_dilated(
        x, kernel, (1, 1), padding, dimension_numbers=_NHWC, feature_group_count=x.shape[-1]
    )


def _with_gradients(form, x, kernel, cotangent):
    outputs, pullback = jax.vjp(form, x, kernel)
    return outputs, *pullback(cotangent)


def _arrays(height: int, width: int, size: int):
    shapes = ((2, height, width, 6), (size, size, 1, 6), (2, height, width, 6))
    return [jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(shapes)]


@pytest.mark.parametrize(("height", "width", "size"), [(16, 8, 3), (5, 9, 7), (8, 8, 7)])
def test_depthwise_values_and_gradients(height, width, size):
    x, kernel, cotangent = _arrays(height, width, size)

    @jax.jit
    def everything(x, kernel, cotangent):
        return tuple(_with_gradients(form, x, kernel, cotangent) for form in (depthwise_conv, _reference))

    exact = in_float64(partial(_with_gradients, _reference), x, kernel, cotangent)
    assert_rounded_alike(*everything(x, kernel, cotangent), exact)


@pytest.mark.parametrize("form", [convolution._depthwise_shifted, convolution._grouped_native])
def test_depthwise_forms(form):
    x, kernel, _ = _arrays(12, 10, 3)
    assert_rounded_alike(jax.jit(form)(x, kernel), _reference(x, kernel), in_float64(_reference, x, kernel))


@pytest.mark.parametrize("form", [convolution._kernel_gradient_shifted, convolution._kernel_gradient_native])
@pytest.mark.parametrize("height", [16, 12])
def test_kernel_gradient_forms(form, height):
    x, kernel, cotangent = _arrays(height, 10, 3)
    _, _, expected = _with_gradients(_reference, x, kernel, cotangent)
    _, _, exact = in_float64(partial(_with_gradients, _reference), x, kernel, cotangent)
    assert_rounded_alike(jax.jit(form)(x, kernel, cotangent), expected, exact)


@pytest.mark.parametrize(("size", "outputs"), [(3, 7), (1, 4), (5, 1)])
def test_dense_gradient_forms(size, outputs):
    keys = [jax.random.key(i) for i in range(3)]
    x, cotangent = (jax.random.normal(keys[i], (2, 9, 11, c)) for i, c in enumerate((6, outputs)))
    kernel = jax.random.normal(keys[2], (size, size, 6, outputs))
    native = partial(_with_gradients, convolution.plain_conv)
    expected, exact = native(x, kernel, cotangent), in_float64(native, x, kernel, cotangent)
    for form in (convolution._dense_gradient_native, convolution._dense_gradient_by_rows):
        assert_rounded_alike(jax.jit(form)(x, kernel, cotangent), expected[2], exact[2])
    found = jax.jit(partial(_with_gradients, convolution.same_conv))(x, kernel, cotangent)
    assert_rounded_alike(found, expected, exact)


@pytest.mark.parametrize(("height", "width", "size", "outputs"), [(12, 9, 3, 1), (7, 8, 5, 2)])
def test_few_outputs(height, width, size, outputs):
    keys = jax.random.split(jax.random.key(0), 3)
    x, kernel, given = (
        jax.random.normal(key, shape)
        for key, shape in zip(
            keys, ((2, height, width, 32), (size, size, 32, outputs), (2, height, width, outputs)), strict=True
        )
    )
    found = _with_gradients(convolution.few_outputs_conv, x, kernel, given)
    native = partial(_with_gradients, convolution.plain_conv)
    assert_rounded_alike(found, native(x, kernel, given), in_float64(native, x, kernel, given))


def test_a_stem_by_blocks():
    keys = jax.random.split(jax.random.key(0), 3)
    x, kernel, given = (
        jax.random.normal(key, shape)
        for key, shape in zip(keys, ((2, 12, 8, 3), (7, 7, 3, 5), (2, 6, 4, 5)), strict=True)
    )
    native = partial(_with_gradients, convolution._stem_native)
    found = jax.jit(partial(_with_gradients, convolution._stem_by_blocks))(x, kernel, given)
    assert_rounded_alike(found, native(x, kernel, given), in_float64(native, x, kernel, given))


def test_patches_leave_the_remainder_out():
    x = jax.random.normal(jax.random.key(0), (2, 11, 8, 3))
    layer = PatchConv(5, 4, jnp.dtype("float32"))
    variables = layer.init(jax.random.key(1), x)
    kernel = variables["params"]["kernel"]
    plain = partial(lax.conv_general_dilated, window_strides=(4, 4), padding="VALID", dimension_numbers=_NHWC)
    assert_rounded_alike(layer.apply(variables, x), plain(x, kernel), in_float64(plain, x, kernel))


def test_depthwise_under_vmap():
    x, kernel, _ = _arrays(8, 8, 3)
    both = jax.vmap(depthwise_conv)(jnp.stack([x, 2 * x]), jnp.stack([kernel, kernel]))
    exact = in_float64(_reference, x, kernel)
    assert_rounded_alike(both[0], _reference(x, kernel), exact)
    assert_rounded_alike(both[1], _reference(2 * x, kernel), 2 * exact)
