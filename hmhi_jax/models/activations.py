"""The exact GELU, as this network's layers use it."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def gelu(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """`x / 2 * (1 + erf(x / sqrt(2)))`, in float32.

    `jax.nn.gelu` goes through erfc, which keeps the relative precision of vanishing results and costs XLA's CPU backend
    three times as much; the sum with one is what PyTorch computes, and as precise in absolute terms.
    """
    wide = x.astype(jnp.float32)
    return (0.5 * wide * (1.0 + lax.erf(wide * jnp.float32(0.5**0.5)))).astype(x.dtype)
