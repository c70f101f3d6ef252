"""The branch of an inverted residual block (Sandler et al., CVPR 2018): 1x1 to a wide map, depthwise, 1x1 to a narrow
one, with ReLU6 between them. Padding is TensorFlow's "SAME": at stride 2, an even side is padded at its end alone.

XLA's grouped convolution on CPU takes ten times the arithmetic's time, and the wide map is six times what a block is
given: on CPU the depthwise convolution is a sum of shifted copies, and the backward pass computes the wide map again,
a part at a time that stays in cache, instead of keeping it. On NVIDIA GPUs the shifted sum is one fused kernel too: a
training step of HMHI-Net on EfficientNet-Lite0 (16 clips of 6 frames at 192 x 352, tensorfloat32) took 132 ms on an
H200 where cuDNN's grouped convolution took 224.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from hmhi_jax.kernels.convolution import outer_products, pixel_sums
from hmhi_jax.kernels.platforms import by_platform, costly, define_gradient, gradient_of

_NHWC = ("NHWC", "HWIO", "NHWC")
PART = 2**19  # numbers of the wide map that the backward pass works on at a time


class BranchWeights(NamedTuple):
    """Kernels and biases in the compute dtype, batch norm taken in; the first two are None where nothing is widened."""

    expand: Float[Array, "C W"] | None
    expand_bias: Float[Array, "W"] | None
    depthwise: Float[Array, "k k 1 W"]
    depthwise_bias: Float[Array, "W"]
    project: Float[Array, "W D"]
    project_bias: Float[Array, "D"]


def relu6(x: Array) -> Array:
    """`min(max(x, 0), 6)`."""
    return jnp.clip(x, 0, 6)


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros in front of and behind a side of `size`, so that ceil(size / stride) outputs come."""
    return lax.padtype_to_pads((size,), (kernel,), (stride,), "SAME")[0]


def pad_same(x: Float[Array, "N H W C"], kernel: int, stride: int) -> Float[Array, "N _ _ C"]:
    """`x` with the zeros that a convolution of "SAME" padding sees around it."""
    return jnp.pad(x, ((0, 0), *(same_padding(side, kernel, stride) for side in x.shape[1:3]), (0, 0)))


def _depthwise_native(x: Array, kernel: Array, stride: int) -> Array:
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), "SAME", dimension_numbers=_NHWC, feature_group_count=x.shape[-1]
    )


def _seen_by(padded: Array, i: int | Array, j: int | Array, rows: int, columns: int, stride: int) -> Array:
    """What tap (i, j) sees of a padded map: for every output one pixel."""
    high, wide = stride * (rows - 1) + 1, stride * (columns - 1) + 1
    seen = lax.dynamic_slice(padded, (0, i, j, 0), (padded.shape[0], high, wide, padded.shape[3]))
    return seen[:, ::stride, ::stride]


def _shifted_sum(padded: Array, kernel: Array, rows: int, columns: int, stride: int) -> Array:
    """A depthwise convolution of what is padded already: elementwise work that XLA fuses into one loop on CPU."""
    high, wide = stride * (rows - 1) + 1, stride * (columns - 1) + 1
    places = np.ndindex(kernel.shape[:2])
    taps = [padded[:, i : i + high : stride, j : j + wide : stride] * kernel[None, None, i, j] for i, j in places]
    return sum(taps[1:], start=taps[0])


