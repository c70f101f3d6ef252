"""The small layers and norms of the network, and how the release draws their weights (docs/model.md 2.1, 3.1, 7)."""

import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from hmhi_jax.kernels.conv3x3 import conv3x3
from hmhi_jax.kernels.convolution import channelwise_conv, depthwise_conv, flax_conv, flax_same_conv, patch_conv
from hmhi_jax.kernels.elementwise import group_norm
from hmhi_jax.kernels.platforms import costly

Initializer = nn.initializers.Initializer

GROUPS = 8  # of channels, of a group norm

# Normal with deviation .02, cut at +-2 (a hundred deviations), which is what timm's `trunc_normal_(std=.02)` draws.
transformer_linear = nn.initializers.truncated_normal(0.02, lower=-100.0, upper=100.0)
# He's normal over the fan out: SegFormer's own choice for its convolutions (depthwise: per group), and ResNets'.
he_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
he_depthwise = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
# Kaiming uniform, the choice for PLAM and CBAM.
kaiming_uniform = nn.initializers.variance_scaling(2.0, "fan_in", "uniform")
decoder_conv = nn.initializers.normal(0.01)
# PyTorch's default kernel for linear layers and convolutions: uniform within 1 / sqrt(fan in).
torch_kernel = nn.initializers.variance_scaling(1.0 / 3.0, "fan_in", "uniform")


def torch_bias(fan_in: int) -> Initializer:
    """PyTorch's default bias: uniform within 1 / sqrt(fan in), the fan in of the layer's kernel."""
    bound = 1.0 / math.sqrt(fan_in)

    def init(key: jax.Array, shape: tuple[int, ...], dtype) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def kernel_and_bias(
    layer: nn.Module, shape: tuple[int, ...], kernel_init: Initializer, bias_init: Initializer = nn.initializers.zeros
) -> tuple[Float[Array, "*in D"], Float[Array, "D"]]:
    """Parameters of a layer that applies them itself, named and drawn as Flax's layers do, in the layer's `dtype`."""
    kernel = layer.param("kernel", kernel_init, shape, jnp.float32)
    bias = layer.param("bias", bias_init, shape[-1:], jnp.float32)
    return kernel.astype(layer.dtype), bias.astype(layer.dtype)


class KernelAndBias(nn.Module):
    """`kernel_and_bias` under a name of their own, for formulations that apply those of several layers at once."""

    shape: tuple[int, ...]
    dtype: jnp.dtype
    kernel_init: Initializer
    bias_init: Initializer = nn.initializers.zeros

    @nn.compact
    def __call__(self) -> tuple[Float[Array, "*in D"], Float[Array, "D"]]:
        return kernel_and_bias(self, self.shape, self.kernel_init, self.bias_init)


class Kernel(nn.Module):
    """The kernel of a layer without bias, in float32: what follows may scale it before it is rounded."""

    shape: tuple[int, ...]
    kernel_init: Initializer

    @nn.compact
    def __call__(self) -> Float[Array, "*in D"]:
        return self.param("kernel", self.kernel_init, self.shape, jnp.float32)


def dense(features: int, dtype: jnp.dtype, name: str, use_bias: bool = True) -> nn.Dense:
    """A linear layer as transformers start it: truncated normal .02, bias 0."""
    return nn.Dense(features, use_bias=use_bias, dtype=dtype, kernel_init=transformer_linear, name=name)


def norm(epsilon: float, dtype: jnp.dtype, name: str) -> nn.LayerNorm:
    """A layer norm over channels."""
    return nn.LayerNorm(epsilon=epsilon, dtype=dtype, name=name)


def stochastic_depth(rate: float, train: bool) -> nn.Dropout:
    """Drops a whole row's branch, or scales it up (Huang et al., ECCV 2016)."""
    return nn.Dropout(rate, broadcast_dims=(1, 2, 3), deterministic=not train)


def drop_rates(last: float, blocks: int) -> Iterator[float]:
    """The rate of every block, from 0 evenly to that of the last one."""
    return iter(np.linspace(0, last, blocks).tolist())


def conv(
    features: int,
    kernel: int,
    *,
    stride: int = 1,
    dtype: jnp.dtype = jnp.float32,
    kernel_init: Initializer,
    bias_init: Initializer = nn.initializers.zeros,
    use_bias: bool = True,
    name: str | None = None,
) -> nn.Conv:
    """A plain convolution with an odd kernel and zero padding of `kernel // 2`, as PyTorch pads."""
    pad = kernel // 2
    form = flax_same_conv if stride == 1 else flax_conv
    return nn.Conv(
        features, (kernel, kernel), stride, ((pad, pad), (pad, pad)), use_bias=use_bias, dtype=dtype,
        kernel_init=kernel_init, bias_init=bias_init, conv_general_dilated=form, name=name,
    )  # fmt: skip


