"""The feed-forward of a mix transformer block (MODEL.md 2.1): linear, depthwise 3x3, GELU, linear."""

from typing import NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from hmhi_jax.models.activations import gelu
from hmhi_jax.models.convolution import depthwise_conv
from hmhi_jax.models.initialisers import segformer_depthwise, transformer_linear
from hmhi_jax.models.parameters import KernelAndBias
from hmhi_jax.models.platforms import by_platform, differentiated_as

BAND = 32  # picture rows of a band
CACHED = 2**20  # hidden numbers that stay in cache anyway; below, bands gain nothing
MOST_BANDS = 32  # each band is a copy of the program


class MixWeights(NamedTuple):
    """Kernels and biases in the compute dtype."""

    expand: Float[Array, "C D"]
    expand_bias: Float[Array, "D"]
    depthwise: Float[Array, "3 3 1 D"]
    depthwise_bias: Float[Array, "D"]
    project: Float[Array, "D C"]
    project_bias: Float[Array, "C"]


def feed_forward(x: Float[Array, "N H W C"], weights: MixWeights) -> Float[Array, "N H W C"]:
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
        return feed_forward(x, weights)
    outputs = []
    for first in range(0, height, band):
        top, bottom = max(first - 1, 0), min(first + band + 1, height)
        rows = x[:, top:bottom]
        if outputs:
            rows, outputs[-1] = lax.optimization_barrier((rows, outputs[-1]))
        # At the picture's edge the convolution pads as it should; inside, the row it pads wrongly is left out.
        outputs.append(feed_forward(rows, weights)[:, first - top : first - top + band])
    return jnp.concatenate(outputs, 1)


def _in_platform_form(x: Array, weights: MixWeights) -> Array:
    return by_platform(x, weights, cpu=feed_forward_in_bands, accelerator=feed_forward)


mix_feed_forward = differentiated_as(feed_forward, _in_platform_form)


class MixFeedForward(nn.Module):
    """Linear to `ratio` times the width, depthwise 3x3, GELU, linear back."""

    ratio: int = 4
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"]) -> Float[Array, "N H W C"]:
        channels, hidden = x.shape[-1], self.ratio * x.shape[-1]
        layers = (
            ("expand", (channels, hidden), transformer_linear),
            ("dwconv", (3, 3, 1, hidden), segformer_depthwise),
            ("project", (hidden, channels), transformer_linear),
        )
        arrays = [KernelAndBias(shape, self.dtype, init, name=name)() for name, shape, init in layers]
        return mix_feed_forward(x.astype(self.dtype), MixWeights(*(array for pair in arrays for array in pair)))
