"""Softmax attention over all keys: functions of queries, keys and values, without weights."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from hmhi_jax.kernels.elementwise import DropoutKey, dropout
from hmhi_jax.kernels.platforms import by_platform, costly, define_gradient, gradient_of

# Queries are read in pieces: a piece's scores are all that ever exists of the matrix, and they should stay in cache. On
# TPUs pieces are larger: cutting queries out of their layouts takes longer than what it saves.
SCORES = 2**20  # of a piece, for each head of each row
TPU_SCORES = 2**22
GPU_SCORES = 2**27  # of a piece, all heads and rows together: half a gigabyte, and most attentions whole
# Of a head of a row on CPU: with fewer, batched products are nearly as fast, and there is less program to compile.
FEWEST_SCORES = 2**17
FEWEST_DIFFERENTIATED = 2**19


def attend(
    q: Float[Array, "B N h d"],
    k: Float[Array, "B M h d"],
    v: Float[Array, "B M h e"],
    *,
    limit: Int[Array, ""] | None = None,
    dropout_rate: float = 0.0,
    key: DropoutKey = None,
) -> Float[Array, "B N h e"]:
    """Softmax attention with scale d^-1/2 over the first `limit` keys (None: all); scores and softmax in float32.

    The softmax's division happens after the product with the values, on the small side.
    """
    return costly(_attend(dropout_rate, q, k, v, limit, key))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(dropout_rate: float, *arguments: Any) -> Array:
    return by_platform(*arguments, **_forms(dropout_rate, FEWEST_SCORES))


def _forward(dropout_rate: float, *arguments: Any) -> tuple[Array, tuple]:
    return by_platform(*arguments, **_forms(dropout_rate, FEWEST_DIFFERENTIATED)), arguments


def _backward(dropout_rate: float, arguments: tuple, cotangent: Array) -> tuple:
    """Scores are never kept: the form that `_forward` ran, so that it drops the same weights, runs again and is
    differentiated piece by piece."""
    gradients = {name: gradient_of(form, 3) for name, form in _forms(dropout_rate, FEWEST_DIFFERENTIATED).items()}
    return *by_platform(cotangent, *arguments, **gradients), None, None


define_gradient(_attend, _backward, _forward)


def _forms(dropout_rate: float, fewest_scores: int) -> dict[str, Callable]:
    return {
        "cpu": partial(attend_by_head, fewest_scores, dropout_rate),
        "accelerator": partial(attend_whole, dropout_rate),
        "tpu": partial(attend_batched, TPU_SCORES, dropout_rate),
    }


def attend_by_head(
    fewest_scores: int, dropout_rate: float, q: Array, k: Array, v: Array, limit: Array | None, key: DropoutKey
) -> Float[Array, "B N h e"]:
    """Every head of every row as plain matrix products, for CPU: there a batched product first copies its operands
    into another layout, and runs on fewer threads."""
    batch, heads = q.shape[0], q.shape[2]
    if q.shape[1] * k.shape[1] < fewest_scores:
        return attend_batched(SCORES, dropout_rate, q, k, v, limit, key)
    rows = q, k, v, None if key is None else jax.random.split(key, (batch, heads))

    def one_row(row: tuple[Array, Array, Array, Array | None]) -> Array:
        *qkv, keys = row
        mixed = [
            _attend_matrix(dropout_rate, *(x[:, h] for x in qkv), limit, None if keys is None else keys[h])
            for h in range(heads)
        ]
        return jnp.stack(mixed, 1)

    if batch > 2:  # as many copies of the program as rows would take long to compile
        return lax.map(one_row, rows)
    return jnp.stack([one_row(jax.tree.map(lambda x, b=b: x[b], rows)) for b in range(batch)])


def _attend_matrix(
    dropout_rate: float, q: Array, k: Array, v: Array, limit: Array | None, key: DropoutKey
) -> Float[Array, "N e"]:
    """One head of one row."""
    q = q * q.shape[-1] ** -0.5

    def read(piece: Array, key: DropoutKey) -> Array:
        scores = masked(jnp.matmul(piece, k.T, preferred_element_type=jnp.float32), limit)
        weights = jnp.exp(scores - lax.stop_gradient(scores.max(-1, keepdims=True)))
        total = weights.sum(-1, keepdims=True)
        weights = dropout(weights, dropout_rate, key).astype(v.dtype)
        return (jnp.matmul(weights, v, preferred_element_type=jnp.float32) / total).astype(v.dtype)

    return over_pieces(read, q, max(1, SCORES // k.shape[0]), key)


def attend_batched(
    most_scores: int, dropout_rate: float, q: Array, k: Array, v: Array, limit: Array | None, key: DropoutKey
) -> Float[Array, "B N h e"]:
    """All heads and rows in one batched product, for accelerators: their matrix units want few, large operations."""
    scale = q.shape[-1] ** -0.5

    def read(piece: Array, key: DropoutKey) -> Array:
        scores = jnp.einsum("bnhd,bmhd->bhnm", piece * scale, k, preferred_element_type=jnp.float32)
        scores = masked(scores, limit)
        weights = jnp.exp(scores - lax.stop_gradient(scores.max(-1, keepdims=True)))
        total = weights.sum(-1)
        weights = dropout(weights, dropout_rate, key).astype(v.dtype)
        mixed = jnp.einsum("bhnm,bmhe->bnhe", weights, v, preferred_element_type=jnp.float32)
        return (mixed / jnp.moveaxis(total, 1, 2)[..., None]).astype(v.dtype)

    pieces = split_queries(q, max(1, most_scores // k.shape[1]))
    return join_queries(map_pieces(read, pieces, key))


def attend_whole(
    dropout_rate: float, q: Array, k: Array, v: Array, limit: Array | None, key: DropoutKey
) -> Float[Array, "B N h e"]:
    """As `attend_batched`, in the fewest pieces that memory allows, for GPUs: each piece is a few more kernels to
    start, and starting one takes as long as many of them run."""
    rows = q.shape[0] * q.shape[2]
    return attend_batched(max(k.shape[1], GPU_SCORES // rows), dropout_rate, q, k, v, limit, key)


def map_pieces(read: Callable, pieces: Float[Array, "P *piece"], key: DropoutKey) -> Float[Array, "P *result"]:
    """`read(piece, key)` of one piece after the other, each recomputed where it is differentiated."""
    if pieces.shape[0] == 1:
        return read(pieces[0], key)[None]
    keys = None if key is None else jax.random.split(key, pieces.shape[0])
    return lax.map(jax.checkpoint(lambda piece: read(*piece)), (pieces, keys))


def masked(scores: Float[Array, "... M"], limit: Int[Array, ""] | None) -> Float[Array, "... M"]:
    """-inf from place `limit` on."""
    if limit is None:
        return scores
    counts = jnp.arange(scores.shape[-1], dtype=jnp.int32) < limit
    return jnp.where(counts.reshape((1,) * (scores.ndim - 1) + counts.shape), scores, -jnp.inf)


def pieces_of(count: int, largest: int) -> int:
    """The smallest number of equal pieces of `count` with at most `largest` in each."""
    pieces = max(1, math.ceil(count / largest))
    while count % pieces:
        pieces += 1
    return pieces


def split_queries(queries: Float[Array, "B N *rest"], largest: int) -> Float[Array, "P B n *rest"]:
    """Equal pieces along the queries, in front."""
    batch, count = queries.shape[:2]
    pieces = pieces_of(count, largest)
    return jnp.moveaxis(queries.reshape(batch, pieces, count // pieces, *queries.shape[2:]), 1, 0)


def join_queries(chunks: Array) -> Array:
    """The inverse of `split_queries`."""
    joined = jnp.moveaxis(chunks, 0, 1)
    return joined.reshape(joined.shape[0], -1, *joined.shape[3:])


def over_pieces(
    read: Callable, queries: Float[Array, "N d"], largest: int, key: DropoutKey = None
) -> Float[Array, "N e"]:
    """`read(piece, key)` over pieces of one row's queries."""
    count = queries.shape[0]
    return map_pieces(read, queries.reshape(pieces_of(count, largest), -1, queries.shape[1]), key).reshape(count, -1)
