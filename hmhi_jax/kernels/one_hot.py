"""Picking and placing by matrix products, for TPUs: their matrix unit multiplies with one-hot matrices much faster than
rows are gathered or scattered one by one, and the results are the same.

Rows of scores are tables `[32, L / 32]` in the order of `selection.lay_out`: the entry with index i lies in column
i // 32 at place i % 32.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from hmhi_jax.kernels.selection import BLOCK

LOWEST = -3e38  # stands for -inf, whose product with zero would be NaN


def top_k_by_products(
    table: Float[Array, "B 32 n columns"], k: int
) -> tuple[Float[Array, "B n k"], Int[Array, "B n k"]]:
    """Values and indices of each query's k highest scores, highest first, ties as `lax.top_k` breaks them.

    As `selection.top_k_laid_out`: only maxima of columns, and 32 k scores, are ever sorted. Scores are at least
    `LOWEST`.
    """
    batch, _, queries, columns = table.shape
    wanted = min(k, columns)
    maxima = table.max(1).reshape(batch * queries, columns)
    # In order of the columns, so that ties are broken by index.
    chosen = jnp.sort(lax.top_k(maxima, wanted)[1], -1).reshape(batch, queries, wanted)
    column_of = _one_hot(chosen, columns)
    # Three bfloat16 numbers hold a float32 exactly, and a one-hot product only adds zeros to them.
    candidates = sum(
        jnp.einsum("bnjm,bsnm->bnjs", column_of, part, preferred_element_type=jnp.float32) for part in _parts(table, 3)
    )
    best, place = lax.top_k(candidates.reshape(batch * queries, -1), k)
    best, place = best.reshape(batch, queries, k), place.reshape(batch, queries, k)
    hit = (place // BLOCK)[..., None] == jnp.arange(wanted, dtype=jnp.int32)[None, None, None]
    column = jnp.where(hit, chosen[:, :, None], 0).sum(-1, dtype=jnp.int32)
    return best, column * BLOCK + place % BLOCK


def pick(table: Float[Array, "B 32 n columns"], index: Int[Array, "B n k"]) -> Float[Array, "B n k"]:
    """Entries of each query's table by index, to 16 bits of mantissa."""
    column_of = _one_hot(index // BLOCK, table.shape[-1])
    columns = sum(
        jnp.einsum("bnjm,bsnm->bnjs", column_of, part, preferred_element_type=jnp.float32) for part in _parts(table, 2)
    )
    return jnp.where(_place(index), columns, 0.0).sum(-1)


def tabulate(values: Float[Array, "B n k"], index: Int[Array, "B n k"], columns: int) -> Float[Array, "B 32 n columns"]:
    """Tables of zeros with the values at their indices, in bfloat16; the indices of a query differ."""
    placed = jnp.where(_place(index), values[..., None], 0.0).astype(jnp.bfloat16)
    return jnp.einsum(
        "bnjs,bnjm->bsnm", placed, _one_hot(index // BLOCK, columns), preferred_element_type=jnp.float32
    ).astype(jnp.bfloat16)


def _one_hot(column: Int[Array, "B n k"], columns: int) -> Float[Array, "B n k columns"]:
    return (column[..., None] == jnp.arange(columns, dtype=jnp.int32)[None, None, None]).astype(jnp.bfloat16)


def _place(index: Int[Array, "B n k"]) -> Array:
    return (index % BLOCK)[..., None] == jnp.arange(BLOCK, dtype=jnp.int32)[None, None, None]


def _parts(x: Float[Array, "..."], count: int) -> list[Float[Array, "..."]]:
    """bfloat16 numbers that add up to `x`, the largest first; with three exactly."""
    parts = []
    for _ in range(count):
        parts.append(x.astype(jnp.bfloat16))
        x = x - parts[-1].astype(x.dtype)
    return parts
