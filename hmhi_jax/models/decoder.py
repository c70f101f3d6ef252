"""From the four feature maps to the logits (MODEL.md 5)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from hmhi_jax.models.cbam import CBAM
from hmhi_jax.models.conv3x3 import Conv3x3
from hmhi_jax.models.convolution import conv
from hmhi_jax.models.initialisers import decoder_conv


class Decoder(nn.Module):
    """Goes from the deepest map to the finest, at one width, with a CBAM at every level."""

    width: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, maps: Sequence[Float[Array, "B _ _ _"]]) -> Float[Array, "B H4 W4 1"]:
        """Maps at strides 4, 8, 16, 32 to the coarse logits at stride 4."""
        settings = {"dtype": self.dtype, "kernel_init": decoder_conv}
        x = None
        for level, features in reversed(list(enumerate(maps, start=1))):
            lateral = jax.nn.relu(conv(self.width, 1, **settings, name=f"lateral{level}")(features))
            # The coarser level's map joins as further channels, enlarged.
            x = jax.nn.relu(Conv3x3(self.width, **settings, name=f"blend{level}")(lateral, x))
            x = CBAM(self.dtype, name=f"cbam{level}")(x)
        return conv(1, 3, **settings, name="predictor")(x)
