"""Batch norm over all rows of a batch, frozen or updated, as a layer or as the affine map it is when frozen."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float


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
