"""The k highest of many scores, exactly as `lax.top_k` chooses them: of equal scores the one that stands first.

`lax.top_k` over the 20,480 scores of a query is the most expensive operation of the network: XLA's CPU kernel for it
runs on one thread, GPUs sort whole rows in many kernels, TPUs sort each row whole. The forms for CPU and TPU look at
blocks first. A score among the k highest lies in one of the k blocks with the highest maxima, because each of the
others has k scores before it; with contiguous blocks visited in order this holds for ties too. On NVIDIA GPUs one
Pallas (Triton) program reads each row once into its registers, finds the k-th highest score by bisection on the bits of
the floats, which is nothing but comparing and counting, and writes what is chosen in order of index.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array, Bool, Float, Int, UInt32

BLOCK = 32  # scores per block; also the number of bits in a word of the packed masks below
SMALL_BLOCK = 4  # of the second level

_WORD = 32
_LOWEST = np.int32(-(2**31))


def top_k_in_blocks(
    scores: Float[Array, "R M"], k: int, limit: Int[Array, ""] | None = None
) -> tuple[Float[Array, "R k"], Int[Array, "R k"]]:
    """Values and indices of each row's k highest scores, by index; for CPU.

    Three levels: the k best blocks of 32, of their scores the k best blocks of 4, of theirs the k best. Each level
    finds the k-th highest value by bisection on the bits of the floats, which is nothing but comparisons and counts,
    and reads the places off a packed mask; no sorting.

    Args:
        scores: float32, any values but NaN.
        k: at most M.
        limit: only indices below it count as scores, the others as -inf.
    """
    rows, count = scores.shape
    level = jnp.pad(scores, ((0, 0), (0, -count % BLOCK)), constant_values=-jnp.inf)
    limit = jnp.int32(count) if limit is None else limit
    place = jnp.arange(level.shape[1], dtype=jnp.int32)
    if level.shape[1] > BLOCK * (k + 1):
        # Masking all scores would cost as much as finding their maxima. Blocks past the limit are left out instead; the
        # one that it cuts may be taken for better than it is, which is why there is room for one more.
        blocks, starts = level.reshape(rows, -1, BLOCK), place[None, ::BLOCK]
        maxima = jnp.where(starts < limit, blocks.max(-1), -jnp.inf)
        level, index = _blocks_at(blocks, starts, k_best_places(ordered_bits(maxima), k + 1))
    else:
        index = jnp.broadcast_to(place[None], level.shape)
    level = jnp.where(index < limit, level, -jnp.inf)
    if level.shape[1] > SMALL_BLOCK * k:
        blocks, starts = level.reshape(rows, -1, SMALL_BLOCK), index[:, ::SMALL_BLOCK]
        level, index = _blocks_at(blocks, starts, k_best_places(ordered_bits(blocks.max(-1)), k))
    best = k_best_places(ordered_bits(level), k)
    row = jnp.arange(rows, dtype=jnp.int32)[:, None]
    return level.at[row, best].get(mode="promise_in_bounds"), index.at[row, best].get(mode="promise_in_bounds")


def _blocks_at(
    blocks: Float[Array, "R B b"], starts: Int[Array, "_ B"], places: Int[Array, "R n"]
) -> tuple[Float[Array, "R nb"], Int[Array, "R nb"]]:
    """Scores of the blocks at these places, and their indices, of which `starts` has each block's first."""
    rows, _, size = blocks.shape
    row = jnp.arange(rows, dtype=jnp.int32)[:, None]
    first = jnp.broadcast_to(starts, (rows, starts.shape[1])).at[row, places].get(mode="promise_in_bounds")
    index = first[:, :, None] + jnp.arange(size, dtype=jnp.int32)[None, None]
    return blocks.at[row, places].get(mode="promise_in_bounds").reshape(rows, -1), index.reshape(rows, -1)


