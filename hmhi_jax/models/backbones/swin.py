"""Swin transformers T, S and B (docs/model.md 2.2): attention in windows of 7 x 7, every other block's shifted by 3."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from hmhi_jax.kernels.elementwise import gelu
from hmhi_jax.kernels.grids import WINDOW, from_windows, relative_position_index, seam_mask, to_windows
from hmhi_jax.models import layers
from hmhi_jax.models.backbones import BackboneSpec, Maps, Pictures, register
from hmhi_jax.models.backbones.flow_adapter import FlowAdapter, add_to_flow_rows, with_adapter

EPSILON = 1e-5


class WindowAttention(nn.Module):
    """Multi-head attention inside windows, with a learned bias for every relative position."""

    heads: int
    shift: int
    flow_adapters: bool
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"], flow_rows: int) -> Float[Array, "N H W C"]:
        rows, height, width, channels = x.shape
        depth = channels // self.heads
        # Padding comes after the norm: padded tokens are zero here and take part, with the biases as key and value.
        x = jnp.pad(x, ((0, 0), (0, -height % WINDOW), (0, -width % WINDOW), (0, 0)))
        padded = x.shape[1:3]
        x = jnp.roll(x, (-self.shift, -self.shift), (1, 2)) if self.shift else x

        qkv = layers.dense(3 * channels, self.dtype, "qkv")(x)
        if self.flow_adapters:
            q = FlowAdapter(channels, self.dtype, name="q_adapter")
            kv = FlowAdapter(2 * channels, self.dtype, name="kv_adapter")
            qkv = add_to_flow_rows(qkv, x, flow_rows, lambda flow: jnp.concatenate([q(flow), kv(flow)], -1))
        windows = to_windows(qkv).reshape(rows, -1, WINDOW**2, 3, self.heads, depth)
        q, k, v = windows.transpose(3, 0, 1, 4, 2, 5)

        places = (2 * WINDOW - 1) ** 2
        table = self.param("relative_position_bias", layers.transformer_linear, (places, self.heads), jnp.float32)
        bias = table[relative_position_index().reshape(-1)].reshape(WINDOW**2, WINDOW**2, self.heads)
        bias = bias.transpose(2, 0, 1)[None]
        if self.shift:
            bias = bias + seam_mask(*padded, self.shift)[:, None]
        scores = jnp.einsum("nwhqd,nwhkd->nwhqk", q * depth**-0.5, k, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(scores + bias[None], -1).astype(self.dtype)
        mixed = jnp.einsum("nwhqk,nwhkd->nwqhd", weights, v)

        x = from_windows(mixed.reshape(rows, -1, WINDOW**2, channels), *padded)
        x = jnp.roll(x, (self.shift, self.shift), (1, 2)) if self.shift else x
        return layers.dense(channels, self.dtype, "out")(x[:, :height, :width])


class SwinBlock(nn.Module):
    """Window attention and a two-layer perceptron, each normalised before and added after."""

    heads: int
    shift: int
    drop_path: float
    flow_adapters: bool
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"], flow_rows: int, train: bool) -> Float[Array, "N H W C"]:
        channels = x.shape[-1]
        drop = layers.stochastic_depth(self.drop_path, train)
        attention = WindowAttention(self.heads, self.shift, self.flow_adapters, self.dtype, name="attn")
        x = x + drop(attention(layers.norm(EPSILON, self.dtype, "norm1")(x), flow_rows))
        hidden = layers.dense(4 * channels, self.dtype, "expand")(layers.norm(EPSILON, self.dtype, "norm2")(x))
        x = x + drop(layers.dense(channels, self.dtype, "project")(gelu(hidden)))
        if self.flow_adapters:
            x = with_adapter(x, flow_rows, self.dtype, "adapter")
        return x


class SwinTransformer(nn.Module):
    """Four stages; a stage's map is taken before patch merging and without a norm of its own."""

    width: int
    depths: Sequence[int]
    heads: Sequence[int]
    drop_path: float = 0.2
    flow_adapters: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, pictures: Pictures, *, flow_rows: int, train: bool = False) -> Maps:
        rates = layers.drop_rates(self.drop_path, sum(self.depths))
        x, maps = pictures.astype(self.dtype), []
        for index, (depth, heads) in enumerate(zip(self.depths, self.heads, strict=True)):
            stage, channels = f"stage{index + 1}", self.width * 2**index
            if index == 0:
                x = layers.PatchConv(channels, 4, self.dtype, layers.torch_kernel, name=f"{stage}_embed")(x)
                x = layers.norm(EPSILON, self.dtype, f"{stage}_embed_norm")(x)
            else:
                # A quarter of the tokens: (even row, even column), (odd, even), (even, odd), (odd, odd).
                corners = [x[:, i::2, j::2] for i, j in ((0, 0), (1, 0), (0, 1), (1, 1))]
                x = layers.norm(EPSILON, self.dtype, f"{stage}_merge_norm")(jnp.concatenate(corners, -1))
                x = layers.dense(channels, self.dtype, f"{stage}_merge", use_bias=False)(x)
            for block in range(depth):
                x = SwinBlock(
                    heads, WINDOW // 2 * (block % 2), next(rates), self.flow_adapters, self.dtype,
                    name=f"{stage}_block{block}",
                )(x, flow_rows, train)  # fmt: skip
            maps.append(x)
        return tuple(maps)


for _name, _first, _third_depth, _first_heads, _drop_path, _decoder in (
    ("swin_tiny", 96, 6, 3, 0.2, 192),
    ("swin_small", 96, 18, 3, 0.3, 192),
    ("swin_base", 128, 18, 4, 0.5, 256),
):
    _channels, _heads = (tuple(first * 2**i for i in range(4)) for first in (_first, _first_heads))
    _arguments = {"width": _first, "depths": (2, 2, _third_depth, 2), "heads": _heads}
    register(_name, BackboneSpec(_channels, _decoder, SwinTransformer, False, _drop_path, _arguments))
