"""The k highest of many scores on NVIDIA GPUs: one Pallas (Triton) program for each row, which stays in its registers.

XLA sorts whole rows, in many kernels. Here a row is read once; its k-th highest score is found by bisection on the bits
of the floats, which is nothing but comparing and counting; then what is chosen is written, in order of index.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array, Float, Int

CHUNK = 4096  # scores that are compared at once; Triton's arrays have powers of two
LONGEST = 2**17  # scores of a row that fit the registers of a multiprocessor
_LOWEST = -2139095041  # `ordered_bits` of -inf


@functools.cache
def can_be_lowered() -> bool:
    """Whether this process has a GPU. Without one, JAX from 0.11 on refuses to lower a Triton kernel, so what is
    compiled ahead of time or exported on other machines takes a form of plain operations."""
    try:
        return bool(jax.devices("gpu"))
    except RuntimeError:
        return False


def top_k_by_bisection(
    scores: Float[Array, "R M"], k: int, limit: Int[Array, ""], interpret: bool = False
) -> tuple[Float[Array, "R k"], Int[Array, "R k"]]:
    """Values and indices of each row's k highest scores, by index; of equal scores those that stand first.

    Args:
        scores: float32, any values but NaN; M at most `LONGEST`.
        k: at most M.
        limit: only indices below it count as scores, the others as -inf.
        interpret: run in plain JAX, on any platform (for tests).
    """
    from jax.experimental.pallas import triton

    rows, count = scores.shape
    chunk = min(CHUNK, pl.next_power_of_2(count))
    chunks = pl.cdiv(count, chunk)
    warps = min(16, max(4, chunks * chunk // 32 // 64))
    best, index = pl.pallas_call(
        functools.partial(_select, k=k, count=count, chunk=chunk, chunks=chunks),
        grid=(rows,),
        # One place more than is chosen, for what is not.
        out_shape=(jax.ShapeDtypeStruct((rows, k + 1), jnp.float32), jax.ShapeDtypeStruct((rows, k + 1), jnp.int32)),
        compiler_params=triton.CompilerParams(num_warps=pl.next_power_of_2(warps), num_stages=1),
        interpret=interpret,
        name="top_k_by_bisection",
    )(limit.reshape(1), scores)
    return best[:, :k], index[:, :k]


def _select(limit_ref, scores_ref, best_ref, index_ref, *, k: int, count: int, chunk: int, chunks: int) -> None:
    from jax.experimental.pallas import triton

    row = pl.program_id(0)
    limit = limit_ref[0]
    places = [first * chunk + lax.iota(jnp.int32, chunk) for first in range(chunks)]
    keys = []
    for place in places:
        keys.append(_ordered(triton.load(scores_ref.at[row, place], mask=place < limit, other=-jnp.inf)))

    def number(flags: list[Array]) -> Array:
        return jnp.sum(functools.reduce(jnp.add, [flag.astype(jnp.int32) for flag in flags]))

    # The k-th highest score lies between `low` and `high`. The search ends early where exactly k scores are as high as
    # `low`, which is nearly always.
    def undecided(state: tuple[Array, Array, Array]) -> Array:
        low, high, found = state
        return (low < high) & (found != k)

    def halve(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        low, high, found = state
        middle = low + ((high - low) >> 1) + 1
        above = number([key >= middle for key in keys])
        enough = above >= k
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle - 1), jnp.where(enough, above, found)

    highest = jnp.max(functools.reduce(jnp.maximum, keys))
    positive = number([key >= 0 for key in keys])
    low = jnp.where(positive >= k, jnp.int32(0), jnp.int32(_LOWEST))  # so that high - low is no overflow
    high = jnp.where(positive >= k, highest, jnp.minimum(highest, jnp.int32(-1)))
    found = jnp.where(positive >= k, positive, jnp.int32(chunks * chunk))
    low, high, found = lax.while_loop(undecided, halve, (low, high, found))

    # Of several scores equal to the k-th highest, as many as are missing, the first ones.
    missing = k - number([key > low for key in keys])

    def unplaced(state: tuple[Array, Array]) -> Array:
        return state[0] < state[1]

    def nearer(state: tuple[Array, Array]) -> tuple[Array, Array]:
        first, last = state
        middle = (first + last) >> 1
        enough = number([(key == low) & (place <= middle) for key, place in zip(keys, places, strict=True)]) >= missing
        return jnp.where(enough, first, middle + 1), jnp.where(enough, middle, last)

    last = jnp.int32(count - 1)
    _, last = lax.while_loop(unplaced, nearer, (jnp.where(found == k, last, jnp.int32(0)), last))

    before = jnp.int32(0)
    for key, place in zip(keys, places, strict=True):
        chosen = (key > low) | ((key == low) & (place <= last))
        ones = chosen.astype(jnp.int32)
        at = jnp.where(chosen, before + jnp.cumsum(ones) - 1, k)
        triton.store(best_ref.at[row, at], lax.bitcast_convert_type(_unordered(key), jnp.float32), mask=chosen)
        triton.store(index_ref.at[row, at], place, mask=chosen)
        before = before + jnp.sum(ones)


def _ordered(x: Float[Array, "n"]) -> Int[Array, "n"]:
    """Integers that compare as the floats do."""
    return _unordered(lax.bitcast_convert_type(x, jnp.int32))


def _unordered(bits: Int[Array, "n"]) -> Int[Array, "n"]:
    """Its own inverse."""
    return bits ^ ((bits >> 31) & jnp.int32(0x7FFFFFFF))
