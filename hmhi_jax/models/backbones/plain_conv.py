"""Small plain convolutional encoders: what a CPU trains from nothing in hours and runs many times a second.

No network of the literature: residual blocks of two 3x3 convolutions with group norm before them, as pre-activation
ResNets (He et al., ECCV 2016) order them. At these widths dense 3x3 convolutions reach several times the arithmetic
rate of the mixed transformer's depthwise ones on a CPU, and learn without pre-training.

`conv_tiny` sends frames and flow pictures through the same weights, as the paper's encoders do. `conv_joint` looks at
both at once, six channels deep: half the work, and where an edge of the picture meets an edge of the flow it can tell
from the first layer on. An encoder trained on pictures alone could not be used that way.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from hmhi_jax.models.backbones import BackboneSpec, Maps, Pictures, register
from hmhi_jax.models.backbones.flow_adapter import split_pairs, with_adapter
from hmhi_jax.models.layers import GroupNorm, conv, drop_rates, stochastic_depth

_he = nn.initializers.variance_scaling(2.0, "fan_in", "truncated_normal")
# The branch of every block starts small, so that a deep stack starts near the identity.
_small = nn.initializers.variance_scaling(0.2, "fan_in", "truncated_normal")


class ConvBlock(nn.Module):
    """`x + conv(relu(conv(relu(norm(x)))))`."""

    drop_path: float
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"], train: bool) -> Float[Array, "N H W C"]:
        channels = x.shape[-1]
        y = jax.nn.relu(GroupNorm(self.dtype, name="norm")(x))
        y = jax.nn.relu(conv(channels, 3, dtype=self.dtype, kernel_init=_he, name="conv1")(y))
        y = conv(channels, 3, dtype=self.dtype, kernel_init=_small, name="conv2")(y)
        return x + stochastic_depth(self.drop_path, train)(y)


class PlainConvNet(nn.Module):
    """A stem of stride 2 and four stages, each a strided convolution, a norm and blocks; adapters end the stages.

    With `joint`, a frame and its flow picture enter together and one set of maps comes out; adapters have no place.
    """

    channels: Sequence[int]
    depths: Sequence[int]
    stem: int
    joint: bool = False
    drop_path: float = 0.0
    flow_adapters: bool = True
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, pictures: Pictures, *, flow_rows: int, train: bool = False) -> Maps:
        rates = drop_rates(self.drop_path, sum(self.depths))
        x = pictures.astype(self.dtype)
        if self.joint:
            x = jnp.concatenate(split_pairs(x, flow_rows), -1)
        x = jax.nn.relu(conv(self.stem, 3, stride=2, dtype=self.dtype, kernel_init=_he, name="stem")(x))
        maps = []
        for index, (channels, depth) in enumerate(zip(self.channels, self.depths, strict=True), start=1):
            x = conv(channels, 3, stride=2, dtype=self.dtype, kernel_init=_he, name=f"stage{index}_embed")(x)
            x = GroupNorm(self.dtype, name=f"stage{index}_embed_norm")(x)
            for block in range(depth):
                x = ConvBlock(next(rates), self.dtype, name=f"stage{index}_block{block}")(x, train)
            if self.flow_adapters and not self.joint:
                x = with_adapter(x, flow_rows, self.dtype, f"stage{index}_adapter")
            maps.append(GroupNorm(self.dtype, name=f"stage{index}_norm")(x))
        return tuple(maps)


_CHANNELS = (32, 64, 96, 128)
_tiny = {"channels": _CHANNELS, "depths": (2, 2, 2, 2), "stem": 24}
_joint = {"channels": _CHANNELS, "depths": (1, 2, 2, 2), "stem": 16, "joint": True}
register("conv_tiny", BackboneSpec(_CHANNELS, 64, PlainConvNet, True, arguments=_tiny, decoder_norm=True))
register("conv_joint", BackboneSpec(_CHANNELS, 32, PlainConvNet, arguments=_joint, joins_flow=True, decoder_norm=True))
