"""HMHI-Net: encoder, two memory banks, interaction, decoder (docs/model.md 6).

    features = model.apply(variables, frames, flows, method="encode")
    memory, logits0 = model.apply(variables, frame(features, 0), method="start")
    memory, logits1 = model.apply(variables, memory, frame(features, 1), method="step")

`segment_clip` is that, with a scan over the steps.
"""

import dataclasses
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from hmhi_jax.kernels.elementwise import DropoutKey
from hmhi_jax.kernels.grids import enlarge, unfolded
from hmhi_jax.kernels.platforms import compute_dtype, in_precision
from hmhi_jax.models.backbones import FLOAT32, spec
from hmhi_jax.models.backbones.flow_adapter import join_pairs, split_pairs
from hmhi_jax.models.decoder import Decoder
from hmhi_jax.models.interaction import PLAM, SGIM
from hmhi_jax.models.layers import GROUPS
from hmhi_jax.models.memory import Bank, Memory, MemoryBank

# Maps at strides 4, 8, 16 and 32: `[B, T, h, w, C]` of a clip, `[B, h, w, C]` of one frame.
Features = tuple[Float[Array, "..."], Float[Array, "..."], Float[Array, "..."], Float[Array, "..."]]

Clip = Float[Array | np.ndarray, "B T H W 3"]
Logits = Float[Array, "B H W 1"]

SHALLOW, DEEP = 1, 3  # the maps the banks work on: strides 8 and 32


