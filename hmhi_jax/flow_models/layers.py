"""Convolutions and norms of RAFT, each in the form that suits its shape."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from hmhi_jax.models.backbones.resnet import BatchNorm
from hmhi_jax.models.layers import Conv3x3
from hmhi_jax.models.layers import conv as any_conv

he_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def conv(features: int, kernel: int, *, stride: int = 1, dtype: DTypeLike, name: str) -> nn.Module:
    """A convolution with bias and zero padding of half the kernel."""
    if kernel == 3 and stride == 1:
        return Conv3x3(features, dtype, he_fan_out, name=name)
    return any_conv(features, kernel, stride=stride, dtype=dtype, kernel_init=he_fan_out, name=name)


def instance_norm(x: Float[Array, "N H W C"]) -> Float[Array, "N H W C"]:
    """Every channel of every picture brought to mean 0 and variance 1 (epsilon 1e-5), without scale or shift.

    The means are taken over rows first: one long reduction runs on a single thread of a CPU, many short ones on all.
    """
    wide = x.astype(jnp.float32)
    centred = wide - wide.mean(2).mean(1)[:, None, None]
    variance = jnp.square(centred).mean(2).mean(1)
    return (centred * jax.lax.rsqrt(variance + 1e-5)[:, None, None]).astype(x.dtype)


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
