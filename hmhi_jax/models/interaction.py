"""The two modules through which the banks' read-outs refine each other (docs/model.md 4)."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from hmhi_jax.models.layers import CBAM, ChannelwiseConv, conv, kaiming_uniform
from hmhi_jax.models.memory import ReadOutLayer, attend_single, torch_dense


class SGIM(nn.Module):
    """Semantic-guided global integration: the shallow read-out attends to the deep one."""

    channels: int
    deep_channels: int
    feedforward: int = 2048
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        self.reduce = torch_dense(self.channels, self.deep_channels, self.dtype)
        self.layer = ReadOutLayer(self.channels, self.feedforward, positions_in_attention=True, dtype=self.dtype)

    def __call__(
        self, shallow: Float[Array, "B h w C"], deep: Float[Array, "B h4 w4 D"], train: bool = False
    ) -> Float[Array, "B h w C"]:
        source = jax.nn.relu(self.reduce(deep.reshape(deep.shape[0], -1, deep.shape[-1])))
        keys, values = self.layer.key_value(source)

        return self.layer(shallow, lambda q, dropout_key: attend_single(q, keys, values, dropout_key), train)


class PLAM(nn.Module):
    """Pixel-guided local alignment: the shallow read-out, brought to the deep grid, corrects the deep one."""

    channels: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, shallow: Float[Array, "B h w C"], deep: Float[Array, "B h4 w4 D"]) -> Float[Array, "B h4 w4 D"]:
        settings = {"dtype": self.dtype, "kernel_init": kaiming_uniform}
        x = jax.nn.relu(ChannelwiseConv(self.channels, 7, 4, **settings, name="downsample")(shallow))
        x = jax.nn.relu(conv(self.channels, 1, **settings, name="mix")(x))
        x = CBAM(self.dtype, name="cbam")(jnp.concatenate([x, deep], -1))
        return deep + jax.nn.relu(conv(self.channels, 1, **settings, name="fuse")(x))
