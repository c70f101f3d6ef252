"""The two memory banks: what is written (reference encoder), how it is kept (ring buffers), how it is read.

docs/model.md 3. The memory is a value: a pytree of fixed-shape arrays that `write` takes and gives back. An entry's key
and value depend on nothing but the entry, so they are projected (and rotated, in the shallow bank) once, when it is
written.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jax import lax
from jaxtyping import Array, Float, Int

from hmhi_jax.kernels.attention import attend
from hmhi_jax.kernels.elementwise import DropoutKey, dropout, gelu
from hmhi_jax.kernels.feed_forward import FeedForwardWeights, expanded, projected, token_feed_forward
from hmhi_jax.kernels.top_k_attention import attend_top_k
from hmhi_jax.models.layers import DepthwiseConv, KernelAndBias, conv, kernel_and_bias, norm, torch_bias, torch_kernel
from hmhi_jax.models.positions import halved, rotate_halves, sine_table

Map = Float[Array, "B h w C"]
Tokens = Float[Array, "B N C"]
Coarse = Float[Array, "B H W 1"]  # logits at stride 4

DROPOUT = 0.1


@struct.dataclass
class Bank:
    """A ring of the last M entries. Slots never written hold zeros and are masked out when read.

    Attributes:
        keys: `[B, M, N, C]`, projected, in the compute dtype; N = h * w tokens of one entry. Rotated ones (the shallow
            bank's) have their channels in the order of `positions.halved`.
        values: `[B, M, N, C]`, projected.
    """

    keys: Any  # a pytree's leaves may also be shapes, shardings or numpy arrays, so their types are not checked
    values: Any

    @classmethod
    def empty(cls, batch: int, capacity: int, tokens: int, channels: int, dtype: jnp.dtype) -> "Bank":
        shape = (batch, capacity, tokens, channels)
        return cls(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))

    def write(self, key: Tokens, value: Tokens, written: Int[Array, ""]) -> "Bank":
        """Put an entry into the slot that is free or holds the oldest one; `written` counts the entries so far."""
        slot = written % self.keys.shape[1]
        return Bank(
            lax.dynamic_update_index_in_dim(self.keys, key.astype(self.keys.dtype), slot, 1),
            lax.dynamic_update_index_in_dim(self.values, value.astype(self.values.dtype), slot, 1),
        )

    def filled(self, written: Int[Array, ""]) -> Int[Array, ""]:
        """How many stored tokens have been written. Slots fill in order, so they stand in front of all others."""
        _, capacity, tokens, _ = self.keys.shape
        return jnp.minimum(written, capacity) * tokens

    def tokens(self, slots: int | None = None) -> tuple[Float[Array, "B _ C"], Float[Array, "B _ C"]]:
        """Keys and values of all slots (or the first few) in one row; their order is irrelevant to attention."""
        batch, _, _, channels = self.keys.shape
        return tuple(x[:, :slots].reshape(batch, -1, channels) for x in (self.keys, self.values))


@struct.dataclass
class Memory:
    """All that is carried from frame to frame; save it, load it elsewhere, and go on.

    Attributes:
        shallow: bank on stride-8 features, None where that bank is switched off.
        deep: bank on stride-32 features, likewise.
        written: number of frames memorised since the start, int32; the same for the whole batch.
    """

    shallow: Any
    deep: Any
    written: Any


def mask_width(channels: int) -> int:
    """Hidden channels of the reference encoder's mask path: c**c with c = floor(log4 C) (docs/model.md 3.1)."""
    c = int(math.log(channels, 4) + 1e-9)
    return c**c


class ReferenceEncoder(nn.Module):
    """A frame's feature and its predicted mask become its memory entry (docs/model.md 3.1)."""

    channels: int
    mask_stride: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, features: Map, coarse_logits: Coarse) -> Map:
        c, hidden = self.channels, mask_width(self.channels)
        kernel = 2 * self.mask_stride - 1

        def plain(features: int, size: int, fan_in: int, name: str, stride: int = 1) -> nn.Conv:
            drawn = {"kernel_init": torch_kernel, "bias_init": torch_bias(fan_in)}
            return conv(features, size, stride=stride, dtype=self.dtype, **drawn, name=name)

        mask = jax.nn.sigmoid(coarse_logits)
        mask = plain(hidden, kernel, kernel**2, "mask_conv", self.mask_stride)(mask)
        mask = gelu(norm(1e-6, self.dtype, "mask_norm")(mask))
        mask = plain(c, 1, hidden, "mask_expand")(mask)
        mask = gelu(norm(1e-6, self.dtype, "mask_expand_norm")(mask))
        x = plain(c, 1, c, "feature_proj")(features) + mask

        for index in range(2):
            x = FuserBlock(self.dtype, name=f"block{index}")(x)
        return x


