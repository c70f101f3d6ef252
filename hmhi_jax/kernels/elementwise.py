"""Operations on every number by itself: the exact GELU, and dropout with few random numbers."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, PRNGKeyArray, UInt32

DropoutKey = PRNGKeyArray | UInt32[Array, "2"] | None

_PARTS = 4  # 16-bit numbers in the two words of one hash


def gelu(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """`x / 2 * (1 + erf(x / sqrt(2)))`, in float32.

    `jax.nn.gelu` goes through erfc, which keeps the relative precision of vanishing results and costs XLA's CPU backend
    three times as much; the sum with one is what PyTorch computes, and as precise in absolute terms.
    """
    wide = x.astype(jnp.float32)
    return (0.5 * wide * (1.0 + lax.erf(wide * jnp.float32(0.5**0.5)))).astype(x.dtype)


def dropout(x: Array, rate: float, key: DropoutKey) -> Array:
    """Zero a share `rate` of the entries (to 1/65,536) and scale the rest up; the identity without a key.

    At 512 x 512 one frame of a clip drops among 34 million attention weights, so few random numbers are drawn.
    """
    if key is None or rate == 0.0:
        return x
    return jnp.where(_kept(key, rate, x.shape), x / (1.0 - rate), jnp.zeros((), x.dtype))


def _kept(key: DropoutKey, rate: float, shape: tuple[int, ...]) -> Bool[Array, "*shape"]:
    """True with probability 1 - rate, each place independently; the same on any number of devices.

    `jax.random.bernoulli` makes a hash of two words for every place and adds the two up to one. Splitting a key gives
    both words, which serve four places here.
    """
    *leading, last = shape
    words = jax.random.key_data(jax.random.split(key, (*leading, -(-last // _PARTS))))
    numbers = [words[..., i] >> shift & 0xFFFF for i in (0, 1) for shift in (0, 16)]
    # Side by side and not interleaved: that would be a transposition.
    return jnp.concatenate(numbers, -1)[..., :last] < round((1.0 - rate) * 2**16)
