"""How the release draws its initial weights (MODEL.md 2.1, 3.1, 7), as Flax initialisers."""

import math
from collections.abc import Callable

import jax
from flax import linen as nn

# Normal with deviation .02, cut at +-2 (a hundred deviations), which is what timm's `trunc_normal_(std=.02)` draws.
transformer_linear = nn.initializers.truncated_normal(0.02, lower=-100.0, upper=100.0)
# He's normal over the fan out: SegFormer's own choice for its convolutions (depthwise: per group).
segformer_conv = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
segformer_depthwise = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
# Kaiming uniform, the choice for PLAM and CBAM.
kaiming_uniform = nn.initializers.variance_scaling(2.0, "fan_in", "uniform")
decoder_conv = nn.initializers.normal(0.01)
# PyTorch's default kernel for linear layers and convolutions: uniform within 1 / sqrt(fan in).
torch_kernel = nn.initializers.variance_scaling(1.0 / 3.0, "fan_in", "uniform")


def torch_bias(fan_in: int) -> Callable[..., jax.Array]:
    """PyTorch's default bias: uniform within 1 / sqrt(fan in), the fan in of the layer's kernel."""
    bound = 1.0 / math.sqrt(fan_in)

    def init(key: jax.Array, shape: tuple[int, ...], dtype) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init
