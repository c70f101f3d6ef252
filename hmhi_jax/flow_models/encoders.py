"""RAFT's feature and context encoders: residual networks of stride 8 (Teed and Deng, ECCV 2020, appendix)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from hmhi_jax.kernels.convolution import flax_stem_conv
from hmhi_jax.kernels.elementwise import instance_norm
from hmhi_jax.models.layers import BatchNorm, Conv3x3, he_fan_out
from hmhi_jax.models.layers import conv as any_conv

STRIDES = (1, 2, 2)  # of the three stages; the stem has stride 2 as well


def conv(features: int, kernel: int, *, stride: int = 1, dtype: DTypeLike, name: str) -> nn.Module:
    """A convolution with bias and zero padding of half the kernel."""
    if kernel == 3 and stride == 1:
        return Conv3x3(features, dtype, he_fan_out, name=name)
    return any_conv(features, kernel, stride=stride, dtype=dtype, kernel_init=he_fan_out, name=name)


class Norm(nn.Module):
    """The norm an encoder has: "instance", "batch" (by its running statistics), or "none"."""

    kind: str
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"]) -> Float[Array, "N H W C"]:
        if self.kind == "instance":
            return instance_norm(x)
        if self.kind == "batch":
            return BatchNorm(updated=False, dtype=self.dtype, name="batch")(x, train=False)
        return x


class ResidualBlock(nn.Module):
    """Convolutions, each followed by norm and ReLU, added to the input (projected where the stride is not 1).

    With `bottleneck` they are 1x1 to a quarter of the channels, 3x3 with the stride, and 1x1 back; otherwise two of
    3x3, the first with the stride.
    """

    features: int
    stride: int
    norm: str
    bottleneck: bool
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"]) -> Float[Array, "N h w D"]:
        inner = self.features // 4
        layers = (
            ((inner, 1, 1), (inner, 3, self.stride), (self.features, 1, 1))
            if self.bottleneck
            else ((self.features, 3, self.stride), (self.features, 3, 1))
        )
        y = x
        for number, (features, kernel, stride) in enumerate(layers, start=1):
            y = conv(features, kernel, stride=stride, dtype=self.dtype, name=f"conv{number}")(y)
            y = jax.nn.relu(Norm(self.norm, self.dtype, name=f"norm{number}")(y))
        if self.stride != 1:
            x = conv(self.features, 1, stride=self.stride, dtype=self.dtype, name="downsample")(x)
            x = Norm(self.norm, self.dtype, name="downsample_norm")(x)
        return jax.nn.relu(x + y)


class FlowEncoder(nn.Module):
    """A stem of 7x7 with stride 2, three stages of two residual blocks, and a 1x1 convolution.

    Attributes:
        channels: of the stem and the three stages.
        outputs: channels of the result.
        norm: "instance", "batch" or "none".
        bottleneck: see `ResidualBlock`.
    """

    channels: Sequence[int]
    outputs: int
    norm: str
    bottleneck: bool
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, pictures: Float[Array, "N H W 3"]) -> Float[Array, "N h w D"]:
        stem, *stages = self.channels
        x = nn.Conv(
            stem, (7, 7), 2, dtype=self.dtype, kernel_init=he_fan_out, conv_general_dilated=flax_stem_conv, name="stem"
        )(pictures.astype(self.dtype))
        x = jax.nn.relu(Norm(self.norm, self.dtype, name="stem_norm")(x))
        for stage, (features, stride) in enumerate(zip(stages, STRIDES, strict=True), start=1):
            for block in range(2):
                x = ResidualBlock(
                    features,
                    stride if block == 0 else 1,
                    self.norm,
                    self.bottleneck,
                    self.dtype,
                    name=f"stage{stage}_block{block}",
                )(x)
        return conv(self.outputs, 1, dtype=self.dtype, name="head")(x)
