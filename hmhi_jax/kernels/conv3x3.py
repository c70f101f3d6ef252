"""The 3x3 convolutions between wide maps, where most of the network's arithmetic is."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hmhi_jax.kernels.convolution import dense_kernel_gradient, plain_conv, turned
from hmhi_jax.kernels.platforms import by_platform
from hmhi_jax.kernels.precision import define_gradient
from hmhi_jax.kernels.resampling import enlarge
from hmhi_jax.kernels.winograd import (
    TILE,
    transform_kernel,
    winograd_conv,
    winograd_conv_joined,
    winograd_input_gradient,
    winograd_kernel_gradient,
)

# Measured on CPU: with fewer tiles, transforming the kernel costs more than the products it saves; with fewer channels,
# the transforms of inputs and outputs do.
FEWEST_TILES = 64
FEWEST_CHANNELS = 64


@jax.custom_vjp
def conv3x3(x: Float[Array, "B H W C"], kernel: Float[Array, "3 3 C D"]) -> Float[Array, "B H W D"]:
    """Stride 1, zero padding that keeps the size.

    On CPU a value in float32 is computed with a quarter of the multiplications, and so are both gradients. Half
    precision (whose rounding the transforms would enlarge) and accelerators, whose convolutions are better fed than
    small matrix products, take the plain form.
    """
    return by_platform(x, kernel, cpu=_transformed if _pays(x, kernel) else plain_conv, accelerator=plain_conv)


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return conv3x3(x, kernel), (x, kernel)


def _backward(residuals: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    cpu = _transformed_gradients if _pays(x, kernel) else _plain_gradients
    return by_platform(x, kernel, cotangent, cpu=cpu, accelerator=_plain_gradients)


def _transformed_gradients(x: Array, kernel: Array, cotangent: Array) -> tuple[Array, Array]:
    return winograd_input_gradient(cotangent, kernel), winograd_kernel_gradient(x, cotangent)


def _plain_gradients(x: Array, kernel: Array, cotangent: Array) -> tuple[Array, Array]:
    return plain_conv(cotangent, turned(kernel)), dense_kernel_gradient(x, kernel, cotangent)


define_gradient(conv3x3, _forward, _backward)


@jax.custom_vjp
def conv3x3_joined(
    x: Float[Array, "B H W C"], small: Float[Array, "B h w E"], kernel: Float[Array, "3 3 _ D"]
) -> Float[Array, "B H W D"]:
    """`conv3x3` of `x` with `small`, enlarged bicubically to twice its size, as further channels."""
    cpu = _transformed_joined if _pays(x, kernel) else plain_conv3x3_joined
    return by_platform(x, small, kernel, cpu=cpu, accelerator=plain_conv3x3_joined)


def _joined_forward(x: Array, small: Array, kernel: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    return conv3x3_joined(x, small, kernel), (x, small, kernel)


def _joined_backward(residuals: tuple[Array, Array, Array], cotangent: Array) -> tuple[Array, Array, Array]:
    x, small, kernel = residuals
    cpu = _transformed_joined_gradients if _pays(x, kernel) else _plain_joined_gradients
    joined, dkernel = by_platform(x, small, kernel, cotangent, cpu=cpu, accelerator=_plain_joined_gradients)
    dx, denlarged = jnp.split(joined, [x.shape[-1]], -1)
    (dsmall,) = jax.linear_transpose(partial(enlarge, scale=2), small)(denlarged)
    return dx, dsmall, dkernel


def _transformed_joined_gradients(x: Array, small: Array, kernel: Array, cotangent: Array) -> tuple[Array, Array]:
    return winograd_input_gradient(cotangent, kernel), winograd_kernel_gradient(x, cotangent, small)


def _plain_joined_gradients(x: Array, small: Array, kernel: Array, cotangent: Array) -> tuple[Array, Array]:
    return _plain_gradients(jnp.concatenate([x, enlarge(small, 2)], -1), kernel, cotangent)


define_gradient(conv3x3_joined, _joined_forward, _joined_backward)


def plain_conv3x3_joined(
    x: Float[Array, "B H W C"], small: Float[Array, "B h w E"], kernel: Float[Array, "3 3 _ D"]
) -> Float[Array, "B H W D"]:
    """The plain form of `conv3x3_joined`."""
    return plain_conv(jnp.concatenate([x, enlarge(small, 2)], -1), kernel)


def _pays(x: Array, kernel: Array) -> bool:
    tiles = x.shape[0] * (x.shape[1] // TILE) * (x.shape[2] // TILE)
    return x.dtype == jnp.float32 and tiles >= FEWEST_TILES and min(kernel.shape[2:]) >= FEWEST_CHANNELS


def _transformed(x: Array, kernel: Array) -> Array:
    return winograd_conv(x, transform_kernel(kernel))


def _transformed_joined(x: Array, small: Array, kernel: Array) -> Array:
    return winograd_conv_joined(x, small, transform_kernel(kernel))
