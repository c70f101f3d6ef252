"""Mix transformers b0 to b5 (SegFormer) with adapters on the flow rows (docs/model.md 2.1)."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from hmhi_jax.kernels.attention import attend
from hmhi_jax.kernels.feed_forward import MixWeights, mix_feed_forward
from hmhi_jax.models import layers
from hmhi_jax.models.backbones import BackboneSpec, Maps, Pictures, register
from hmhi_jax.models.backbones.flow_adapter import FlowAdapter, add_to_flow_rows, with_adapter


class EfficientAttention(nn.Module):
    """Self-attention whose keys and values come from a grid reduced `reduction` times per side."""

    heads: int
    reduction: int
    flow_adapters: bool
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"], flow_rows: int) -> Float[Array, "N H W C"]:
        rows, channels = x.shape[0], x.shape[-1]
        source = x
        if self.reduction > 1:
            source = layers.PatchConv(channels, self.reduction, self.dtype, layers.he_fan_out, name="reduce")(x)
            source = layers.norm(1e-5, self.dtype, "reduce_norm")(source)
        q = layers.dense(channels, self.dtype, "q")(x)
        kv = layers.dense(2 * channels, self.dtype, "kv")(source)
        if self.flow_adapters:
            q = add_to_flow_rows(q, x, flow_rows, FlowAdapter(channels, self.dtype, name="q_adapter"))
            kv = add_to_flow_rows(kv, source, flow_rows, FlowAdapter(2 * channels, self.dtype, name="kv_adapter"))
        split = (self.heads, channels // self.heads)
        k, v = jnp.split(kv.reshape(rows, -1, 2 * channels), 2, -1)
        mixed = attend(q.reshape(rows, -1, *split), k.reshape(rows, -1, *split), v.reshape(rows, -1, *split))
        return layers.dense(channels, self.dtype, "out")(mixed.reshape(x.shape))


class MixFeedForward(nn.Module):
    """Linear to four times the width, depthwise 3x3, GELU, linear back."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"]) -> Float[Array, "N H W C"]:
        channels, hidden = x.shape[-1], 4 * x.shape[-1]
        parts = (
            ("expand", (channels, hidden), layers.transformer_linear),
            ("dwconv", (3, 3, 1, hidden), layers.he_depthwise),
            ("project", (hidden, channels), layers.transformer_linear),
        )
        arrays = [layers.KernelAndBias(shape, self.dtype, init, name=name)() for name, shape, init in parts]
        return mix_feed_forward(x.astype(self.dtype), MixWeights(*(array for pair in arrays for array in pair)))


class MixBlock(nn.Module):
    """Attention and feed-forward, each normalised before and added after."""

    heads: int
    reduction: int
    drop_path: float
    flow_adapters: bool
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"], flow_rows: int, train: bool) -> Float[Array, "N H W C"]:
        drop = layers.stochastic_depth(self.drop_path, train)
        attention = EfficientAttention(self.heads, self.reduction, self.flow_adapters, self.dtype, name="attn")
        x = x + drop(attention(layers.norm(1e-6, self.dtype, "norm1")(x), flow_rows))
        x = x + drop(MixFeedForward(self.dtype, name="mlp")(layers.norm(1e-6, self.dtype, "norm2")(x)))
        if self.flow_adapters:
            x = with_adapter(x, flow_rows, self.dtype, "adapter")
        return x


class MixTransformer(nn.Module):
    """Four stages of overlapping patch embedding and blocks."""

    channels: Sequence[int]
    depths: Sequence[int]
    heads: Sequence[int] = (1, 2, 5, 8)
    reductions: Sequence[int] = (8, 4, 2, 1)
    drop_path: float = 0.1
    flow_adapters: bool = True
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, pictures: Pictures, *, flow_rows: int, train: bool = False) -> Maps:
        rates = layers.drop_rates(self.drop_path, sum(self.depths))
        x, maps = pictures.astype(self.dtype), []
        for index, (channels, depth) in enumerate(zip(self.channels, self.depths, strict=True)):
            stage, size = f"stage{index + 1}", 7 if index == 0 else 3
            stride, drawn = 4 if index == 0 else 2, {"dtype": self.dtype, "kernel_init": layers.he_fan_out}
            embed = layers.conv(channels, size, stride=stride, **drawn, name=f"{stage}_embed")
            x = layers.norm(1e-5, self.dtype, f"{stage}_embed_norm")(embed(x))
            for block in range(depth):
                x = MixBlock(
                    self.heads[index], self.reductions[index], next(rates), self.flow_adapters, self.dtype,
                    name=f"{stage}_block{block}",
                )(x, flow_rows, train)  # fmt: skip
            x = layers.norm(1e-6, self.dtype, f"{stage}_norm")(x)
            maps.append(x)
        return tuple(maps)


_WIDE, _HEADS = (64, 128, 320, 512), (1, 2, 5, 8)
for _name, _channels, _depths, _heads, _width, _drop_path in (
    ("mit_b0", (32, 64, 160, 256), (2, 2, 2, 2), _HEADS, 128, 0.1),
    ("mit_b1", _WIDE, (2, 2, 2, 2), _HEADS, 256, 0.1),
    ("mit_b2", _WIDE, (3, 4, 6, 3), _HEADS, 256, 0.1),
    ("mit_b3", _WIDE, (3, 4, 18, 3), _HEADS, 256, 0.1),
    ("mit_b4", _WIDE, (3, 8, 27, 3), _HEADS, 256, 0.1),
    ("mit_b5", _WIDE, (3, 6, 40, 3), _HEADS, 256, 0.1),
    # Small enough to be trained on a CPU; no network of the literature. (What is shipped has `conv_joint`.)
    ("mit_tiny", (32, 64, 96, 128), (2, 2, 2, 2), (1, 2, 3, 4), 64, 0.0),
):
    _arguments = {"channels": _channels, "depths": _depths, "heads": _heads}
    register(_name, BackboneSpec(_channels, _width, MixTransformer, True, _drop_path, _arguments))
