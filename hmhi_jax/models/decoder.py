"""From the four feature maps to the logits (docs/model.md 5)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from hmhi_jax.models.layers import CBAM, Conv3x3, GroupNorm, conv, decoder_conv


class Decoder(nn.Module):
    """Goes from the deepest map to the finest, at one width, with a CBAM at every level.

    With `norm`, group norm follows the convolutions: without it, a network trained from nothing learns far slower.
    """

    width: int
    logits: int = 1
    norm: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, maps: Sequence[Float[Array, "B _ _ _"]]) -> Float[Array, "B H4 W4 S"]:
        """Maps at strides 4, 8, 16, 32 to the coarse logits at stride 4, `logits` of them at every place."""
        settings = {"dtype": self.dtype, "kernel_init": decoder_conv}

        def activated(x: Array, name: str) -> Array:
            return jax.nn.relu(GroupNorm(self.dtype, name=f"{name}_norm")(x) if self.norm else x)

        x = None
        for level, features in reversed(list(enumerate(maps, start=1))):
            lateral = activated(conv(self.width, 1, **settings, name=f"lateral{level}")(features), f"lateral{level}")
            # The coarser level's map joins as further channels, enlarged.
            x = activated(Conv3x3(self.width, **settings, name=f"blend{level}")(lateral, x), f"blend{level}")
            x = CBAM(self.dtype, name=f"cbam{level}")(x)
        return conv(self.logits, 3, **settings, name="predictor")(x)
