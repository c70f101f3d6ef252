"""The feed-forward of a read-out layer (docs/model.md 3.2): linear, ReLU, linear, on every token by itself."""

from typing import NamedTuple

import jax
from jax import lax
from jaxtyping import Array, Float

from hmhi_jax.kernels.attention import pieces_of
from hmhi_jax.kernels.platforms import by_platform, differentiated_as

PIECE = 512  # tokens whose hidden numbers stay in a core's cache


class FeedForwardWeights(NamedTuple):
    """Kernels and biases in the compute dtype."""

    expand: Float[Array, "C F"]
    expand_bias: Float[Array, "F"]
    project: Float[Array, "F C"]
    project_bias: Float[Array, "C"]


def expanded(x: Float[Array, "*n C"], weights: FeedForwardWeights) -> Float[Array, "*n F"]:
    """The hidden numbers."""
    return jax.nn.relu(x @ weights.expand + _row(weights.expand_bias, x))


def projected(hidden: Float[Array, "*n F"], weights: FeedForwardWeights) -> Float[Array, "*n C"]:
    """The tokens that the hidden numbers give."""
    return hidden @ weights.project + _row(weights.project_bias, hidden)


def feed_forward(x: Float[Array, "B N C"], weights: FeedForwardWeights) -> Float[Array, "B N C"]:
    """The plain form."""
    return projected(expanded(x, weights), weights)


def feed_forward_in_pieces(x: Float[Array, "B N C"], weights: FeedForwardWeights) -> Float[Array, "B N C"]:
    """The same, a few tokens at a time: for 4096 tokens of 2048 hidden numbers each, a CPU would otherwise wait for
    memory as long as it computes."""
    rows = x.reshape(-1, x.shape[-1])
    pieces = pieces_of(rows.shape[0], PIECE)
    if pieces == 1:
        return feed_forward(x, weights)

    def read(piece: Array) -> Array:
        return projected(expanded(piece, weights), weights)

    return lax.map(read, rows.reshape(pieces, -1, x.shape[-1])).reshape(x.shape)


def _in_platform_form(x: Array, weights: FeedForwardWeights) -> Array:
    return by_platform(x, weights, cpu=feed_forward_in_pieces, accelerator=feed_forward)


token_feed_forward = differentiated_as(feed_forward, _in_platform_form)


def _row(bias: Float[Array, "D"], like: Array) -> Array:
    return bias.reshape((1,) * (like.ndim - 1) + bias.shape)