class HMHINet(nn.Module):
    """The network as pure functions; what it remembers is a `Memory` handed in and back.

    Attributes:
        backbone: a registered name.
        memory_frames: capacity M of both banks. The release trains with 5 and infers with 3.
        sgim, plam: the interaction modules; each needs both banks.
        shallow_memory, deep_memory: the banks.
        top_k: keys a query of the shallow bank keeps.
        decoder_width: None takes the backbone's default.
        feedforward: hidden width of the read-out layers.
        subpixels: side of the block of logits predicted at every place of the stride-4 grid (sub-pixel convolution,
            Shi et al., CVPR 2016): 1 as in the paper, 2 or 4 for finer masks at next to no cost. The banks are given
            the block's mean.
        flow_adapters, drop_path: None takes the backbone's default.
        batch_norm: what training does with a ResNet's batch norm, "frozen" or "updated" (then `encode` with
            `mutable=["batch_stats"]` returns the moved running statistics).
        dtype: of the maps; parameters, softmax, normalisation statistics and logits are float32.
        precision: of products, in the words of `jax.default_matmul_precision`; `kernels.precision` has what belongs
            together.
    """

    backbone: str = "mit_b1"
    memory_frames: int = 3
    sgim: bool = True
    plam: bool = True
    shallow_memory: bool = True
    deep_memory: bool = True
    top_k: int = 50
    decoder_width: int | None = None
    feedforward: int = 2048
    subpixels: int = 1
    flow_adapters: bool | None = None
    drop_path: float | None = None
    batch_norm: str = "frozen"
    dtype: jnp.dtype = FLOAT32
    precision: str = "highest"

    def setup(self):
        if (self.sgim or self.plam) and not (self.shallow_memory and self.deep_memory):
            raise ValueError(
                "SGIM and PLAM connect the two banks, and one is off; `build_model` turns them off with it"
            )
        entry = spec(self.backbone)
        shallow, deep = entry.channels[SHALLOW], entry.channels[DEEP]
        shared = {"feedforward": self.feedforward, "dtype": self.dtype}
        self.encoder = entry.make(
            flow_adapters=self.flow_adapters, drop_path=self.drop_path, batch_norm=self.batch_norm, dtype=self.dtype
        )
        width = entry.decoder_width if self.decoder_width is None else self.decoder_width
        self.decoder = Decoder(width, self.subpixels**2, entry.decoder_norm, self.dtype)
        if self.shallow_memory:
            self.shallow_bank = MemoryBank(shallow, 2, self.top_k, rotary=True, positions_in_attention=False, **shared)
        if self.deep_memory:
            self.deep_bank = MemoryBank(deep, 8, None, rotary=False, positions_in_attention=True, **shared)
        if self.sgim:
            self.sgim_module = SGIM(shallow, deep, **shared)
        if self.plam:
            self.plam_module = PLAM(deep, self.dtype)

    @in_precision
    def encode(self, frames: Clip, flows: Clip, train: bool = False) -> Features:
        """Fused maps of all frames of a clip; the encoder knows nothing of time, so they go through it in one batch.

        Frames and flow pictures are normalised; H and W are multiples of 32.
        """
        batch, time, height, width, _ = frames.shape
        if height % 32 or width % 32:
            raise ValueError(f"frames are {height} x {width}; height and width must be multiples of 32")
        rows = batch * time
        pictures = join_pairs(*(jnp.asarray(x).reshape(rows, height, width, 3) for x in (frames, flows)))
        maps = self.encoder(pictures, flow_rows=rows, train=train)
        fused = maps if spec(self.backbone).joins_flow else tuple(sum(split_pairs(x, rows)) for x in maps)
        for level, x in enumerate(fused, start=1):
            self.sow("intermediates", f"fused{level}", x)
        return tuple(x.reshape(batch, time, *x.shape[1:]) for x in fused)

    @in_precision
    def start(self, features: Features) -> tuple[Memory, Logits]:
        """The first frame: decoded as it is, and memorised. Features `[B, h, w, C]`; logits at the input's size."""
        return self.finish(self.empty_memory(features), features)

    def empty_memory(self, features: Features) -> Memory:
        """A memory without entries, for maps of these shapes."""

        def empty(on: bool, level: int) -> Bank | None:
            batch, height, width, channels = features[level].shape
            return Bank.empty(batch, self.memory_frames, height * width, channels, self.dtype) if on else None

        return Memory(empty(self.shallow_memory, SHALLOW), empty(self.deep_memory, DEEP), jnp.zeros((), jnp.int32))

    def step(self, memory: Memory, features: Features, train: bool = False) -> tuple[Memory, Logits]:
        """A later frame: read both banks, let the read-outs refine each other, decode, memorise."""
        return self.finish(memory, self.read(memory, features, train))

    @in_precision
    def read(
        self, memory: Memory, features: Features, train: bool = False, written_at_most: int | None = None
    ) -> Features:
        """First half of `step`: the frame's maps with the shallow and the deep one refined by the memory.

        `written_at_most`: see `MemoryBank.read`.
        """
        maps = list(features)
        for name, level, bank in self._banks():
            stored = getattr(memory, name)
            maps[level] = bank.read(stored, features[level], memory.written, train, written_at_most)
            self.sow("intermediates", f"read_{name}", maps[level])
        # Both modules see the read-outs, neither the other's result.
        shallow, deep = maps[SHALLOW], maps[DEEP]
        if self.sgim:
            maps[SHALLOW] = self.sgim_module(shallow, deep, train)
            self.sow("intermediates", "sgim", maps[SHALLOW])
        if self.plam:
            maps[DEEP] = self.plam_module(shallow, deep)
            self.sow("intermediates", "plam", maps[DEEP])
        return tuple(maps)

    @in_precision
    def finish(self, memory: Memory, maps: Features) -> tuple[Memory, Logits]:
        """Second half of `step`: decode the refined maps and memorise them."""
        coarse = self.decoder(maps)
        return self._memorise(memory, maps, coarse), self._logits(coarse)

    def __call__(self, frames: Clip, flows: Clip, train: bool = False) -> Float[Array, "B T H W 1"]:
        """A clip frame by frame, the plain way. `init` needs two frames, since the first one reads no memory."""
        if self.is_initializing() and frames.shape[1] < 2:
            raise ValueError("initialisation needs a clip of at least two frames")
        features = self.encode(frames, flows, train)
        memory, logits = self.start(frame(features, 0))
        outputs = [logits]
        for t in range(1, frames.shape[1]):
            memory, logits = self.step(memory, frame(features, t), train)
            outputs.append(logits)
        return jnp.stack(outputs, 1)

    def _memorise(self, memory: Memory, maps, coarse: Float[Array, "B H4 W4 S"]) -> Memory:
        """Write the frame's (refined) maps and its predicted mask into both banks."""
        coarse = coarse.mean(-1, keepdims=True)
        stored = {"shallow": memory.shallow, "deep": memory.deep}
        for name, level, bank in self._banks():
            stored[name], entry = bank.write(stored[name], maps[level], coarse, memory.written)
            self.sow("intermediates", f"mem_{name}", entry)
        return Memory(**stored, written=memory.written + 1)

    def _banks(self) -> list[tuple[str, int, MemoryBank]]:
        """Name, level and weights of the banks that are on."""
        shallow = [("shallow", SHALLOW, self.shallow_bank)] if self.shallow_memory else []
        return shallow + ([("deep", DEEP, self.deep_bank)] if self.deep_memory else [])

    def _logits(self, coarse: Float[Array, "B H4 W4 S"]) -> Logits:
        self.sow("intermediates", "coarse_logits", coarse)
        return enlarge(unfolded(coarse.astype(jnp.float32), self.subpixels), 4 // self.subpixels)


def frame(features: Features, t: int | Int[Array, ""]) -> Features:
    """One frame's maps out of a clip's."""
    return tuple(x[:, t] for x in features)


def segment_features(
    model: HMHINet, variables: Any, features: Features, dropout_key: DropoutKey = None
) -> Float[Array, "B T H W 1"]:
    """Logits of a clip from its encoded maps: `start`, then a scan over `step`."""
    train = dropout_key is not None
    memory, first = model.apply(variables, frame(features, 0), method="start")
    later = tuple(jnp.moveaxis(x[:, 1:], 1, 0) for x in features)
    steps = later[0].shape[0]
    if steps == 0:
        return first[:, None]

    def step(memory: Memory, inputs):
        maps, key = inputs
        rngs = {"dropout": key} if train else None
        return model.apply(variables, memory, maps, train, method="step", rngs=rngs)

    keys = jax.random.split(dropout_key, steps) if train else None
    _, logits = lax.scan(step, memory, (later, keys))
    return jnp.concatenate([first[:, None], jnp.moveaxis(logits, 0, 1)], 1)


def segment_clip(
    model: HMHINet, variables: Any, frames: Clip, flows: Clip, dropout_key: DropoutKey = None
) -> Float[Array, "B T H W 1"]:
    """Logits of a clip: encode in bulk, `start`, then `lax.scan` over `step`.

    Args:
        model: from `build_model`.
        variables: `{"params": ...}` (and `"batch_stats"` for ResNets).
        frames: normalised RGB, H and W multiples of 32.
        flows: normalised flow pictures.
        dropout_key: turns dropout and drop path on (training).
    """
    train = dropout_key is not None
    encode_key, step_key = jax.random.split(dropout_key) if train else (None, None)
    rngs = {"dropout": encode_key} if train else None
    features = model.apply(variables, frames, flows, train, method="encode", rngs=rngs)
    return segment_features(model, variables, features, step_key)


def build_model(backbone: str = "mit_b1", *, dtype: str | DTypeLike = "float32", **switches: Any) -> HMHINet:
    """The network for a backbone and a choice of switches.

        build_model("mit_b1", memory_frames=3, sgim=True, plam=True, shallow_memory=True, deep_memory=True)

    SGIM and PLAM connect the two banks: with a bank off they are off too, whatever `sgim` and `plam` say.

    Args:
        backbone: a registered name.
        dtype: of the computation: "float32", "tensorfloat32" or "bfloat16".
        switches: attributes of `HMHINet`, which say what each is and what it is by default.

    Raises `TypeError` for a switch that there is not, `ValueError` for an unknown backbone, or a value that its
    attribute does not allow.
    """
    check_switches({"backbone": backbone, **switches})
    entry = spec(backbone)
    maps, precision = compute_dtype(dtype)
    model = HMHINet(backbone, **switches, dtype=maps, precision=precision)
    width = entry.decoder_width if model.decoder_width is None else model.decoder_width
    if entry.decoder_norm and width % GROUPS:
        raise ValueError(f"decoder_width is {width}; with {backbone}'s group norm it must be a multiple of {GROUPS}")
    both = model.shallow_memory and model.deep_memory
    return model if both else model.clone(sgim=False, plam=False)


# The attributes but for Flax's own and those of the numbers, and what is allowed of them. On CPUs the best keys of a
# query are added up one by one, in a program as long as they are many.
SWITCHES = {x.name: x for x in dataclasses.fields(HMHINet) if x.name not in ("parent", "name", "dtype", "precision")}
_ALLOWED = {
    "memory_frames": range(1, 1001), "top_k": range(1, 1001), "decoder_width": range(1, 8193),
    "feedforward": range(1, 65_537), "subpixels": (1, 2, 4), "batch_norm": ("frozen", "updated"),
}  # fmt: skip


def check_switches(switches: Mapping[str, Any]) -> None:
    """Raises `TypeError` for a switch that there is not, and `ValueError` for a value that no network of any backbone
    has: of another kind than its attribute, or beyond what is allowed."""
    for name, value in switches.items():
        if name not in SWITCHES:
            raise TypeError(f"{name!r} is no switch of the network, expected {', '.join(SWITCHES)}")
        kind, *others = get_args(SWITCHES[name].type) or (SWITCHES[name].type,)
        allowed = _ALLOWED.get(name, (True, False) if kind is bool else ())
        fits = isinstance(value, {int: Integral, float: Real}.get(kind, kind))
        fits = fits and isinstance(value, bool) == (kind is bool) and (not allowed or value in allowed)
        if isinstance(allowed, range):
            expected = f"a whole number from {allowed[0]} to {allowed[-1]}"
        else:
            expected = " or ".join(map(repr, allowed)) or ("at least 0 and less than 1" if kind is float else "a name")
        if not (fits and (kind is not float or 0 <= value < 1)) and not (value is None and others):
            raise ValueError(f"{name} is {repr(value)[:40]}, expected {expected}{', or None' * len(others)}")
