"""The small layers that the network is made of, and how the release draws their weights (MODEL.md 2.1, 3.1, 7)."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from hmhi_jax.kernels.conv3x3 import conv3x3, conv3x3_joined
from hmhi_jax.kernels.convolution import channelwise_conv, depthwise_conv, few_outputs_conv, same_conv
from hmhi_jax.kernels.platforms import dear

FEW = 16  # times as many input channels as outputs, or more: `few_outputs_conv` pays
GROUPS = 8  # of channels, of a group norm

# Normal with deviation .02, cut at +-2 (a hundred deviations), which is what timm's `trunc_normal_(std=.02)` draws.
transformer_linear = nn.initializers.truncated_normal(0.02, lower=-100.0, upper=100.0)
# He's normal over the fan out: SegFormer's own choice for its convolutions (depthwise: per group).
segformer_conv = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
segformer_depthwise = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
# Kaiming uniform, the choice for PLAM and CBAM.
kaiming_uniform = nn.initializers.variance_scaling(2.0, "fan_in", "uniform")
decoder_conv = nn.initializers.normal(0.01)
# PyTorch's default kernel for linear layers and convolutions: uniform within 1 / sqrt(fan in).
torch_kernel = nn.initializers.variance_scaling(1.0 / 3.0, "fan_in", "uniform")


def torch_bias(fan_in: int) -> Callable[..., jax.Array]:
    """PyTorch's default bias: uniform within 1 / sqrt(fan in), the fan in of the layer's kernel."""
    bound = 1.0 / math.sqrt(fan_in)

    def init(key: jax.Array, shape: tuple[int, ...], dtype) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class KernelAndBias(nn.Module):
    """Parameters named and drawn as those of a Flax layer, for formulations that apply them themselves."""

    shape: tuple[int, ...]
    dtype: jnp.dtype
    kernel_init: nn.initializers.Initializer
    bias_init: nn.initializers.Initializer = nn.initializers.zeros

    @nn.compact
    def __call__(self) -> tuple[Float[Array, "*in D"], Float[Array, "D"]]:
        kernel = self.param("kernel", self.kernel_init, self.shape, jnp.float32)
        bias = self.param("bias", self.bias_init, self.shape[-1:], jnp.float32)
        return kernel.astype(self.dtype), bias.astype(self.dtype)


class Kernel(nn.Module):
    """The kernel of a layer without bias, in float32: what follows may scale it before it is rounded."""

    shape: tuple[int, ...]
    kernel_init: nn.initializers.Initializer

    @nn.compact
    def __call__(self) -> Float[Array, "*in D"]:
        return self.param("kernel", self.kernel_init, self.shape, jnp.float32)


def conv(
    features: int,
    kernel: int,
    *,
    stride: int = 1,
    padding: int | None = None,
    dtype: jnp.dtype = jnp.float32,
    kernel_init: nn.initializers.Initializer,
    bias_init: nn.initializers.Initializer = nn.initializers.zeros,
    groups: int = 1,
    use_bias: bool = True,
    name: str | None = None,
) -> nn.Conv:
    """A plain convolution with symmetric zero padding (`kernel // 2` unless given), as PyTorch pads."""
    pad = kernel // 2 if padding is None else padding
    keeps_size = stride == 1 and groups == 1 and 2 * pad == kernel - 1
    return nn.Conv(
        features,
        (kernel, kernel),
        strides=stride,
        padding=((pad, pad), (pad, pad)),
        feature_group_count=groups,
        use_bias=use_bias,
        dtype=dtype,
        kernel_init=kernel_init,
        bias_init=bias_init,
        conv_general_dilated=_same_for_flax if keeps_size else _for_flax,
        name=name,
    )


def _same_for_flax(x: Array, kernel: Array, *_: Any, **__: Any) -> Array:
    """`same_conv` in the place of `lax.conv_general_dilated`, whose other arguments say what it does anyway."""
    return dear((few_outputs_conv if kernel.shape[3] <= kernel.shape[2] // FEW else same_conv)(x, kernel))


def _for_flax(*arguments: Any, **settings: Any) -> Array:
    return dear(lax.conv_general_dilated(*arguments, **settings))


class DepthwiseConv(nn.Module):
    """`depthwise_conv` with its kernel `[k, k, 1, C]` and bias."""

    kernel_size: int
    dtype: jnp.dtype = jnp.float32
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    bias_init: nn.initializers.Initializer = nn.initializers.zeros_init()

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        channels = x.shape[-1]
        kernel = self.param("kernel", self.kernel_init, (self.kernel_size, self.kernel_size, 1, channels), jnp.float32)
        bias = self.param("bias", self.bias_init, (channels,), jnp.float32)
        return (
            depthwise_conv(x.astype(self.dtype), kernel.astype(self.dtype)) + bias.astype(self.dtype)[None, None, None]
        )


class ChannelwiseConv(nn.Module):
    """A strided convolution in which every input channel has filters of its own (as many groups as input channels).

    Odd kernel, padding `kernel // 2`; `features` is a multiple of the input's channels.
    """

    features: int
    kernel_size: int
    stride: int
    dtype: jnp.dtype = jnp.float32
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    bias_init: nn.initializers.Initializer = nn.initializers.zeros_init()

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        k = self.kernel_size
        kernel = self.param("kernel", self.kernel_init, (k, k, 1, self.features), jnp.float32)
        bias = self.param("bias", self.bias_init, (self.features,), jnp.float32)
        outputs = channelwise_conv(x.astype(self.dtype), kernel.astype(self.dtype), self.stride)
        return outputs + bias.astype(self.dtype)[None, None, None]


class PatchConv(nn.Module):
    """A convolution whose stride is its kernel size: patches are rows of one matrix product."""

    features: int
    patch: int
    dtype: jnp.dtype = jnp.float32
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    bias_init: nn.initializers.Initializer = nn.initializers.zeros_init()

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        p = self.patch
        batch, height, width, channels = x.shape
        kernel = self.param("kernel", self.kernel_init, (p, p, channels, self.features), jnp.float32)
        bias = self.param("bias", self.bias_init, (self.features,), jnp.float32)
        # As a stride-p convolution does, a remainder at the right and bottom is left out.
        rows, columns = height // p, width // p
        x = x[:, : rows * p, : columns * p].astype(self.dtype).reshape(batch, rows, p, columns, p, channels)
        patches = x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows, columns, p * p * channels)
        return (
            patches @ kernel.astype(self.dtype).reshape(-1, self.features) + bias.astype(self.dtype)[None, None, None]
        )


class Conv3x3(nn.Module):
    """`conv3x3`, or `conv3x3_joined` where `small` is given, with its kernel `[3, 3, channels, features]` and bias."""

    features: int
    dtype: jnp.dtype = jnp.float32
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"], small: Float[Array, "B h w E"] | None = None
    ) -> Float[Array, "B H W D"]:
        channels = x.shape[-1] + (0 if small is None else small.shape[-1])
        kernel = self.param("kernel", self.kernel_init, (3, 3, channels, self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        outputs = conv3x3(x, kernel) if small is None else conv3x3_joined(x, small.astype(self.dtype), kernel)
        return dear(outputs) + bias.astype(self.dtype)[None, None, None]


class GroupNorm(nn.Module):
    """Norm over a picture and groups of channels (Wu and He, ECCV 2018): each of 8 groups is brought to mean 0 and
    variance 1, then scaled and shifted.

    Unlike a layer norm at every pixel it keeps the contrast between places, and unlike batch norm it needs no running
    statistics. Flax's own reduces over pixels and channels at once, which XLA's CPU backend does far slower than over
    pixels first.
    """

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"]) -> Float[Array, "N H W C"]:
        rows, _, _, channels = x.shape
        if channels % GROUPS:
            raise ValueError(f"{channels} channels cannot be put into {GROUPS} groups")
        scale = self.param("scale", nn.initializers.ones_init(), (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (channels,), jnp.float32)

        def by_group(means: Float[Array, "N C"]) -> Float[Array, "N C"]:
            return jnp.repeat(means.reshape(rows, GROUPS, -1).mean(-1), channels // GROUPS, -1)

        wide = x.astype(jnp.float32)
        mean = by_group(wide.mean((1, 2)))
        variance = by_group(jnp.square(wide - mean[:, None, None]).mean((1, 2)))
        factor = jax.lax.rsqrt(variance + 1e-5) * scale[None]
        return (wide * factor[:, None, None] + (bias[None] - mean * factor)[:, None, None]).astype(self.dtype)


class CBAM(nn.Module):
    """Convolutional block attention: a 3x3 convolution, then channel and spatial gates (MODEL.md 4).

    Keeps the number of channels.
    """

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        channels = x.shape[-1]
        settings = {"dtype": self.dtype, "kernel_init": kaiming_uniform}
        x = Conv3x3(channels, **settings, name="conv")(x)

        squeeze = nn.Dense(channels, **settings, name="channel_squeeze")
        excite = nn.Dense(channels, **settings, name="channel_excite")
        pooled = jnp.stack([x.mean((1, 2)), x.max((1, 2))])
        gate = jax.nn.sigmoid(excite(jax.nn.relu(squeeze(pooled))).sum(0))
        x = x * gate[:, None, None]

        planes = jnp.concatenate([x.mean(-1, keepdims=True), x.max(-1, keepdims=True)], -1)
        planes = jax.nn.relu(conv(16, 3, **settings, name="spatial_squeeze")(planes))
        return x * jax.nn.sigmoid(conv(1, 3, **settings, name="spatial_excite")(planes))