class DepthwiseConv(nn.Module):
    """`depthwise_conv` with its kernel `[k, k, 1, C]` and bias."""

    kernel_size: int
    dtype: jnp.dtype = jnp.float32
    kernel_init: Initializer = nn.initializers.lecun_normal()
    bias_init: Initializer = nn.initializers.zeros_init()

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        shape = (self.kernel_size, self.kernel_size, 1, x.shape[-1])
        kernel, bias = kernel_and_bias(self, shape, self.kernel_init, self.bias_init)
        return depthwise_conv(x.astype(self.dtype), kernel) + bias[None, None, None]


class ChannelwiseConv(nn.Module):
    """A strided convolution in which every input channel has filters of its own (as many groups as input channels).

    Odd kernel, padding `kernel // 2`; `features` is a multiple of the input's channels.
    """

    features: int
    kernel_size: int
    stride: int
    dtype: jnp.dtype = jnp.float32
    kernel_init: Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        kernel, bias = kernel_and_bias(self, (self.kernel_size, self.kernel_size, 1, self.features), self.kernel_init)
        return channelwise_conv(x.astype(self.dtype), kernel, self.stride) + bias[None, None, None]


class PatchConv(nn.Module):
    """`patch_conv` with its kernel `[p, p, channels, features]` and bias."""

    features: int
    patch: int
    dtype: jnp.dtype = jnp.float32
    kernel_init: Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        shape = (self.patch, self.patch, x.shape[-1], self.features)
        kernel, bias = kernel_and_bias(self, shape, self.kernel_init)
        return patch_conv(x.astype(self.dtype), kernel) + bias[None, None, None]


class Conv3x3(nn.Module):
    """`conv3x3` with its kernel `[3, 3, channels, features]` and bias."""

    features: int
    dtype: jnp.dtype = jnp.float32
    kernel_init: Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"], small: Float[Array, "B h w E"] | None = None
    ) -> Float[Array, "B H W D"]:
        channels = x.shape[-1] + (0 if small is None else small.shape[-1])
        kernel, bias = kernel_and_bias(self, (3, 3, channels, self.features), self.kernel_init)
        outputs = conv3x3(x.astype(self.dtype), kernel, None if small is None else small.astype(self.dtype))
        return costly(outputs) + bias[None, None, None]


class GroupNorm(nn.Module):
    """`group_norm` (Wu and He, ECCV 2018) of 8 groups, with its scale and bias.

    Unlike a layer norm at every pixel it keeps the contrast between places, and unlike batch norm it needs no running
    statistics.
    """

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"]) -> Float[Array, "N H W C"]:
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones_init(), (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (channels,), jnp.float32)
        return group_norm(x, GROUPS, scale, bias).astype(self.dtype)


class CBAM(nn.Module):
    """Convolutional block attention: a 3x3 convolution, then channel and spatial gates (docs/model.md 4).

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


def _variables(module: nn.Module, channels: int) -> tuple[Array, Array, nn.Variable, nn.Variable]:
    """Scale, bias, running mean and running variance, float32."""
    return (
        module.param("scale", nn.initializers.ones_init(), (channels,), jnp.float32),
        module.param("bias", nn.initializers.zeros_init(), (channels,), jnp.float32),
        module.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32),
        module.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32),
    )


class BatchNorm(nn.Module):
    """Batch norm with PyTorch's conventions: the new statistics weigh `momentum`, the running variance is unbiased.

    In evaluation, and in training when frozen, the running statistics normalise. When updated, training normalises by
    the statistics of all rows it is given: under `jit` that is the whole batch wherever its rows lie, so devices need
    no word about it. The running ones move where the collection `batch_stats` is mutable.
    """

    updated: bool
    dtype: jnp.dtype = jnp.float32
    epsilon: float = 1e-5
    momentum: float = 0.1

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"], train: bool) -> Float[Array, "N H W C"]:
        channels = x.shape[-1]
        scale, bias, running_mean, running_var = _variables(self, channels)
        if train and self.updated:
            wide = x.astype(jnp.float32)
            count = x.size // channels
            mean = wide.mean((0, 1, 2))
            var = jnp.square(wide - mean[None, None, None]).mean((0, 1, 2))
            if self.is_mutable_collection("batch_stats") and not self.is_initializing():
                new = self.momentum
                running_mean.value = (1 - new) * running_mean.value + new * mean
                running_var.value = (1 - new) * running_var.value + new * var * (count / max(count - 1, 1))
        else:
            mean, var = running_mean.value, running_var.value
        factor = scale * jax.lax.rsqrt(var + self.epsilon)
        return (x * factor[None, None, None] + (bias - mean * factor)[None, None, None]).astype(self.dtype)


class FrozenBatchNorm(nn.Module):
    """`BatchNorm` by its running statistics, as `x * factor + shift`: what a convolution in front can take in.

    Its variables are those of a `BatchNorm` of the same name.
    """

    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, channels: int) -> tuple[Float[Array, "C"], Float[Array, "C"]]:
        scale, bias, mean, var = _variables(self, channels)
        factor = scale * jax.lax.rsqrt(var.value + self.epsilon)
        return factor, bias - mean.value * factor