def lay_out(keys: Float[Array, "B M C"]) -> Float[Array, "B L C"]:
    """Keys in the order whose scores `top_k_laid_out` takes, padded with zeros to L, a multiple of 32."""
    batch, count, channels = keys.shape
    padded = jnp.pad(keys, ((0, 0), (0, -count % BLOCK), (0, 0)))
    return padded.reshape(batch, -1, BLOCK, channels).swapaxes(1, 2).reshape(padded.shape)


def laid_out_index(count: int) -> Int[np.ndarray, "L"]:
    """For every place of the laid out order, the index of its key; padding has indices from `count` on."""
    return np.arange(count + -count % BLOCK, dtype=np.int32).reshape(-1, BLOCK).T.reshape(-1)


def top_k_laid_out(scores: Float[Array, "R L"], k: int) -> tuple[Float[Array, "R k"], Int[Array, "R k"]]:
    """Values and indices of each row's k highest scores, highest first; for accelerators.

    Scores come in the order of `lay_out`, so that seen as [32, L / 32] a block is a column: maxima are taken across
    whole vector registers, and only rows of L / 32 and 32 k are ever sorted instead of rows of L.
    """
    rows, length = scores.shape
    columns = length // BLOCK
    table = scores.reshape(rows, BLOCK, columns)
    if columns > k:
        # In order of the blocks, so that ties inside the chosen blocks are broken by index.
        chosen = jnp.sort(lax.top_k(table.max(1), k)[1], -1)
        table = jnp.take_along_axis(table, chosen[:, None], 2, mode="promise_in_bounds")
    else:
        chosen = jnp.broadcast_to(jnp.arange(columns, dtype=jnp.int32)[None], (rows, columns))
    value, place = lax.top_k(table.swapaxes(1, 2).reshape(rows, -1), k)
    block = jnp.take_along_axis(chosen, place // BLOCK, 1, mode="promise_in_bounds")
    return value, block * BLOCK + place % BLOCK


def ordered_bits(x: Float[Array, "*n"]) -> Int[Array, "*n"]:
    """Integers that compare as the floats do (-0 before +0, as in `lax.top_k`)."""
    return _flipped(lax.bitcast_convert_type(x, jnp.int32))


def _flipped(bits: Int[Array, "*n"]) -> Int[Array, "*n"]:
    """A float's bits, those of negative ones turned round; its own inverse."""
    return bits ^ ((bits >> 31) & jnp.int32(0x7FFFFFFF))


def k_best_places(keys: Int[Array, "R L"], k: int) -> Int[Array, "R k"]:
    """Places of the k largest integers of each row, ascending; of equal ones the first are kept."""
    threshold = kth_largest(keys, k)[:, None]
    larger, equal = packed(keys > threshold), packed(keys == threshold)
    missing = k - _ones(larger).sum(-1)
    return set_places(larger | keep_first(equal, missing), k)


def kth_largest(keys: Int[Array, "R L"], k: int) -> Int[Array, "R"]:
    """Bisection on the value, one bit at a time: the largest t with at least k keys >= t."""
    # Padding is never counted where it matters: each row has k keys >= the lowest integer without it.
    keys = jnp.pad(keys, ((0, 0), (0, -keys.shape[1] % _WORD)), constant_values=_LOWEST)
    # The sign bit first. A loop and not 32 copies: the copies are no faster and take three times as long to compile.
    start = jnp.where(_count(keys >= 0) >= k, 0, _LOWEST)

    def next_bit(i: Array, threshold: Array) -> Array:
        candidate = threshold + (jnp.int32(1) << (30 - i))
        return jnp.where(_count(keys >= candidate[:, None]) >= k, candidate, threshold)

    return lax.fori_loop(0, 31, next_bit, start)


def _count(flags: Bool[Array, "R L"]) -> Int[Array, "R"]:
    """How many of each row are set; L is a multiple of 32.

    Bytes are added, 64 to a vector register, no more of them at a time than a byte can count; and no sum has more than
    32 terms, because longer ones XLA's CPU backend takes apart into loops of their own, which are not vectorised.
    """
    rows, length = flags.shape
    groups = length // _WORD
    flags = jnp.pad(flags.reshape(rows, groups, _WORD), ((0, 0), (0, -groups % min(groups, _WORD)), (0, 0)))
    parts = flags.astype(jnp.int8).reshape(rows, -1, min(groups, _WORD), _WORD).sum(2, dtype=jnp.int8)
    return parts.astype(jnp.int32).sum(-1).sum(-1)


def packed(mask: Bool[Array, "R L"]) -> UInt32[Array, "R W"]:
    """A row's flags as bits of W = ceil(L / 32) words, the lowest bit first."""
    mask = jnp.pad(mask, ((0, 0), (0, -mask.shape[1] % _WORD)))
    bits = mask.reshape(mask.shape[0], -1, _WORD).astype(jnp.uint32)
    return (bits << jnp.arange(_WORD, dtype=jnp.uint32)[None, None]).sum(-1, dtype=jnp.uint32)


def keep_first(words: UInt32[Array, "R W"], count: Int[Array, "R"]) -> UInt32[Array, "R W"]:
    """The mask with only the first `count` of its set bits."""
    ones = _ones(words)
    left = jnp.clip(count[:, None] - (_running(ones) - ones), 0, _WORD)
    below = (jnp.uint32(1) << _bit_place(words, left).astype(jnp.uint32)) - 1
    return jnp.where(left >= ones, words, words & below)


def set_places(words: UInt32[Array, "R W"], k: int) -> Int[Array, "R k"]:
    """Places of the first k set bits of each row, ascending. Rows have at least k of them."""
    ones = _ones(words)
    ends = _running(ones)
    rank = jnp.arange(k, dtype=jnp.int32)[None]
    word = (ends[:, None] <= rank[:, :, None]).sum(-1, dtype=jnp.int32)
    # A sum over one non-zero term instead of a gather: it vectorises.
    here = word[:, :, None] == jnp.arange(words.shape[1], dtype=jnp.int32)[None, None]
    bits = jnp.where(here, words[:, None], jnp.uint32(0)).sum(-1, dtype=jnp.uint32)
    before = jnp.where(here, (ends - ones)[:, None], 0).sum(-1, dtype=jnp.int32)
    return word * _WORD + _bit_place(bits, rank - before)


def _bit_place(words: UInt32[Array, "R n"], rank: Int[Array, "R n"]) -> Int[Array, "R n"]:
    """Place of the set bit that has `rank` set bits below it, by halving; 31 or less where there is none."""
    place = jnp.zeros_like(rank)
    for width in (16, 8, 4, 2, 1):
        half = (words >> place.astype(jnp.uint32)) & jnp.uint32((1 << width) - 1)
        ones = _ones(half)
        above = rank >= ones
        place, rank = jnp.where(above, place + width, place), jnp.where(above, rank - ones, rank)
    return place


def _ones(words: UInt32[Array, "R n"]) -> Int[Array, "R n"]:
    return lax.population_count(words).astype(jnp.int32)


def _running(counts: Int[Array, "R W"]) -> Int[Array, "R W"]:
    """Inclusive running sum of a few numbers."""
    lower = np.tri(counts.shape[1], dtype=np.int32)
    return (counts[:, None] * lower[None]).sum(-1, dtype=jnp.int32)


CHUNK = 4096  # scores that are compared at once; Triton's arrays have powers of two
LONGEST = 2**17  # scores of a row that fit the registers of a multiprocessor
_LEAST_SCORE = -2139095041  # `ordered_bits` of -inf


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
        keys.append(ordered_bits(triton.load(scores_ref.at[row, place], mask=place < limit, other=-jnp.inf)))

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
    low = jnp.where(positive >= k, jnp.int32(0), jnp.int32(_LEAST_SCORE))  # so that high - low is no overflow
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
        triton.store(best_ref.at[row, at], lax.bitcast_convert_type(_flipped(key), jnp.float32), mask=chosen)
        triton.store(index_ref.at[row, at], place, mask=chosen)
        before = before + jnp.sum(ones)
