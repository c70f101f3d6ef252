"""Convolutional block attention: a 3x3 convolution, then channel and spatial gates (MODEL.md 4)."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from hmhi_jax.models.conv3x3 import Conv3x3
from hmhi_jax.models.convolution import conv
from hmhi_jax.models.initialisers import kaiming_uniform


class CBAM(nn.Module):
    """Keeps the number of channels."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        channels = x.shape[-1]
        settings = {"dtype": self.dtype, "kernel_init": kaiming_uniform}
        x = Conv3x3(channels, **settings, name="conv")(x)

        squeeze = nn.Dense(channels, **settings, name="channel_squeeze")
        excite = nn.Dense(channels, **settings, name="channel_excite")
        pooled = jnp.stack([x.mean((1, 2)), x.max((1, 2))])
        gate = jax.nn.sigmoid(excite(jax.nn.relu(squeeze(pooled))).sum(0))
        x = x * gate[:, None, None]

        planes = jnp.concatenate([x.mean(-1, keepdims=True), x.max(-1, keepdims=True)], -1)
        planes = jax.nn.relu(conv(16, 3, **settings, name="spatial_squeeze")(planes))
        return x * jax.nn.sigmoid(conv(1, 3, **settings, name="spatial_excite")(planes))
