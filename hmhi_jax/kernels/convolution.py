"""Convolutions in the forms that are fast on each platform.

XLA's grouped convolution on CPU is ten to thirty times slower than the arithmetic it does, so on CPU a depthwise
convolution is written as a sum of shifted, scaled copies and a strided one as small matrix products; accelerators keep
the native operation. Convolutions whose stride equals their kernel are one matrix product everywhere.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from hmhi_jax.kernels.platforms import by_platform, costly, define_gradient, gradient_of

_NHWC = ("NHWC", "HWIO", "NHWC")
INPUTS_PER_OUTPUT = 16  # times as many input channels as outputs, or more: `few_outputs_conv` pays


def _pad_same(x: Array, kernel: Array) -> Array:
    rows, columns = (size // 2 for size in kernel.shape[:2])
    return jnp.pad(x, ((0, 0), (rows, rows), (columns, columns), (0, 0)))


def pixel_sums(x: Float[Array, "N H W C"]) -> Float[Array, "C"]:
    """Sums over all pixels, in float32."""
    return x.astype(jnp.float32).sum((0, 1, 2))


def outer_products(a: Float[Array, "N H W C"], b: Float[Array, "N H W D"]) -> Float[Array, "C D"]:
    """Sum over all pixels of outer products, in float32."""
    a, b = (x.reshape(-1, x.shape[-1]) for x in (a, b))
    return jnp.matmul(a.T, b, preferred_element_type=jnp.float32)


def _depthwise_shifted(x: Array, kernel: Array) -> Array:
    """Sum over the kernel's taps of the shifted input: elementwise work that XLA's CPU backend fuses into one loop.

    The barrier, which training steps keep, has it computed once, not again in the loop of each of its readers.
    """
    batch, height, width, channels = x.shape
    padded = _pad_same(x, kernel)
    total = None
    for i, j in np.ndindex(kernel.shape[:2]):
        # Primitives: of up to 49 taps, indexing takes nearly twice as long to trace.
        seen = lax.slice(padded, (0, i, j, 0), (batch, i + height, j + width, channels))
        weight = lax.squeeze(lax.slice(kernel, (i, j, 0, 0), (i + 1, j + 1, 1, channels)), (0, 1, 2))
        term = seen * lax.broadcast_in_dim(weight, x.shape, (3,))
        total = term if total is None else total + term
    return lax.optimization_barrier(total)


def _kernel_gradient_shifted(x: Array, kernel: Array, cotangent: Array) -> Array:
    """One sum over all pixels for each tap.

    The sums are taken in two steps, first within groups of eight rows: one long reduction to [C] runs on a single
    thread, the grouped one on all of them. The 49 taps of a large kernel are a loop: its body runs on one thread, yet
    the whole takes a quarter of the processor time of 49 reductions written out, and compiles in a sixth.
    """
    batch, height, width, channels = x.shape
    rows = 8 if height % 8 == 0 else height
    padded = _pad_same(x, kernel)
    taps_wide = kernel.shape[1]

    def tap(index: int | Array) -> Array:
        shifted = lax.dynamic_slice(padded, (0, index // taps_wide, index % taps_wide, 0), x.shape)
        grouped = (shifted * cotangent).reshape(batch * height // rows, rows, width, channels).sum(1)
        return lax.optimization_barrier(grouped).sum((0, 1))

    taps = kernel.shape[0] * taps_wide
    sums = jnp.stack([tap(index) for index in range(taps)]) if taps <= 9 else lax.map(tap, jnp.arange(taps))
    return sums.reshape(kernel.shape)


def _kernel_gradient_native(x: Array, kernel: Array, cotangent: Array) -> Array:
    _, pullback = jax.vjp(lambda k: _grouped_native(x, k), kernel)
    return pullback(cotangent)[0]


@jax.custom_vjp
def depthwise_conv(x: Float[Array, "B H W C"], kernel: Float[Array, "kh kw 1 C"]) -> Float[Array, "B H W C"]:
    """Depthwise convolution, stride 1, zero padding that keeps the size; the kernel's sides are odd."""
    return lax.platform_dependent(x, kernel, cpu=_depthwise_shifted, default=_grouped_native)


def _backward(residuals, cotangent):
    x, kernel = residuals
    # The input's gradient is the same operation with the kernel turned by 180 degrees.
    dx = depthwise_conv(cotangent, kernel[::-1, ::-1])
    dkernel = lax.platform_dependent(
        x, kernel, cotangent, cpu=_kernel_gradient_shifted, default=_kernel_gradient_native
    )
    return dx, dkernel


define_gradient(depthwise_conv, _backward)


