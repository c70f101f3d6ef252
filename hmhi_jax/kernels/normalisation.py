"""Norms over the pixels of a picture, whose means are taken over one axis first: on a CPU one long reduction runs on a
single thread, many short ones on all."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

EPSILON = 1e-5


def group_norm(
    x: Float[Array, "N H W C"], groups: int, scale: Float[Array, "C"], bias: Float[Array, "C"]
) -> Float[Array, "N H W C"]:
    """Each group of channels brought to mean 0 and variance 1, then scaled and shifted; float32.

    Flax's own reduces over pixels and channels at once, which XLA's CPU backend does far slower than pixels first.
    """
    rows, _, _, channels = x.shape

    def by_group(means: Float[Array, "N C"]) -> Float[Array, "N C"]:
        return jnp.repeat(means.reshape(rows, groups, -1).mean(-1), channels // groups, -1)

    wide = x.astype(jnp.float32)
    mean = by_group(wide.mean((1, 2)))
    variance = by_group(jnp.square(wide - mean[:, None, None]).mean((1, 2)))
    factor = jax.lax.rsqrt(variance + EPSILON) * scale[None]
    return wide * factor[:, None, None] + (bias[None] - mean * factor)[:, None, None]


def instance_norm(x: Float[Array, "N H W C"]) -> Float[Array, "N H W C"]:
    """Every channel of every picture brought to mean 0 and variance 1, without scale or shift, in the type of `x`."""
    wide = x.astype(jnp.float32)
    centred = wide - wide.mean(2).mean(1)[:, None, None]
    variance = jnp.square(centred).mean(2).mean(1)
    return (centred * jax.lax.rsqrt(variance + EPSILON)[:, None, None]).astype(x.dtype)


def of_unit_size(x: Float[Array, "N H W C"]) -> Float[Array, "N H W C"]:
    """Every picture's map by its root mean square."""
    mean_square = jnp.square(x.astype(jnp.float32)).mean((1, 2)).mean(-1)[:, None, None, None]
    return (x * jax.lax.rsqrt(mean_square + 1e-6)).astype(x.dtype)
