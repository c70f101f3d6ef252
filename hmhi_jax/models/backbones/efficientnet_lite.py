"""EfficientNet-Lite0 (Tan and Le, ICML 2019; the Lite variants of 2020: ReLU6, no squeeze-and-excite).

Sixteen inverted residual blocks. Its authors trained it on pictures scaled as (x - 127) / 128 with TensorFlow's "SAME"
padding; both are kept, so that their weights mean here what they meant there.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from hmhi_jax.imagenet import IMAGENET_MEAN, IMAGENET_STD
from hmhi_jax.kernels.elementwise import of_unit_size
from hmhi_jax.kernels.inverted_residual import (
    BranchWeights,
    depthwise_same_conv,
    inverted_residual_branch,
    relu6,
    stem_conv,
)
from hmhi_jax.models import layers
from hmhi_jax.models.backbones import BackboneSpec, Maps, Pictures, register
from hmhi_jax.models.backbones.flow_adapter import with_adapter

# What the networks of TensorFlow's reference implementation train with (its momentum .99 is the old statistics' share).
EPSILON, MOMENTUM = 1e-3, 0.01


class InvertedResidual(nn.Module):
    """1x1 to `ratio` times the width, depthwise with the stride, 1x1 to `features`; added to an input of that shape."""

    features: int
    kernel: int
    stride: int
    ratio: int
    drop_path: float
    updated: bool
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"], train: bool) -> Float[Array, "N h w D"]:
        channels, wide = x.shape[-1], self.ratio * x.shape[-1]
        expand = None if self.ratio == 1 else layers.Kernel((1, 1, channels, wide), layers.he_fan_out, name="expand")()
        depthwise = layers.Kernel((self.kernel, self.kernel, 1, wide), layers.he_depthwise, name="depthwise")()
        project = layers.Kernel((1, 1, wide, self.features), layers.he_fan_out, name="project")()
        kernels = {"expand_norm": expand, "depthwise_norm": depthwise, "project_norm": project}
        if train and self.updated:
            y = self._normalised_by_batch(x, *kernels.values())
        else:
            folded = [array for name, kernel in kernels.items() for array in self._folded(kernel, name)]
            y = inverted_residual_branch(x, BranchWeights(*folded), self.stride)
        if y.shape != x.shape:
            return y
        return x + layers.stochastic_depth(self.drop_path, train)(y)

    def _folded(self, kernel: Array | None, norm: str) -> tuple[Array, Array] | tuple[None, None]:
        """A kernel (1x1: a matrix) and the bias behind it that do what the kernel and its frozen norm do."""
        if kernel is None:
            return None, None
        factor, shift = layers.FrozenBatchNorm(EPSILON, name=norm)(kernel.shape[-1])
        folded = (kernel * factor[None, None, None]).astype(self.dtype)
        return folded[0, 0] if kernel.shape[:2] == (1, 1) else folded, shift.astype(self.dtype)

    def _normalised_by_batch(self, x: Array, expand: Array | None, depthwise: Array, project: Array) -> Array:
        """The branch in training with updated batch norm, whose factors are known after the convolutions only."""

        def normed(y: Array, name: str) -> Array:
            return layers.BatchNorm(True, self.dtype, EPSILON, MOMENTUM, name=name)(y, True)

        if expand is not None:
            x = relu6(normed(x @ expand[0, 0].astype(self.dtype), "expand_norm"))
        x = depthwise_same_conv(x, depthwise.astype(self.dtype), self.stride)
        return normed(relu6(normed(x, "depthwise_norm")) @ project[0, 0].astype(self.dtype), "project_norm")


class EfficientNetLite(nn.Module):
    """The maps before the strides 8, 16 and 32, and the last one without the classifier's own convolution.

    Attributes:
        groups: of every stage its groups of blocks: features, kernel, stride of the first block, ratio, blocks.
        stem: channels of the first convolution.
        batch_norm: what training does with batch norm, as for ResNets.
        reduction: channels that the last map is brought to by a 1x1 convolution; None leaves it. The modules on the
            deepest map grow with the square of its channels, and their number must be a multiple of the shallow map's.
        unit_maps: whether every map is divided by its root mean square over a picture. Trained weights give values of
            deviation 3 to 9, beside which what the memory's layers add would be lost; frame and flow count alike.
    """

    groups: Sequence[Sequence[tuple[int, int, int, int, int]]]
    stem: int
    drop_path: float = 0.0
    flow_adapters: bool = False
    batch_norm: str = "frozen"
    reduction: int | None = None
    unit_maps: bool = True
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, pictures: Pictures, *, flow_rows: int, train: bool = False) -> Maps:
        updated = self.batch_norm == "updated"
        rates = layers.drop_rates(self.drop_path, sum(count for stage in self.groups for *_, count in stage))
        x = _as_trained(pictures).astype(self.dtype)
        kernel = layers.Kernel((3, 3, 3, self.stem), layers.he_fan_out, name="stem")()
        if train and updated:
            x = stem_conv(x, kernel.astype(self.dtype))
            x = layers.BatchNorm(True, self.dtype, EPSILON, MOMENTUM, name="stem_norm")(x, True)
        else:
            factor, shift = layers.FrozenBatchNorm(EPSILON, name="stem_norm")(self.stem)
            x = stem_conv(x, (kernel * factor[None, None, None]).astype(self.dtype))
            x = x + shift.astype(self.dtype)[None, None, None]
        x = relu6(x)
        maps = []
        for index, stage in enumerate(self.groups, start=1):
            blocks = [(f, k, 1 if n else s, r) for f, k, s, r, count in stage for n in range(count)]
            for number, (features, size, stride, ratio) in enumerate(blocks):
                x = InvertedResidual(
                    features, size, stride, ratio, next(rates), updated, self.dtype, name=f"stage{index}_block{number}"
                )(x, train)
            if self.flow_adapters:
                x = with_adapter(x, flow_rows, self.dtype, f"stage{index}_adapter")
            if self.reduction and index == len(self.groups):
                x = layers.conv(self.reduction, 1, dtype=self.dtype, kernel_init=layers.he_fan_out, name="reduction")(x)
            maps.append(of_unit_size(x) if self.unit_maps else x)
        return tuple(maps)


def _as_trained(pictures: Pictures) -> Pictures:
    """(x - 127) / 128 of 8-bit values x, out of the project's normalised ones."""
    scale = np.asarray(IMAGENET_STD) * 255 / 128, (np.asarray(IMAGENET_MEAN) * 255 - 127) / 128
    factor, shift = (jnp.asarray(x, jnp.float32)[None, None, None] for x in scale)
    return pictures.astype(jnp.float32) * factor + shift


_GROUPS = (
    ((16, 3, 1, 1, 1), (24, 3, 2, 6, 2)),
    ((40, 5, 2, 6, 2),),
    ((80, 3, 2, 6, 3), (112, 5, 1, 6, 3)),
    ((192, 5, 2, 6, 4), (320, 3, 1, 6, 1)),
)


for _name, _groups, _reduction in (
    ("efficientnet_lite0", _GROUPS, None),
    # Without the last block, which widens 192 channels to 320 for the classifier, and reduced: with 320 channels the
    # modules on the deepest map would have most of the network's weights.
    ("efficientnet_lite0_160", (*_GROUPS[:3], _GROUPS[3][:1]), 160),
):
    _arguments = {"stem": 32, "groups": _groups, "reduction": _reduction}
    _channels = (24, 40, 112, _reduction or 320)
    _spec = BackboneSpec(_channels, 64, EfficientNetLite, arguments=_arguments, batch_norm=True, decoder_norm=True)
    register(_name, _spec)