def plain_conv(x: Float[Array, "B H W C"], kernel: Float[Array, "kh kw C D"]) -> Float[Array, "B H W D"]:
    """Stride 1, zero padding that keeps the size, in XLA's own form; the kernel's sides are odd."""
    padding = [(size // 2, size // 2) for size in kernel.shape[:2]]
    return lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=_NHWC)


def _dense_gradient_native(x: Array, kernel: Array, cotangent: Array) -> Array:
    _, pullback = jax.vjp(lambda k: plain_conv(x, k), kernel)
    return pullback(cotangent)[0]


def _dense_gradient_by_rows(x: Array, kernel: Array, cotangent: Array) -> Array:
    """A matrix product for each of the kernel's rows, between the input and the cotangent in the places from which the
    row's taps see the input: three times as fast as XLA's convolution of the two on CPU."""
    high, wide = kernel.shape[:2]
    batch, height, width, channels = x.shape
    padded = _pad_same(cotangent, kernel)
    pixels = x.reshape(-1, channels).T

    def row(index: int | Array) -> Array:
        seen = lax.dynamic_slice(padded, (0, index, 0, 0), (batch, height, *padded.shape[2:]))
        taps = jnp.concatenate([seen[:, :, j : j + width] for j in reversed(range(wide))], -1)
        return jnp.matmul(pixels, taps.reshape(pixels.shape[1], -1), preferred_element_type=jnp.float32)

    rows = lax.map(row, jnp.arange(high)[::-1]) if high > 1 else row(0)[None]
    by_tap = rows.reshape(high, channels, wide, -1).swapaxes(1, 2)
    return by_tap.astype(kernel.dtype)


def dense_kernel_gradient(
    x: Float[Array, "B H W C"], kernel: Float[Array, "kh kw C D"], cotangent: Float[Array, "B H W D"]
) -> Float[Array, "kh kw C D"]:
    """The gradient of the kernel of a convolution of stride 1 with zero padding that keeps the size."""
    return by_platform(x, kernel, cotangent, cpu=_dense_gradient_by_rows, accelerator=_dense_gradient_native)


def transposed_kernel(kernel: Float[Array, "kh kw C D"]) -> Float[Array, "kh kw D C"]:
    """The kernel whose convolution is the transpose of this one's."""
    return kernel[::-1, ::-1].swapaxes(2, 3)


@jax.custom_vjp
def same_conv(x: Float[Array, "B H W C"], kernel: Float[Array, "kh kw C D"]) -> Float[Array, "B H W D"]:
    """`plain_conv`, whose kernel gradient has a form of its own on CPU."""
    return plain_conv(x, kernel)


def _same_backward(residuals, cotangent):
    x, kernel = residuals
    return plain_conv(cotangent, transposed_kernel(kernel)), dense_kernel_gradient(x, kernel, cotangent)


define_gradient(same_conv, _same_backward)


def few_outputs_conv(x: Float[Array, "B H W C"], kernel: Float[Array, "kh kw C D"]) -> Float[Array, "B H W D"]:
    """As `same_conv`, for few output channels: one matrix product of all pixels with all taps, whose results, fewer
    than the pixels have channels, are then shifted and added. For 256 channels and one output that takes half the time
    on CPU, with gradients a third, and a tenth by the TPU compiler's estimate."""
    high, wide, channels, outputs = kernel.shape
    height, width = x.shape[1:3]
    taps = kernel.reshape(-1, channels, outputs)
    products = jnp.einsum("bhwc,tcd->bhwtd", x, taps, preferred_element_type=jnp.float32)
    around = ((0, 0), (high // 2, high // 2), (wide // 2, wide // 2), (0, 0), (0, 0))
    products = jnp.pad(products, around)
    shifted = [products[:, i : i + height, j : j + width, i * wide + j] for i in range(high) for j in range(wide)]
    return sum(shifted[1:], start=shifted[0]).astype(x.dtype)


def flax_same_conv(x: Array, kernel: Array, *_: Any, **__: Any) -> Array:
    """In the place of `lax.conv_general_dilated`, whose other arguments say what it does anyway: `same_conv`, or what
    is faster for this many outputs."""
    return costly(
        (few_outputs_conv if kernel.shape[3] <= kernel.shape[2] // INPUTS_PER_OUTPUT else same_conv)(x, kernel)
    )


def flax_conv(*arguments: Any, **settings: Any) -> Array:
    """`lax.conv_general_dilated`, its result marked as costly."""
    return costly(lax.conv_general_dilated(*arguments, **settings))


def flax_stem_conv(x: Array, kernel: Array, *_: Any, **__: Any) -> Array:
    """In the place of `lax.conv_general_dilated` for a 7x7 convolution of stride 2, padding 3, of a picture with even
    sides: on CPU as a 4x4 convolution of blocks of 2x2 pixels, which takes a third of the time for 32 outputs."""
    return costly(by_platform(x, kernel, cpu=_stem_by_blocks, accelerator=_stem_native))


def _stem_native(x: Array, kernel: Array) -> Array:
    return lax.conv_general_dilated(x, kernel, (2, 2), ((3, 3), (3, 3)), dimension_numbers=_NHWC)


def _stem_by_blocks(x: Array, kernel: Array) -> Array:
    batch, height, width, channels = x.shape
    pixels = x.reshape(batch, height // 2, 2, width // 2, 2, channels).swapaxes(2, 3)
    blocks = pixels.reshape(batch, height // 2, width // 2, -1)
    taps = jnp.pad(kernel, ((1, 0), (1, 0), (0, 0), (0, 0))).reshape(4, 2, 4, 2, channels, -1).swapaxes(1, 2)
    taps = taps.reshape(4, 4, blocks.shape[-1], -1)
    return lax.conv_general_dilated(blocks, taps, (1, 1), ((2, 1), (2, 1)), dimension_numbers=_NHWC)


def patch_conv(x: Float[Array, "B H W C"], kernel: Float[Array, "p p C D"]) -> Float[Array, "B h w D"]:
    """A convolution whose stride is its kernel size: patches are rows of one matrix product. A remainder at the right
    and bottom is left out."""
    batch, height, width, channels = x.shape
    patch, features = kernel.shape[0], kernel.shape[3]
    rows, columns = height // patch, width // patch
    x = x[:, : rows * patch, : columns * patch].reshape(batch, rows, patch, columns, patch, channels)
    patches = x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows, columns, patch * patch * channels)
    return patches @ kernel.reshape(-1, features)


def _grouped_native(x: Array, kernel: Array, stride: int = 1) -> Array:
    padding = [(size // 2, size // 2) for size in kernel.shape[:2]]
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=_NHWC, feature_group_count=x.shape[-1]
    )


def _grouped_patches(x: Array, kernel: Array, stride: int) -> Array:
    """Every output's window as a row, then one small matrix product per channel."""
    batch, height, width, channels = x.shape
    taps_high, taps_wide = kernel.shape[:2]
    rows, columns = -(-height // stride), -(-width // stride)
    padded = _pad_same(x, kernel)
    # Rows first, then columns: 14 slices of a 7x7 kernel's windows instead of 49, each with a gradient of its own.
    bands = jnp.stack([padded[:, i : i + stride * (rows - 1) + 1 : stride] for i in range(taps_high)], -1)
    windows = jnp.stack([bands[:, :, j : j + stride * (columns - 1) + 1 : stride] for j in range(taps_wide)], -1)
    windows = windows.reshape(batch, rows, columns, channels, -1)
    # Output channels of a group stand next to each other.
    weights = kernel.reshape(taps_high * taps_wide, channels, -1)
    return jnp.einsum("bhwct,tcm->bhwcm", windows, weights).reshape(batch, rows, columns, -1)


def _grouped_shifted(x: Array, kernel: Array, stride: int) -> Array:
    """Sum over the taps, as in `_depthwise_shifted`. A tap sees every `stride`-th row and column, so these are laid out
    next to each other first."""
    batch, height, width, channels = x.shape
    taps_high, taps_wide = kernel.shape[:2]
    rows, columns = -(-height // stride), -(-width // stride)
    padded = _pad_same(x, kernel)
    padded = jnp.pad(padded, ((0, 0), (0, -padded.shape[1] % stride), (0, -padded.shape[2] % stride), (0, 0)))
    phases = padded.reshape(batch, -1, stride, padded.shape[2] // stride, stride, channels).transpose(0, 2, 4, 1, 3, 5)
    # Output channels of a group stand next to each other; here they come in front, for whole vectors of channels.
    weights = kernel.reshape(taps_high, taps_wide, channels, -1).swapaxes(2, 3)
    filters, whole = weights.shape[2], (batch, rows, columns, *weights.shape[2:])
    total = None
    for i, j in np.ndindex(taps_high, taps_wide):  # primitives here too
        first = (0, i % stride, j % stride, i // stride, j // stride, 0)
        extent = (batch, 1, 1, rows, columns, channels)
        seen = lax.squeeze(lax.slice(phases, first, [a + b for a, b in zip(first, extent, strict=True)]), (1, 2))
        weight = lax.squeeze(lax.slice(weights, (i, j, 0, 0), (i + 1, j + 1, filters, channels)), (0, 1))
        term = lax.broadcast_in_dim(seen, whole, (0, 1, 2, 4)) * lax.broadcast_in_dim(weight, whole, (3, 4))
        total = term if total is None else total + term
    return lax.optimization_barrier(total).swapaxes(-1, -2).reshape(batch, rows, columns, -1)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def channelwise_conv(
    x: Float[Array, "B H W C"], kernel: Float[Array, "kh kw 1 D"], stride: int
) -> Float[Array, "B h w D"]:
    """Every input channel with D / C filters of its own, padding of half the kernel, whose sides are odd."""
    shifted, native = (partial(form, stride=stride) for form in (_grouped_shifted, _grouped_native))
    return by_platform(x, kernel, cpu=shifted, accelerator=native)


def _channelwise_backward(stride: int, residuals: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    """On GPUs the native form's kernel gradient makes the compiler collect a batch that is split over chips on all of
    them, and takes fifteen times the memory; on TPUs both its and the patches' gradients are estimated at eight to
    fifteen times the shifted form's, which needs no memory of its own."""
    patches, shifted = (gradient_of(partial(form, stride=stride), 2) for form in (_grouped_patches, _grouped_shifted))
    return by_platform(cotangent, *residuals, cpu=patches, accelerator=patches, tpu=shifted)


define_gradient(channelwise_conv, _channelwise_backward)
