"""Swin transformers T, S and B (docs/model.md 2.2): attention in windows of 7 x 7, every other block's shifted by 3."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

from hmhi_jax.kernels.elementwise import gelu
from hmhi_jax.models.backbones.flow_adapter import FlowAdapter, add_to_flow_rows, dense, norm
from hmhi_jax.models.backbones.registry import BackboneSpec, register
from hmhi_jax.models.layers import PatchConv, torch_kernel, transformer_linear

WINDOW = 7
EPSILON = 1e-5
MASKED = -100.0  # added to scores across the seam of a shift; the release's value, which leaves e^-100 of weight


def relative_position_index() -> Int[np.ndarray, "49 49"]:
    """Row of the bias table for every (query, key) of a window: rows count `13 * (dy + 6) + (dx + 6)`."""
    y, x = np.divmod(np.arange(WINDOW**2), WINDOW)
    dy, dx = y[:, None] - y[None], x[:, None] - x[None]
    return (dy + WINDOW - 1) * (2 * WINDOW - 1) + dx + WINDOW - 1


def to_windows(x: Float[Array, "N H W C"]) -> Float[Array, "N n 49 C"]:
    """Cut a grid whose sides are multiples of 7 into its n windows, row by row."""
    rows, height, width, channels = x.shape
    x = x.reshape(rows, height // WINDOW, WINDOW, width // WINDOW, WINDOW, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(rows, -1, WINDOW**2, channels)


def from_windows(windows: Float[Array, "N n 49 C"], height: int, width: int) -> Float[Array, "N H W C"]:
    """The inverse of `to_windows`."""
    rows, channels = windows.shape[0], windows.shape[-1]
    x = windows.reshape(rows, height // WINDOW, width // WINDOW, WINDOW, WINDOW, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(rows, height, width, channels)


def seam_mask(height: int, width: int, shift: int) -> Float[Array, "n 49 49"]:
    """What is added to scores after a cyclic shift: tokens that came together over the edge do not see each other."""

    def band(size: int) -> Array:  # 0: untouched, 1: last window before the seam, 2: behind the seam
        position = jnp.arange(size)
        return (position >= size - WINDOW).astype(jnp.float32) + (position >= size - shift)

    region = 3 * band(height)[:, None] + band(width)[None]
    region = to_windows(region[None, :, :, None])[0, :, :, 0]
    return jnp.where(region[:, :, None] == region[:, None, :], 0.0, MASKED)


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

        qkv = dense(3 * channels, self.dtype, "qkv")(x)
        if self.flow_adapters:
            q_adapter = FlowAdapter(channels, self.dtype, name="q_adapter")
            kv_adapter = FlowAdapter(2 * channels, self.dtype, name="kv_adapter")
            qkv = add_to_flow_rows(
                qkv, x, flow_rows, lambda flow: jnp.concatenate([q_adapter(flow), kv_adapter(flow)], -1)
            )
        windows = to_windows(qkv).reshape(rows, -1, WINDOW**2, 3, self.heads, depth)
        q, k, v = windows.transpose(3, 0, 1, 4, 2, 5)

        table = self.param(
            "relative_position_bias", transformer_linear, ((2 * WINDOW - 1) ** 2, self.heads), jnp.float32
        )
        bias = table[relative_position_index().reshape(-1)].reshape(WINDOW**2, WINDOW**2, self.heads)
        bias = bias.transpose(2, 0, 1)[None]
        if self.shift:
            bias = bias + seam_mask(*padded, self.shift)[:, None]
        scores = jnp.einsum("nwhqd,nwhkd->nwhqk", q * depth**-0.5, k, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(scores + bias[None], -1).astype(self.dtype)
        mixed = jnp.einsum("nwhqk,nwhkd->nwqhd", weights, v)

        x = from_windows(mixed.reshape(rows, -1, WINDOW**2, channels), *padded)
        x = jnp.roll(x, (self.shift, self.shift), (1, 2)) if self.shift else x
        return dense(channels, self.dtype, "out")(x[:, :height, :width])


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
        # Stochastic depth: a whole row's branch is dropped or scaled up.
        drop = nn.Dropout(self.drop_path, broadcast_dims=(1, 2, 3), deterministic=not train)
        attention = WindowAttention(self.heads, self.shift, self.flow_adapters, self.dtype, name="attn")
        x = x + drop(attention(norm(EPSILON, self.dtype, "norm1")(x), flow_rows))
        hidden = dense(4 * channels, self.dtype, "expand")(norm(EPSILON, self.dtype, "norm2")(x))
        x = x + drop(dense(channels, self.dtype, "project")(gelu(hidden)))
        if self.flow_adapters:
            x = add_to_flow_rows(x, x, flow_rows, FlowAdapter(channels, self.dtype, name="adapter"))
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
    def __call__(
        self, pictures: Float[Array, "N H W 3"], *, flow_rows: int, train: bool = False
    ) -> tuple[Float[Array, "N _ _ _"], ...]:
        rates = iter(np.linspace(0, self.drop_path, sum(self.depths)).tolist())
        x, maps = pictures.astype(self.dtype), []
        for index, (depth, heads) in enumerate(zip(self.depths, self.heads, strict=True)):
            stage, channels = f"stage{index + 1}", self.width * 2**index
            if index == 0:
                x = PatchConv(channels, 4, self.dtype, torch_kernel, name=f"{stage}_embed")(x)
                x = norm(EPSILON, self.dtype, f"{stage}_embed_norm")(x)
            else:
                # A quarter of the tokens: (even row, even column), (odd, even), (even, odd), (odd, odd).
                corners = [x[:, i::2, j::2] for i, j in ((0, 0), (1, 0), (0, 1), (1, 1))]
                x = norm(EPSILON, self.dtype, f"{stage}_merge_norm")(jnp.concatenate(corners, -1))
                x = dense(channels, self.dtype, f"{stage}_merge", use_bias=False)(x)
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
    register(
        _name,
        BackboneSpec(
            tuple(_first * 2**i for i in range(4)),
            _decoder,
            SwinTransformer,
            drop_path=_drop_path,
            arguments={
                "width": _first,
                "depths": (2, 2, _third_depth, 2),
                "heads": tuple(_first_heads * 2**i for i in range(4)),
            },
        ),
    )