class FuserBlock(nn.Module):
    """A ConvNeXt block: depthwise 7x7, norm, two linear layers, scaled by `gamma`, added to its input."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Map) -> Map:
        c = x.shape[-1]
        y = DepthwiseConv(7, self.dtype, torch_kernel, torch_bias(49), name="dwconv")(x)
        y = norm(1e-6, self.dtype, "norm")(y)
        y = torch_dense(4 * c, c, self.dtype, "expand")(y)
        y = torch_dense(c, 4 * c, self.dtype, "project")(gelu(y))
        gamma = self.param("gamma", nn.initializers.constant(1e-6), (c,), jnp.float32)
        return x + y * gamma.astype(self.dtype)[None, None, None]


def torch_dense(features: int, fan_in: int, dtype: jnp.dtype, name: str | None = None) -> nn.Dense:
    """A linear layer with PyTorch's default initial weights."""
    return nn.Dense(features, dtype=dtype, kernel_init=torch_kernel, bias_init=torch_bias(fan_in), name=name)


class HalvedDense(nn.Module):
    """A linear layer whose output channels come in the order of `halved`, as `rotate_halves` takes them."""

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Tokens) -> Float[Array, "B N D"]:
        fan_in = x.shape[-1]
        kernel, bias = kernel_and_bias(self, (fan_in, self.features), torch_kernel, torch_bias(fan_in))
        return x.astype(self.dtype) @ halved(kernel) + halved(bias)[None, None]


class Projections(nn.Module):
    """The four linear layers of one attention; queries and keys that will be rotated come in halved order."""

    channels: int
    rotary: bool
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        c, dtype = self.channels, self.dtype
        self.q, self.k = (HalvedDense(c, dtype) if self.rotary else torch_dense(c, c, dtype) for _ in range(2))
        self.v, self.out = (torch_dense(c, c, dtype) for _ in range(2))


class ReadOutLayer(nn.Module):
    """One transformer layer of one head: self-attention with rotary codes, cross-attention, feed-forward.

    docs/model.md 3.2. Its three users differ in what the cross-attention does and pass it as a function of the queries.
    """

    channels: int
    feedforward: int = 2048
    positions_in_attention: bool = False
    rotary_memory: bool = False
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        self.self_attn = Projections(self.channels, True, self.dtype)
        self.cross_attn = Projections(self.channels, self.rotary_memory, self.dtype)
        narrow, wide = self.channels, self.feedforward
        self.expand = KernelAndBias((narrow, wide), self.dtype, torch_kernel, torch_bias(narrow))
        self.project = KernelAndBias((wide, narrow), self.dtype, torch_kernel, torch_bias(wide))
        self.norm1, self.norm2, self.norm3, self.norm = (nn.LayerNorm(epsilon=1e-5, dtype=self.dtype) for _ in range(4))

    def key_value(self, source: Tokens, positions: Float[Array, "N C"] | None = None) -> tuple[Tokens, Tokens]:
        """Cross-attention's key and value of tokens that will be read later."""
        keyed = source if positions is None else source + positions[None].astype(source.dtype)
        return self.cross_attn.k(keyed), self.cross_attn.v(source)

    def __call__(self, x: Map, cross_attend, train: bool = False) -> Map:
        """`cross_attend(q, dropout_key)` reads the other side for projected queries `[B, N, C]`."""
        batch, height, width, channels = x.shape
        grid = (height, width)
        key = self.make_rng("dropout") if train else None
        keys = [None] * 6 if key is None else list(jax.random.split(key, 6))
        positions = jnp.asarray(sine_table(height, width, channels), self.dtype)[None]

        x = x.reshape(batch, height * width, channels).astype(self.dtype) + 0.1 * positions
        n = self.norm1(x)
        placed = n + positions if self.positions_in_attention else n
        q, k = (rotate_halves(project(placed), grid) for project in (self.self_attn.q, self.self_attn.k))
        mixed = attend_single(q, k, self.self_attn.v(n), keys[0])
        x = x + dropout(self.self_attn.out(mixed), DROPOUT, keys[1])

        mixed = cross_attend(self.cross_attn.q(self.norm2(x)), keys[2])
        x = x + dropout(self.cross_attn.out(mixed), DROPOUT, keys[3])

        weights, n = FeedForwardWeights(*self.expand(), *self.project()), self.norm3(x)
        if train:
            hidden = dropout(expanded(n, weights), DROPOUT, keys[4])
            x = x + dropout(projected(hidden, weights), DROPOUT, keys[5])
        else:
            x = x + token_feed_forward(n, weights)
        return self.norm(x).reshape(batch, height, width, channels)


