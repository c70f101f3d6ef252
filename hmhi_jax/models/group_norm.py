"""Norm over a picture and groups of channels (Wu and He, ECCV 2018)."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

GROUPS = 8


class GroupNorm(nn.Module):
    """Each of 8 groups of channels is brought to mean 0 and variance 1 over the whole picture, then scaled and shifted.

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
