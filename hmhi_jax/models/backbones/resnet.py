"""ResNet-50 and ResNet-101 (docs/model.md 2.3), v1.5: the stride of a block is in its 3x3 convolution."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from hmhi_jax.models.backbones import BackboneSpec, Maps, Pictures, register
from hmhi_jax.models.backbones.flow_adapter import with_adapter
from hmhi_jax.models.layers import BatchNorm, conv, drop_rates, he_fan_out, stochastic_depth


def unbiased(features: int, kernel: int, stride: int, dtype: jnp.dtype, name: str) -> nn.Conv:
    """A convolution in front of a batch norm."""
    return conv(features, kernel, stride=stride, use_bias=False, dtype=dtype, kernel_init=he_fan_out, name=name)


class Bottleneck(nn.Module):
    """1x1 to `width`, 3x3 with the stride, 1x1 to four times the width, added to the (projected) input."""

    width: int
    stride: int
    drop_path: float
    flow_adapters: bool
    updated: bool
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"], flow_rows: int, train: bool) -> Float[Array, "N h w D"]:
        def convolved(x: Array, features: int, kernel: int, stride: int, name: str) -> Array:
            x = unbiased(features, kernel, stride, self.dtype, name)(x)
            return BatchNorm(self.updated, self.dtype, name=f"{name}_norm")(x, train)

        features = 4 * self.width
        y = jax.nn.relu(convolved(x, self.width, 1, 1, "conv1"))
        y = jax.nn.relu(convolved(y, self.width, 3, self.stride, "conv2"))
        y = convolved(y, features, 1, 1, "conv3")
        if x.shape[-1] != features or self.stride != 1:
            x = convolved(x, features, 1, self.stride, "shortcut")
        x = jax.nn.relu(x + stochastic_depth(self.drop_path, train)(y))
        if self.flow_adapters:
            x = with_adapter(x, flow_rows, self.dtype, "adapter")
        return x


class ResNet(nn.Module):
    """The maps after the four stages.

    Attributes:
        batch_norm: what training does with batch norm: "frozen" uses the running statistics as evaluation does,
            "updated" the batch's own, and moves the running ones.
    """

    depths: Sequence[int]
    drop_path: float = 0.0
    flow_adapters: bool = False
    batch_norm: str = "frozen"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, pictures: Pictures, *, flow_rows: int, train: bool = False) -> Maps:
        updated = self.batch_norm == "updated"
        rates = drop_rates(self.drop_path, sum(self.depths))
        x = unbiased(64, 7, 2, self.dtype, "stem")(pictures.astype(self.dtype))
        x = jax.nn.relu(BatchNorm(updated, self.dtype, name="stem_norm")(x, train))
        x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        maps = []
        for index, depth in enumerate(self.depths):
            for block in range(depth):
                stride = 2 if index > 0 and block == 0 else 1
                x = Bottleneck(
                    64 * 2**index, stride, next(rates), self.flow_adapters, updated, self.dtype,
                    name=f"stage{index + 1}_block{block}",
                )(x, flow_rows, train)  # fmt: skip
            maps.append(x)
        return tuple(maps)


for _name, _third_depth in (("resnet50", 6), ("resnet101", 23)):
    _arguments = {"depths": (3, 4, _third_depth, 3)}
    register(_name, BackboneSpec((256, 512, 1024, 2048), 256, ResNet, arguments=_arguments, batch_norm=True))
