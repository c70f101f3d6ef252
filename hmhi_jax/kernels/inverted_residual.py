"""The branch of an inverted residual block (Sandler et al., CVPR 2018): 1x1 to a wide map, depthwise, 1x1 to a narrow
one, with ReLU6 between them. Padding is TensorFlow's "SAME": at stride 2, an even side is padded at its end alone.
"""

from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from hmhi_jax.kernels.platforms import by_platform, dear

_NHWC = ("NHWC", "HWIO", "NHWC")


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


def _depthwise_shifted(x: Array, kernel: Array, stride: int) -> Array:
    """Sum over the kernel's taps of shifted, thinned copies: elementwise work that XLA's CPU backend fuses."""
    size = kernel.shape[0]
    rows, columns = (-(-side // stride) for side in x.shape[1:3])
    padded = pad_same(x, size, stride)
    taps = [
        padded[:, i : i + stride * (rows - 1) + 1 : stride, j : j + stride * (columns - 1) + 1 : stride]
        * kernel[None, None, i, j]
        for i in range(size)
        for j in range(size)
    ]
    return sum(taps[1:], start=taps[0])


def depthwise_same_conv(
    x: Float[Array, "N H W C"], kernel: Float[Array, "k k 1 C"], stride: int
) -> Float[Array, "N h w C"]:
    """Depthwise convolution with "SAME" padding, in the platform's form."""
    shifted, native = (partial(form, stride=stride) for form in (_depthwise_shifted, _depthwise_native))
    return by_platform(x, kernel, cpu=shifted, accelerator=native)


def branch(x: Float[Array, "N H W C"], weights: BranchWeights, stride: int) -> Float[Array, "N h w D"]:
    """The plain form."""
    if weights.expand is not None:
        x = relu6(x @ weights.expand + weights.expand_bias[None, None, None])
    x = depthwise_same_conv(x, weights.depthwise, stride) + weights.depthwise_bias[None, None, None]
    return relu6(x) @ weights.project + weights.project_bias[None, None, None]


def inverted_residual_branch(
    x: Float[Array, "N H W C"], weights: BranchWeights, stride: int
) -> Float[Array, "N h w D"]:
    """The branch in the platform's form."""
    return dear(branch(x, weights, stride))


def _stem_native(x: Array, kernel: Array) -> Array:
    return lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=_NHWC)


def _stem_patches(x: Array, kernel: Array) -> Array:
    """Every output's window as a row of one matrix product, which has a fast gradient too."""
    size, _, channels, features = kernel.shape
    rows, columns = (-(-side // 2) for side in x.shape[1:3])
    padded = pad_same(x, size, 2)
    windows = [
        padded[:, i : i + 2 * rows - 1 : 2, j : j + 2 * columns - 1 : 2] for i in range(size) for j in range(size)
    ]
    return jnp.concatenate(windows, -1) @ kernel.reshape(size * size * channels, features)


def stem_conv(x: Float[Array, "N H W C"], kernel: Float[Array, "k k C D"]) -> Float[Array, "N h w D"]:
    """The strided convolution of few channels that the network begins with, "SAME" padding, in the platform's form."""
    return dear(by_platform(x, kernel, cpu=_stem_patches, accelerator=_stem_native))
