"""Attention cores: functions of queries, keys and values, without weights."""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, PRNGKeyArray, UInt32

# Queries are read in pieces of about this many: the score matrix of one piece stays in cache, and is all there is.
QUERY_CHUNK = 512

DropoutKey = PRNGKeyArray | UInt32[Array, "2"] | None


def dropout(x: Array, rate: float, key: DropoutKey) -> Array:
    """Zero a share `rate` of the entries and scale the rest up; the identity without a key."""
    if key is None or rate == 0.0:
        return x
    return jnp.where(jax.random.bernoulli(key, 1.0 - rate, x.shape), x / (1.0 - rate), jnp.zeros((), x.dtype))


def over_query_chunks(read, queries: Float[Array, "B N *heads C"], key: DropoutKey) -> Float[Array, "B N *heads D"]:
    """`read(chunk of queries, key)` for all queries, piece by piece; every piece is recomputed in the backward pass,
    so its scores are never kept."""
    batch, count = queries.shape[:2]
    pieces = max(1, math.ceil(count / QUERY_CHUNK))
    while count % pieces:
        pieces += 1
    if pieces == 1:
        return read(queries, key)
    chunks = jnp.moveaxis(queries.reshape(batch, pieces, count // pieces, *queries.shape[2:]), 1, 0)
    keys = None if key is None else jax.random.split(key, pieces)
    outputs = lax.map(jax.checkpoint(lambda args: read(*args)), (chunks, keys))
    return jnp.moveaxis(outputs, 0, 1).reshape(batch, count, *outputs.shape[3:])


def attend(
    q: Float[Array, "B N h d"],
    k: Float[Array, "B M h d"],
    v: Float[Array, "B M h e"],
    *,
    valid: Bool[Array, "M"] | None = None,
    dropout_rate: float = 0.0,
    key: DropoutKey = None,
) -> Float[Array, "B N h e"]:
    """Softmax attention with scale d^-1/2 over the valid keys; scores and softmax in float32.

    The softmax's division happens after the product with the values, on the small side.
    """
    scale = q.shape[-1] ** -0.5

    def read(q_chunk: Array, chunk_key: DropoutKey) -> Array:
        scores = jnp.einsum("bnhd,bmhd->bhnm", q_chunk * scale, k, preferred_element_type=jnp.float32)
        if valid is not None:
            scores = jnp.where(valid[None, None, None], scores, -jnp.inf)
        weights = jnp.exp(scores - lax.stop_gradient(scores.max(-1, keepdims=True)))
        total = weights.sum(-1)
        weights = dropout(weights, dropout_rate, chunk_key).astype(v.dtype)
        mixed = jnp.einsum("bhnm,bmhe->bnhe", weights, v, preferred_element_type=jnp.float32)
        return (mixed / jnp.moveaxis(total, 1, 2)[..., None]).astype(v.dtype)

    return over_query_chunks(read, q, key)


def attend_top_k(
    q: Float[Array, "B N C"],
    k: Float[Array, "B M C"],
    v: Float[Array, "B M D"],
    *,
    top_k: int,
    valid: Bool[Array, "M"] | None = None,
    dropout_rate: float = 0.0,
    key: DropoutKey = None,
) -> Float[Array, "B N D"]:
    """One head that keeps, for every query, the `top_k` highest scores and takes the softmax over them.

    Of equal scores the one that stands first is kept, as `lax.top_k` does. Invalid keys get weight zero.
    """
    scale = q.shape[-1] ** -0.5
    kept = min(top_k, k.shape[1])

    def read(q_chunk: Array, chunk_key: DropoutKey) -> Array:
        scores = jnp.einsum("bnc,bmc->bnm", q_chunk * scale, k, preferred_element_type=jnp.float32)
        if valid is not None:
            scores = jnp.where(valid[None, None], scores, -jnp.inf)
        best, index = lax.top_k(scores, kept)
        weights = jnp.exp(best - lax.stop_gradient(best[..., :1]))
        total = weights.sum(-1, keepdims=True)
        weights = dropout(weights, dropout_rate, chunk_key).astype(v.dtype)
        chosen = jax.vmap(lambda values, i: values[i])(v, index)
        mixed = jnp.einsum("bnk,bnkd->bnd", weights, chosen, preferred_element_type=jnp.float32)
        return (mixed / total).astype(v.dtype)

    return over_query_chunks(read, q, key)
