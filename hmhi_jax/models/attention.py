"""Softmax attention over all keys: functions of queries, keys and values, without weights."""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt32

from hmhi_jax.models.platforms import DEAR, by_platform, differentiated_as

# Queries are read in pieces: a piece's scores are all that ever exists, and they should stay in cache.
QUERY_CHUNK = 512
CHUNK_SCORES = 2**21  # of a piece, on CPU

DropoutKey = PRNGKeyArray | UInt32[Array, "2"] | None


def dropout(x: Array, rate: float, key: DropoutKey) -> Array:
    """Zero a share `rate` of the entries and scale the rest up; the identity without a key."""
    if key is None or rate == 0.0:
        return x
    return jnp.where(jax.random.bernoulli(key, 1.0 - rate, x.shape), x / (1.0 - rate), jnp.zeros((), x.dtype))


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

    def plain(q: Array, k: Array, v: Array, limit: Array | None) -> Array:
        return _attend_recomputed(q, k, v, limit, dropout_rate, key)

    def fast(q: Array, k: Array, v: Array, limit: Array | None) -> Array:
        return by_platform(q, k, v, limit, cpu=attend_by_head, accelerator=attend_batched)

    if key is not None:
        return plain(q, k, v, limit)
    return differentiated_as(plain, fast)(q, k, v, limit)


def attend_by_head(q: Array, k: Array, v: Array, limit: Array | None) -> Array:
    """Every head of every row as plain matrix products, for CPU: there a batched product first copies its operands
    into another layout, and runs on fewer threads."""
    batch, heads = q.shape[0], q.shape[2]

    def one_row(row: tuple[Array, Array, Array]) -> Array:
        q, k, v = row
        return jnp.stack([_attend_matrix(q[:, h], k[:, h], v[:, h], limit) for h in range(heads)], 1)

    if batch > 2:  # as many copies of the program as rows would take long to compile
        return lax.map(one_row, (q, k, v))
    return jnp.stack([one_row((q[b], k[b], v[b])) for b in range(batch)])


def _attend_matrix(q: Float[Array, "N d"], k: Float[Array, "M d"], v: Float[Array, "M e"], limit) -> Array:
    """One head of one row. Score matrices that exceed the cache are cut into pieces."""
    count, keys = q.shape[0], k.shape[0]
    q = q * q.shape[-1] ** -0.5

    def read(piece: Array) -> Array:
        scores = masked(jnp.matmul(piece, k.T, preferred_element_type=jnp.float32), limit)
        weights = jnp.exp(scores - scores.max(-1, keepdims=True))
        mixed = jnp.matmul(weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
        return (mixed / weights.sum(-1, keepdims=True)).astype(v.dtype)

    return read(q) if count * keys <= 2 * CHUNK_SCORES else over_pieces(read, q, max(1, CHUNK_SCORES // keys))


def attend_batched(q: Array, k: Array, v: Array, limit: Array | None) -> Array:
    """All heads and rows in one batched product, for accelerators: their matrix units want few, large operations."""
    scale = q.shape[-1] ** -0.5

    def read(piece: Array) -> Array:
        scores = jnp.einsum("bnhd,bmhd->bhnm", piece * scale, k, preferred_element_type=jnp.float32)
        scores = masked(scores, limit)
        weights = jnp.exp(scores - scores.max(-1, keepdims=True))
        mixed = jnp.einsum("bhnm,bmhe->bnhe", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
        return (mixed / jnp.moveaxis(weights.sum(-1), 1, 2)[..., None]).astype(v.dtype)

    chunks = split_queries(q, QUERY_CHUNK)
    return read(q) if chunks.shape[0] == 1 else join_queries(lax.map(read, chunks))


def _attend_recomputed(q, k, v, limit, dropout_rate: float, key: DropoutKey) -> Array:
    """The form that is differentiated: every piece is recomputed in the backward pass, its scores are never kept."""
    scale = q.shape[-1] ** -0.5

    def read(piece: Array, chunk_key: DropoutKey) -> Array:
        scores = jnp.einsum("bnhd,bmhd->bhnm", piece * scale, k, preferred_element_type=jnp.float32)
        scores = masked(scores, limit)
        weights = jnp.exp(scores - lax.stop_gradient(scores.max(-1, keepdims=True)))
        total = weights.sum(-1)
        weights = dropout(weights, dropout_rate, chunk_key).astype(v.dtype)
        mixed = jnp.einsum("bhnm,bmhe->bnhe", weights, v, preferred_element_type=jnp.float32)
        return (mixed / jnp.moveaxis(total, 1, 2)[..., None]).astype(v.dtype)

    chunks = split_queries(q, QUERY_CHUNK)
    if chunks.shape[0] == 1:
        return checkpoint_name(read(q, key), DEAR)
    keys = None if key is None else jax.random.split(key, chunks.shape[0])
    mixed = join_queries(lax.map(jax.checkpoint(lambda chunk: read(*chunk)), (chunks, keys)))
    return checkpoint_name(mixed, DEAR)


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


def over_pieces(read, queries: Float[Array, "N d"], largest: int) -> Float[Array, "N e"]:
    """`read` over pieces of one row's queries."""
    count = queries.shape[0]
    return lax.map(read, queries.reshape(pieces_of(count, largest), -1, queries.shape[1])).reshape(count, -1)