def attend_single(
    q: Tokens, k: Float[Array, "B M C"], v: Float[Array, "B M C"], key: DropoutKey, limit: Int[Array, ""] | None = None
) -> Tokens:
    """One-head attention over the first `limit` keys, with the layers' dropout where a key is given."""
    one_head = (x[:, :, None] for x in (q, k, v))
    return attend(*one_head, limit=limit, dropout_rate=DROPOUT, key=key)[:, :, 0]


class MemoryBank(nn.Module):
    """A bank's weights: how entries are encoded, written and read. Its state is a `Bank`.

    Attributes:
        top_k: keys kept per query; None keeps all.
        rotary: whether cross-attention turns queries and keys by their positions in their own frames.
        positions_in_attention: whether sine codes are added in self-attention and to the stored keys.
    """

    channels: int
    mask_stride: int
    top_k: int | None
    rotary: bool
    positions_in_attention: bool
    feedforward: int = 2048
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        self.reference_encoder = ReferenceEncoder(self.channels, self.mask_stride, self.dtype)
        sizes = self.channels, self.feedforward
        self.read_out = ReadOutLayer(*sizes, self.positions_in_attention, self.rotary, self.dtype)

    def write(self, bank: Bank, features: Map, coarse: Coarse, written: Int[Array, ""]) -> tuple[Bank, Map]:
        """The bank with a frame's entry in it, projected; and the entry."""
        entry = self.reference_encoder(features, coarse)
        batch, height, width, channels = entry.shape
        positions = jnp.asarray(sine_table(height, width, channels)) if self.positions_in_attention else None
        key, value = self.read_out.key_value(entry.reshape(batch, height * width, channels), positions)
        return bank.write(rotate_halves(key, (height, width)) if self.rotary else key, value, written), entry

    def read(
        self,
        bank: Bank,
        features: Map,
        written: Int[Array, ""],
        train: bool = False,
        written_at_most: int | None = None,
    ) -> Map:
        """The feature after reading the bank.

        `written_at_most` is what the caller knows of `written` beforehand: slots that cannot be filled yet need not be
        looked at. In training that is most of them in the early frames, where frames are written out.
        """
        keys, values = bank.tokens(written_at_most)
        limit = bank.filled(written)

        def cross_attend(q: Array, dropout_key: DropoutKey) -> Array:
            if self.rotary:
                q = rotate_halves(q, features.shape[1:3])
            if self.top_k is None:
                return attend_single(q, keys, values, dropout_key, limit)
            return attend_top_k(q, keys, values, top_k=self.top_k, limit=limit, dropout_rate=DROPOUT, key=dropout_key)

        return self.read_out(features, cross_attend, train)
