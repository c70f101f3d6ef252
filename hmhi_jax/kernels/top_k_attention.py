"""Attention that keeps the k highest scores of every query: the shallow bank's read-out (docs/model.md 3.2).

The matrix of all scores is the largest thing in the network (336 MB at 512 x 512 with five frames). It is made in
pieces, used for the selection, and dropped; what remains of it are k indices and weights per query.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from hmhi_jax.kernels.attention import join_queries, map_pieces, over_pieces, split_queries
from hmhi_jax.kernels.elementwise import DropoutKey, dropout
from hmhi_jax.kernels.one_hot import LOWEST, pick, tabulate, top_k_by_products
from hmhi_jax.kernels.platforms import COSTLY, by_platform, define_gradient
from hmhi_jax.kernels.selection import (
    BLOCK,
    LONGEST,
    can_be_lowered,
    laid_out_index,
    lay_out,
    top_k_by_bisection,
    top_k_in_blocks,
    top_k_laid_out,
)

GPU_SCORES = 2**27  # of a piece on NVIDIA GPUs: half a gigabyte
CPU_CHUNK = 256  # queries per piece on CPU: 20 MB of scores against 20,480 keys
QUERY_CHUNK = 512  # on other accelerators
TRAINING_CHUNK = 256


def attend_top_k(
    q: Float[Array, "B N C"],
    k: Float[Array, "B M C"],
    v: Float[Array, "B M D"],
    *,
    top_k: int,
    limit: Int[Array, ""] | None = None,
    dropout_rate: float = 0.0,
    key: DropoutKey = None,
) -> Float[Array, "B N D"]:
    """One head, scale C^-1/2, softmax over the `top_k` highest scores of each query among the first `limit` keys.

    Of equal scores the one that stands first is kept, as `lax.top_k` does.
    """
    kept = min(top_k, k.shape[1])
    limit = jnp.asarray(k.shape[1] if limit is None else limit, jnp.int32)
    q = q * jnp.asarray(q.shape[-1] ** -0.5, q.dtype)
    return _attend(kept, dropout_rate, q, k, v, limit, key)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend(kept: int, dropout_rate: float, q: Array, k: Array, v: Array, limit: Array, key: DropoutKey) -> Array:
    if key is not None:
        return _forward(kept, dropout_rate, q, k, v, limit, key)[0]
    return by_platform(q, k, v, limit, **{name: partial(form, kept) for name, form in READS.items()})


def read_by_row(kept: int, q: Array, k: Array, v: Array, limit: Array) -> Array:
    """For CPU: selection in blocks, then k additions of weighted values, each fetched as it is added. A gathered
    [N, k, D] would not fit the cache, a product with all values would cost as much as the scores."""

    def row(one: tuple[Array, Array, Array]) -> Array:
        q, k, v = one

        def read(piece: Array, _: None) -> Array:
            scores = jnp.matmul(piece, k.T, preferred_element_type=jnp.float32)
            best, index = top_k_in_blocks(scores, kept, limit)
            weights = jnp.exp(best - best.max(-1, keepdims=True))
            total = jnp.zeros((piece.shape[0], v.shape[1]), jnp.float32)
            for j in range(kept):
                total += weights[:, j, None] * v.at[index[:, j]].get(mode="promise_in_bounds")
            return (total / weights.sum(-1, keepdims=True)).astype(v.dtype)

        return over_pieces(read, q, CPU_CHUNK)

    return row((q[0], k[0], v[0]))[None] if q.shape[0] == 1 else lax.map(row, (q, k, v))


def read_gathered(kept: int, q: Array, k: Array, v: Array, limit: Array) -> Array:
    """For GPUs that have no form of their own: selection in laid out blocks, chosen values gathered."""
    laid_out = lay_out(k)
    return _read_gathered(lambda piece: _in_columns(kept, piece, laid_out, k.shape[1], limit), q, v, QUERY_CHUNK)


def read_by_bisection(kept: int, q: Array, k: Array, v: Array, limit: Array) -> Array:
    """For NVIDIA GPUs: a row's scores are made once and read once."""
    if not _bisected(k):
        return read_gathered(kept, q, k, v, limit)
    most = max(1, GPU_SCORES // (k.shape[0] * k.shape[1]))
    return _read_gathered(lambda piece: _by_rows(top_k_by_bisection, kept, piece, k, limit), q, v, most)


def _read_gathered(selected: Callable, q: Array, v: Array, most: int) -> Array:
    """The weighted sum of what `selected` chooses for a piece of at most so many queries."""

    def read(piece: Array, _: None) -> Array:
        best, index = selected(piece)
        weights = jnp.exp(best - best.max(-1, keepdims=True))
        return (_sum_gathered(weights, index, v) / weights.sum(-1, keepdims=True)).astype(v.dtype)

    return join_queries(map_pieces(read, split_queries(q, most), None))


def read_by_products(kept: int, q: Array, k: Array, v: Array, limit: Array) -> Array:
    """For TPU: nothing is gathered. The scores of the chosen blocks are picked by products with one-hot matrices, and
    the weighted sum is a product with all values, whose other weights are zero: those below the last score kept."""

    def read(piece: Array) -> Array:
        table = _table(piece, keys, place, limit)
        best, index = top_k_by_products(table, kept)
        last, last_index = best[:, None, :, -1:], index[:, None, :, -1:]
        placed = place[None, :, None]
        chosen = (table > last) | ((table == last) & (placed <= last_index))
        weights = jnp.where(chosen, jnp.exp(table - best[:, None, :, :1]), 0.0)
        mixed = jnp.einsum("bsnm,bsmd->bnd", weights.astype(v.dtype), values, preferred_element_type=jnp.float32)
        return (mixed / jnp.exp(best - best[..., :1]).sum(-1, keepdims=True)).astype(v.dtype)

    keys, values, place = _in_tables(k), _in_tables(v), _places(k.shape[1])
    return join_queries(lax.map(read, split_queries(q, QUERY_CHUNK)))


READS = {"cpu": read_by_row, "accelerator": read_gathered, "tpu": read_by_products, "cuda": read_by_bisection}


def _bisected(k: Array) -> bool:
    """Whether NVIDIA GPUs have their own form of the selection here; if not, they do as other accelerators."""
    return k.shape[1] <= LONGEST and can_be_lowered()


def _in_tables(x: Float[Array, "B M C"]) -> Float[Array, "B 32 columns C"]:
    return lay_out(x).reshape(x.shape[0], BLOCK, -1, x.shape[-1])


def _places(count: int) -> Int[np.ndarray, "32 columns"]:
    return laid_out_index(count).reshape(BLOCK, -1)


def _table(piece: Array, keys: Array, place: Int[np.ndarray, "32 columns"], limit: Array) -> Array:
    scores = jnp.einsum("bnc,bsmc->bsnm", piece, keys, preferred_element_type=jnp.float32)
    return jnp.where((place < limit)[None, :, None], scores, LOWEST)


def _scores(piece: Array, keys: Array) -> Float[Array, "B n M"]:
    return jnp.einsum("bnc,bmc->bnm", piece, keys, preferred_element_type=jnp.float32)


def _rows_chosen(choose: Callable, kept: int, scores: Float[Array, "B n M"]) -> tuple[Array, Array]:
    best, index = choose(scores.reshape(-1, scores.shape[-1]), kept)
    return best.reshape(*scores.shape[:2], kept), index.reshape(*scores.shape[:2], kept)


def _by_rows(choose: Callable, kept: int, piece: Array, k: Array, limit: Array) -> tuple[Array, Array]:
    return _rows_chosen(partial(choose, limit=limit), kept, _scores(piece, k))


def _in_columns(kept: int, piece: Array, laid_out: Array, count: int, limit: Array) -> tuple[Array, Array]:
    counts = jnp.asarray(laid_out_index(count)) < limit
    return _rows_chosen(top_k_laid_out, kept, jnp.where(counts[None, None], _scores(piece, laid_out), -jnp.inf))


def select(kept: int, piece: Array, k: Array, limit: Array) -> tuple[Array, Array]:
    """Scores kept and their indices, `[B, n, kept]`, for a piece of (scaled) queries, in the platform's form."""

    def in_columns(piece: Array, k: Array, limit: Array) -> tuple[Array, Array]:
        return _in_columns(kept, piece, lay_out(k), k.shape[1], limit)

    def by_products(piece: Array, k: Array, limit: Array) -> tuple[Array, Array]:
        return top_k_by_products(_table(piece, _in_tables(k), _places(k.shape[1]), limit), kept)

    in_blocks, by_bisection = (partial(_by_rows, choose, kept) for choose in (top_k_in_blocks, top_k_by_bisection))
    cuda = by_bisection if _bisected(k) else in_columns
    return by_platform(piece, k, limit, cpu=in_blocks, accelerator=in_columns, tpu=by_products, cuda=cuda)


def weighted_sum(
    weights: Float[Array, "B n k"], index: Int[Array, "B n k"], v: Float[Array, "B M D"]
) -> Float[Array, "B n D"]:
    """Sum over k of weights times the values with these indices; float32."""

    def by_products(weights: Array, index: Array, v: Array) -> Array:
        values = _in_tables(v)
        table = tabulate(weights, index, values.shape[2]).astype(v.dtype)
        return jnp.einsum("bsnm,bsmd->bnd", table, values, preferred_element_type=jnp.float32)

    return by_platform(weights, index, v, cpu=_sum_gathered, accelerator=_sum_gathered, tpu=by_products)


def similarity(given: Float[Array, "B n D"], index: Int[Array, "B n k"], v: Float[Array, "B M D"]) -> Array:
    """Products `[B, n, k]` of each row with the values of these indices; float32."""

    def gathered(given: Array, index: Array, v: Array) -> Array:
        return jnp.einsum("bnd,bnkd->bnk", given, _gather(v, index), preferred_element_type=jnp.float32)

    def by_products(given: Array, index: Array, v: Array) -> Array:
        return pick(jnp.einsum("bnd,bsmd->bsnm", given, _in_tables(v), preferred_element_type=jnp.float32), index)

    return by_platform(given, index, v, cpu=gathered, accelerator=gathered, tpu=by_products)


def weighted_scatter(
    weights: Float[Array, "B n k"], index: Int[Array, "B n k"], rows: Float[Array, "B n C"], count: int
) -> Float[Array, "B M C"]:
    """The transpose of `weighted_sum`: for each of `count` indices, the sum of weights times rows; float32."""

    def scattered(weights: Array, index: Array, rows: Array) -> Array:
        dense = _scatter(weights, index, count)
        return jnp.einsum("bnm,bnc->bmc", dense, rows, preferred_element_type=jnp.float32)

    def by_products(weights: Array, index: Array, rows: Array) -> Array:
        table = tabulate(weights, index, -(-count // BLOCK)).astype(rows.dtype)
        sums = jnp.einsum("bsnm,bnc->bmsc", table, rows, preferred_element_type=jnp.float32)
        return sums.reshape(rows.shape[0], -1, rows.shape[-1])[:, :count]

    return by_platform(weights, index, rows, cpu=scattered, accelerator=scattered, tpu=by_products)


def _sum_gathered(weights: Array, index: Array, v: Array) -> Array:
    return jnp.einsum("bnk,bnkd->bnd", weights.astype(v.dtype), _gather(v, index), preferred_element_type=jnp.float32)


def _gather(x: Float[Array, "B M C"], index: Int[Array, "B n k"]) -> Float[Array, "B n k C"]:
    row = jnp.arange(x.shape[0], dtype=jnp.int32)[:, None, None]
    return x.at[row, index].get(mode="promise_in_bounds")


def _piece_keys(key: DropoutKey, pieces: int):
    return None if key is None else jax.random.split(key, pieces)


def _forward(kept: int, dropout_rate: float, q: Array, k: Array, v: Array, limit: Array, key: DropoutKey):
    """Value and residuals for training. Of the scores only k indices and softmax weights per query are kept."""

    def read(chunk):
        piece, piece_key = chunk
        best, index = select(kept, piece, k, limit)
        weights = jax.nn.softmax(best, -1)
        mixed = weighted_sum(dropout(weights, dropout_rate, piece_key), index, v)
        return mixed.astype(v.dtype), weights, index

    chunks = split_queries(q, TRAINING_CHUNK)
    kept_all = lax.map(read, (chunks, _piece_keys(key, chunks.shape[0])))
    outputs, weights, index = (checkpoint_name(x, COSTLY) for x in kept_all)
    return join_queries(outputs), (q, k, v, weights, index, key)


def _backward(kept: int, dropout_rate: float, residuals, cotangent: Array):
    """Softmax's gradient on the k chosen scores."""
    q, k, v, weights, index, key = residuals
    kept_back = lax.map(
        lambda piece: dropout(jnp.ones_like(piece[0]), dropout_rate, piece[1]),
        (weights, _piece_keys(key, weights.shape[0])),
    )
    arrays = q, k, v, cotangent, weights, index, kept_back
    gradients = by_platform(*arrays, cpu=gradient_by_rank, accelerator=gradient_in_pieces)
    return *(dx.astype(x.dtype) for dx, x in zip(gradients, (q, k, v), strict=True)), None, None


def gradient_by_rank(
    q: Array, k: Array, v: Array, given: Array, weights: Array, index: Array, kept_back: Array
) -> tuple[Array, Array, Array]:
    """For CPU: for each of the k places in turn, the row of keys or values that every query chose is fetched, or added
    to. That touches k rows per query, where products with all keys would cost twenty times as much."""
    weights, index, kept_back = (join_queries(x) for x in (weights, index, kept_back))

    def row(arrays: tuple[Array, ...]) -> tuple[Array, Array, Array]:
        q, k, v, given, weights, places, kept_back = arrays
        weights, places, kept_back = weights.T, places.T, kept_back.T

        def chosen(x: Array, place: Array) -> Array:
            return x.at[place].get(mode="promise_in_bounds").astype(jnp.float32)

        dweights = kept_back * lax.map(lambda place: (given * chosen(v, place)).sum(-1), places)
        dscores = weights * (dweights - (weights * dweights).sum(0, keepdims=True))

        def rank(totals: tuple[Array, Array, Array], here: tuple[Array, Array, Array]):
            dq, dk, dv = totals
            place, dscore, weight = here
            dq += dscore[:, None] * chosen(k, place)
            dk = dk.at[place].add(dscore[:, None] * q, mode="promise_in_bounds")
            dv = dv.at[place].add(weight[:, None] * given, mode="promise_in_bounds")
            return (dq, dk, dv), None

        zeros = tuple(jnp.zeros(x.shape, jnp.float32) for x in (q, k, v))
        return lax.scan(rank, zeros, (places, dscores, weights * kept_back))[0]

    arrays = q, k, v, given, weights, index, kept_back
    return lax.map(row, arrays) if q.shape[0] > 1 else tuple(x[None] for x in row(tuple(x[0] for x in arrays)))


def gradient_in_pieces(
    q: Array, k: Array, v: Array, given: Array, weights: Array, index: Array, kept_back: Array
) -> tuple[Array, Array, Array]:
    """For accelerators: for keys and values what was chosen is scattered into a piece's full row, so that the sums over
    queries are matrix products."""
    count = k.shape[1]

    def piece_gradient(totals, chunk):
        dk, dv = totals
        piece, given, weights, index, kept_back = chunk
        dweights = kept_back * similarity(given, index, v)
        dscores = weights * (dweights - (weights * dweights).sum(-1, keepdims=True))
        dq = weighted_sum(dscores, index, k)
        dk += weighted_scatter(dscores, index, piece, count)
        dv += weighted_scatter(kept_back * weights, index, given, count)
        return (dk, dv), dq

    chunks = split_queries(q, TRAINING_CHUNK)
    given = split_queries(given, TRAINING_CHUNK)
    zeros = (jnp.zeros(k.shape, jnp.float32), jnp.zeros(v.shape, jnp.float32))
    (dk, dv), dq = lax.scan(piece_gradient, zeros, (chunks, given, weights, index, kept_back))
    return join_queries(dq), dk, dv


def _scatter(chosen: Float[Array, "B n k"], index: Int[Array, "B n k"], count: int) -> Float[Array, "B n M"]:
    batch, queries, _ = chosen.shape
    row = jnp.arange(batch, dtype=jnp.int32)[:, None, None]
    query = jnp.arange(queries, dtype=jnp.int32)[None, :, None]
    empty = jnp.zeros((batch, queries, count), chosen.dtype)
    return empty.at[row, query, index].set(chosen, mode="promise_in_bounds", unique_indices=True)


define_gradient(_attend, _backward, _forward)