def _depthwise_shifted(x: Array, kernel: Array, stride: int) -> Array:
    rows, columns = (-(-side // stride) for side in x.shape[1:3])
    return _shifted_sum(pad_same(x, kernel.shape[0], stride), kernel, rows, columns, stride)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def depthwise_same_conv(
    x: Float[Array, "N H W C"], kernel: Float[Array, "k k 1 C"], stride: int
) -> Float[Array, "N h w C"]:
    """Depthwise convolution with "SAME" padding, in the platform's form."""
    shifted, native = (partial(form, stride=stride) for form in (_depthwise_shifted, _depthwise_native))
    return by_platform(x, kernel, cpu=shifted, accelerator=native, cuda=shifted)


def _depthwise_backward(stride: int, residuals: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    shifted = partial(_depthwise_gradient_shifted, stride=stride)
    native = gradient_of(partial(_depthwise_native, stride=stride), 2)
    return by_platform(cotangent, *residuals, cpu=shifted, accelerator=native, cuda=shifted)


def _depthwise_gradient_shifted(cotangent: Array, x: Array, kernel: Array, stride: int) -> tuple[Array, Array]:
    (height, width), size = x.shape[1:3], kernel.shape[0]
    padded = pad_same(x, size, stride)
    top, left = (same_padding(side, size, stride)[0] for side in (height, width))
    dpadded = _transposed_shifted_sum(cotangent, kernel, stride, padded.shape[1:3])
    dkernel = _kernel_gradient_shifted(padded, cotangent, size, stride).astype(kernel.dtype)
    return dpadded[:, top : top + height, left : left + width], dkernel


define_gradient(depthwise_same_conv, _depthwise_backward)


def _kernel_gradient_shifted(padded: Array, cotangent: Array, size: int, stride: int) -> Float[Array, "k k 1 C"]:
    """For every tap, the sum over pixels of what it sees times the cotangent; float32."""
    rows, columns = cotangent.shape[1:3]

    def tap(index: int | Array) -> Array:
        return pixel_sums(_seen_by(padded, index // size, index % size, rows, columns, stride) * cotangent)

    taps = size * size
    # Written out, the taps of a large kernel take long to compile.
    sums = jnp.stack([tap(index) for index in range(taps)]) if taps <= 9 else lax.map(tap, jnp.arange(taps))
    return sums.reshape(size, size, 1, -1)


def _branch(x: Array, weights: BranchWeights, stride: int, depthwise_conv=_depthwise_native) -> Array:
    if weights.expand is not None:
        x = relu6(x @ weights.expand + weights.expand_bias[None, None, None])
    x = depthwise_conv(x, weights.depthwise, stride) + weights.depthwise_bias[None, None, None]
    return relu6(x) @ weights.project + weights.project_bias[None, None, None]


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def branch_recomputed(x: Float[Array, "N H W C"], weights: BranchWeights, stride: int) -> Float[Array, "N h w D"]:
    """For CPU: the branch, of which the backward pass keeps nothing but `x`."""
    return _branch(x, weights, stride, _depthwise_shifted)


def _recomputed_backward(
    stride: int, residuals: tuple[Array, BranchWeights], cotangent: Array
) -> tuple[Array, BranchWeights]:
    """Some pictures, or a band of rows of one picture, after the other, each adding to the gradient of what it saw."""
    x, weights = residuals
    pictures, height, width, channels = x.shape
    size, wide = weights.depthwise.shape[0], weights.depthwise.shape[-1]
    rows, columns = cotangent.shape[1:3]
    together, band = parts(pictures, rows, stride * stride * columns * wide)
    bands = -(-rows // band)
    top, left = (same_padding(side, size, stride)[0] for side in (height, width))
    seen = stride * (band - 1) + size  # rows of the wide map that a band's outputs see
    # Rows above and below the picture, so that every band sees as many.
    below = stride * (bands * band - 1) + size - top - height
    padded = jnp.pad(x, ((0, 0), (top, max(below, 0)), (0, 0), (0, 0)))
    given = jnp.pad(cotangent, ((0, 0), (0, bands * band - rows), (0, 0), (0, 0)))

    def one(carry: tuple[Array, BranchWeights], index: Array) -> tuple[tuple[Array, BranchWeights], None]:
        gradient, totals = carry
        picture, first = together * (index // bands), band * (index % bands)
        place = (picture, stride * first, 0, 0)
        part = lax.dynamic_slice(padded, place, (together, seen, width, channels))
        part_given = lax.dynamic_slice(given, (picture, first, 0, 0), (together, band, *given.shape[2:]))
        row = stride * first - top + jnp.arange(seen)
        dx, dweights = _part_gradient(part, part_given, weights, stride, left, (row >= 0) & (row < height))
        before = lax.dynamic_slice(gradient, place, dx.shape)
        # Written on its own: an operation fused with the write into the whole runs on one thread.
        gradient = lax.dynamic_update_slice(gradient, lax.optimization_barrier(before + dx), place)
        return (gradient, jax.tree.map(jnp.add, totals, dweights)), None

    zeros = jax.tree.map(lambda w: jnp.zeros(w.shape, jnp.float32), weights)
    carry = (jnp.zeros(padded.shape, x.dtype), zeros)
    count = pictures // together * bands
    if count == 1:
        carry, _ = one(carry, jnp.zeros((), jnp.int32))
    else:
        carry, _ = lax.scan(one, carry, jnp.arange(count))
    gradient, totals = carry
    totals = jax.tree.map(lambda total, w: total.astype(w.dtype), totals, weights)
    return gradient[:, top : top + height], totals


define_gradient(branch_recomputed, _recomputed_backward)


def parts(pictures: int, rows: int, row: int) -> tuple[int, int]:
    """How many pictures the backward pass takes at a time, and how many rows of outputs.

    `row` is what the wide map has for a row of outputs. Several pictures, a divisor of all, if they fit into `PART`
    numbers; else equal bands of one.
    """
    if rows * row <= PART:
        fitting = max(1, PART // (rows * row))
        return max(n for n in range(1, pictures + 1) if pictures % n == 0 and n <= fitting), rows
    bands = math.ceil(rows * row / PART)
    return 1, -(-rows // bands)


def _part_gradient(
    x: Float[Array, "n s W C"],
    given: Float[Array, "n b w D"],
    weights: BranchWeights,
    stride: int,
    left: int,
    inside: Bool[Array, "s"],
) -> tuple[Float[Array, "n s W C"], BranchWeights]:
    """What `b` rows of outputs give to the gradient of the rows they see, of which `inside` are the picture's own.

    Barriers keep maps that several operations read from being computed anew in each of them.
    """
    width, (rows, columns) = x.shape[2], given.shape[1:3]
    kernel, size = weights.depthwise, weights.depthwise.shape[0]
    right = stride * (columns - 1) + size - left - width
    inside = inside.astype(x.dtype)[None, :, None, None]

    if weights.expand is None:
        hidden = x
    else:
        linear = lax.optimization_barrier(x @ weights.expand + weights.expand_bias[None, None, None])
        hidden = relu6(linear) * inside  # the depthwise convolution sees zeros beyond the picture
    padded = lax.optimization_barrier(jnp.pad(hidden, ((0, 0), (0, 0), (left, max(right, 0)), (0, 0))))
    mixed = _shifted_sum(padded, kernel, rows, columns, stride) + weights.depthwise_bias[None, None, None]
    mixed = lax.optimization_barrier(mixed)
    slope = ((mixed > 0) & (mixed < 6)).astype(x.dtype)
    dmixed = lax.optimization_barrier((given @ weights.project.T) * slope)
    dhidden = _transposed_shifted_sum(dmixed, kernel, stride, padded.shape[1:3])[:, :, left : left + width]

    dkernel = _kernel_gradient_shifted(padded, dmixed, size, stride)
    later = dkernel, pixel_sums(dmixed), outer_products(relu6(mixed), given), pixel_sums(given)
    if weights.expand is None:
        return dhidden, BranchWeights(None, None, *later)
    dlinear = lax.optimization_barrier(dhidden * (((linear > 0) & (linear < 6)).astype(x.dtype) * inside))
    return dlinear @ weights.expand.T, BranchWeights(outer_products(x, dlinear), pixel_sums(dlinear), *later)


def _transposed_shifted_sum(
    x: Float[Array, "n b w C"], kernel: Float[Array, "k k 1 C"], stride: int, shape: tuple[int, int]
) -> Float[Array, "n H W C"]:
    """The transpose of `_shifted_sum`: what was padded has `shape`.

    The places that have the same remainder by the stride see the same taps; each kind is one sum of shifted copies.
    """
    size = kernel.shape[0]
    reach = (size - 1) // stride
    padded = lax.optimization_barrier(jnp.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0))))
    high, wide = (-(-side // stride) for side in shape)

    def kind(p: int, q: int) -> Array:
        taps = []
        for i in range(p, size, stride):
            for j in range(q, size, stride):
                y, z = reach - (i - p) // stride, reach - (j - q) // stride
                taps.append(padded[:, y : y + high, z : z + wide] * kernel[None, None, i, j])
        return sum(taps[1:], start=taps[0])

    if stride == 1:
        return kind(0, 0)
    kinds = jnp.stack([jnp.stack([kind(p, q) for q in range(stride)], 3) for p in range(stride)], 2)
    together = kinds.reshape(x.shape[0], high * stride, wide * stride, x.shape[3])
    return together[:, : shape[0], : shape[1]]


def inverted_residual_branch(
    x: Float[Array, "N H W C"], weights: BranchWeights, stride: int
) -> Float[Array, "N h w D"]:
    """The branch in the platform's form."""
    recomputed, plain = (partial(form, stride=stride) for form in (branch_recomputed, _branch))
    kept = partial(plain, depthwise_conv=depthwise_same_conv)
    return costly(by_platform(x, weights, cpu=recomputed, accelerator=plain, cuda=kept))


def _stem_native(x: Array, kernel: Array) -> Array:
    return lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=_NHWC)


def _stem_patches(x: Array, kernel: Array) -> Array:
    """Every output's window as a row of one matrix product, which has a fast gradient too."""
    size, _, channels, features = kernel.shape
    rows, columns = (-(-side // 2) for side in x.shape[1:3])
    padded = pad_same(x, size, 2)
    windows = jnp.concatenate([_seen_by(padded, i, j, rows, columns, 2) for i, j in np.ndindex(size, size)], -1)
    return windows @ kernel.reshape(size * size * channels, features)


def stem_conv(x: Float[Array, "N H W C"], kernel: Float[Array, "k k C D"]) -> Float[Array, "N h w D"]:
    """The strided convolution of few channels that the network begins with, "SAME" padding, in the platform's form."""
    return costly(by_platform(x, kernel, cpu=_stem_patches, accelerator=_stem_native))
