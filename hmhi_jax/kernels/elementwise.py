"""What stands between the products: the exact GELU, dropout with few random numbers, norms over a picture's pixels.

Means over pixels are taken over one axis first: on a CPU one long reduction runs on a single thread, many short ones on
all.
"""

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
