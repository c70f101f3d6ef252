"""The feed-forwards: of a mix transformer block (docs/model.md 2.1) linear, depthwise 3x3, GELU, linear; of a read-out
layer (3.2) linear, ReLU, linear, on every token by itself."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from hmhi_jax.kernels.attention import pieces_of
from hmhi_jax.kernels.convolution import depthwise_conv, outer_products, pixel_sums
from hmhi_jax.kernels.elementwise import gelu
from hmhi_jax.kernels.platforms import by_platform, costly, define_gradient, differentiated_as

BAND = 32  # picture rows of a band
BACKWARD_BAND = 16  # those of one picture's band in the backward pass, which has more maps to keep in cache
CACHED = 2**20  # hidden numbers that stay in cache anyway; below, bands gain nothing
MOST_BANDS = 32  # each band is a copy of the program


class MixWeights(NamedTuple):
    """Kernels and biases in the compute dtype; or their gradients, in float32 until they are complete."""

    expand: Float[Array, "C D"]
    expand_bias: Float[Array, "D"]
    depthwise: Float[Array, "3 3 1 D"]
    depthwise_bias: Float[Array, "D"]
    project: Float[Array, "D C"]
    project_bias: Float[Array, "C"]


def mix_feed_forward_plain(x: Float[Array, "N H W C"], weights: MixWeights) -> Float[Array, "N H W C"]:
    """The plain form."""
    hidden = x @ weights.expand + weights.expand_bias[None, None, None]
    hidden = depthwise_conv(hidden, weights.depthwise) + weights.depthwise_bias[None, None, None]
    return gelu(hidden) @ weights.project + weights.project_bias[None, None, None]


def feed_forward_in_bands(x: Float[Array, "N H W C"], weights: MixWeights, band: int = BAND) -> Float[Array, "N H W C"]:
    """The same in bands of a few picture rows, each with the rows above and below that its convolution sees.

    The hidden map of the first stage is four times what a CPU caches, and every operation on it would wait for memory.
    Barriers chain the bands one after the other; without them the compiler computes all bands' first operations, then
    all second ones.
    """
    height = x.shape[1]
    hidden = x.shape[0] * height * x.shape[2] * weights.expand.shape[1]
    if hidden <= CACHED or not 2 <= -(-height // band) <= MOST_BANDS:
        return mix_feed_forward_plain(x, weights)
    outputs = []
    for first in range(0, height, band):
        top, bottom = max(first - 1, 0), min(first + band + 1, height)
        rows = x[:, top:bottom]
        if outputs:
            rows, outputs[-1] = lax.optimization_barrier((rows, outputs[-1]))
        # At the picture's edge the convolution pads as it should; inside, the row it pads wrongly is left out.
        outputs.append(mix_feed_forward_plain(rows, weights)[:, first - top : first - top + band])
    return jnp.concatenate(outputs, 1)


@jax.custom_vjp
def feed_forward_recomputed(x: Float[Array, "N H W C"], weights: MixWeights) -> Float[Array, "N H W C"]:
    """For CPU: `feed_forward_in_bands`, of which the backward pass keeps nothing but `x`.

    The hidden maps of all blocks would be most of what a training step keeps. Recomputed a band at a time they are
    never written to memory, and the whole takes a third of the time.
    """
    return feed_forward_in_bands(x, weights)


def _recomputed_backward(residuals: tuple[Array, MixWeights], cotangent: Array) -> tuple[Array, MixWeights]:
    """One band of one picture after the other; a loop, since its bodies' copies would take long to compile."""
    x, weights = residuals
    pictures, height = x.shape[:2]
    band = min(BACKWARD_BAND, height)
    bands = -(-height // band)
    below = bands * band - height
    padded = jnp.pad(x, ((0, 0), (2, 2 + below), (0, 0), (0, 0)))
    given = jnp.pad(cotangent, ((0, 0), (1, 1 + below), (0, 0), (0, 0)))

    def one(carry: tuple[Array, MixWeights], index: Array) -> tuple[tuple[Array, MixWeights], None]:
        gradient, totals = carry
        picture, first = index // bands, index % bands * band
        rows, rows_given = (
            lax.dynamic_slice(a, (picture, first, 0, 0), (1, band + halo, *a.shape[2:]))
            for a, halo in ((padded, 4), (given, 2))
        )
        dx, part = _band_gradient(rows, rows_given, weights, first, height)
        # Written on its own: an operation fused with the write into the whole runs on one thread.
        gradient = lax.dynamic_update_slice(gradient, lax.optimization_barrier(dx), (picture, first, 0, 0))
        return (gradient, jax.tree.map(jnp.add, totals, part)), None

    zeros = jax.tree.map(lambda w: jnp.zeros(w.shape, jnp.float32), weights)
    empty = jnp.zeros((pictures, bands * band, *x.shape[2:]), x.dtype)
    (gradient, totals), _ = lax.scan(one, (empty, zeros), jnp.arange(pictures * bands))
    return gradient[:, :height], jax.tree.map(lambda total, w: total.astype(w.dtype), totals, weights)


def _band_gradient(
    x: Float[Array, "1 b4 W C"], given: Float[Array, "1 b2 W C"], weights: MixWeights, first: Array, height: int
) -> tuple[Float[Array, "1 b W C"], MixWeights]:
    """Of `x` with two rows more above and below, and the cotangent with one: the band's gradients.

    Barriers keep maps that several operations read from being computed anew in each of them.
    """
    band, width = x.shape[1] - 4, x.shape[2]
    taps = [(i, j) for i in range(3) for j in range(3)]
    kernel = weights.depthwise

    def inside(rows: int, above: int) -> Array:
        """Rows that the picture has: the convolution sees zeros beyond, not what a padded `x` gives."""
        row = first - above + jnp.arange(rows)
        return ((row >= 0) & (row < height)).astype(x.dtype)[None, :, None, None]

    def padded(a: Array) -> Array:
        return jnp.pad(lax.optimization_barrier(a), ((0, 0), (0, 0), (1, 1), (0, 0)))

    hidden = padded((x @ weights.expand + weights.expand_bias[None, None, None]) * inside(band + 4, 2))
    mixed = sum(hidden[:, i : i + band + 2, j : j + width] * kernel[None, None, i, j] for i, j in taps)
    mixed = lax.optimization_barrier(mixed + weights.depthwise_bias[None, None, None])
    below = 0.5 + 0.5 * lax.erf(mixed * jnp.asarray(0.5**0.5, x.dtype))
    slope = below + mixed * jnp.exp(-0.5 * mixed * mixed) * jnp.asarray((2 * math.pi) ** -0.5, x.dtype)
    active = lax.optimization_barrier((mixed * below)[:, 1:-1])
    dmixed = padded((given @ weights.project.T) * slope * inside(band + 2, 1))
    dhidden = sum(dmixed[:, 2 - i : 2 - i + band, 2 - j : 2 - j + width] * kernel[None, None, i, j] for i, j in taps)
    dhidden = lax.optimization_barrier(dhidden * inside(band, 0))
    own, own_given = dmixed[:, 1:-1, 1:-1], given[:, 1:-1]

    # The wider map stands to the right: twice as fast as the other way round.
    return dhidden @ weights.expand.T, MixWeights(
        expand=outer_products(x[:, 2:-2], dhidden),
        expand_bias=pixel_sums(dhidden),
        depthwise=jnp.stack(
            [pixel_sums(hidden[:, 1 + i : 1 + i + band, j : j + width] * own) for i, j in taps]
        ).reshape(weights.depthwise.shape),
        depthwise_bias=pixel_sums(own),
        project=outer_products(own_given, active).T,
        project_bias=pixel_sums(own_given),
    )  # fmt: skip


define_gradient(feed_forward_recomputed, _recomputed_backward)


def mix_feed_forward(x: Float[Array, "N H W C"], weights: MixWeights) -> Float[Array, "N H W C"]:
    """Linear, depthwise 3x3, GELU, linear in the platform's form."""
    return costly(by_platform(x, weights, cpu=feed_forward_recomputed, accelerator=mix_feed_forward_plain))


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


def token_feed_forward_plain(x: Float[Array, "B N C"], weights: FeedForwardWeights) -> Float[Array, "B N C"]:
    """The plain form."""
    return projected(expanded(x, weights), weights)


def feed_forward_in_pieces(x: Float[Array, "B N C"], weights: FeedForwardWeights) -> Float[Array, "B N C"]:
    """The same, a few tokens at a time: for 4096 tokens of 2048 hidden numbers each, a CPU would otherwise wait for
    memory as long as it computes."""
    rows = x.reshape(-1, x.shape[-1])
    pieces = pieces_of(rows.shape[0], PIECE)
    if pieces == 1:
        return token_feed_forward_plain(x, weights)

    def read(piece: Array) -> Array:
        return projected(expanded(piece, weights), weights)

    return lax.map(read, rows.reshape(pieces, -1, x.shape[-1])).reshape(x.shape)


def _in_platform_form(x: Array, weights: FeedForwardWeights) -> Array:
    return by_platform(x, weights, cpu=feed_forward_in_pieces, accelerator=token_feed_forward_plain)


token_feed_forward = differentiated_as(token_feed_forward_plain, _in_platform_form)


def _row(bias: Float[Array, "D"], like: Array) -> Array:
    return bias.reshape((1,) * (like.ndim - 1) + bias.shape)
