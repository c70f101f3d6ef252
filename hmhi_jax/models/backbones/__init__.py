"""Encoders behind one contract, and the registry of their names.

A backbone is called with pictures `[N, H, W, 3]` in which frame and flow picture alternate (N = 2 `flow_rows`; with
`flow_rows` 0 there are frames alone), and returns maps at strides 4, 8, 16 and 32. Pairs stay together so that a batch
split over devices is split between pairs, and no device needs another's maps.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

FLOAT32 = jnp.dtype("float32")
Pictures = Float[Array, "N H W 3"]
Maps = tuple[Float[Array, "M _ _ _"], ...]  # of N rows, or of the frames' rows alone


@dataclass(frozen=True)
class BackboneSpec:
    """What a name stands for.

    Attributes:
        channels: of the maps at strides 4, 8, 16, 32.
        decoder_width: the decoder's default width E.
        build: `build(flow_adapters=..., dtype=..., drop_path=..., **arguments)` makes the module.
        flow_adapters: whether adapters on the flow rows are on by default.
        drop_path: stochastic depth rate of the last block by default.
        arguments: further arguments of `build`.
        batch_norm: whether `build` takes the argument `batch_norm`.
        joins_flow: whether the module itself joins frames and flow pictures and returns maps of the frames' rows alone;
            otherwise the network adds the two rows' maps.
        decoder_norm: whether the decoder's convolutions are followed by group norm, as what is trained from nothing
            wants it; the paper's decoder has none.
    """

    channels: tuple[int, int, int, int]
    decoder_width: int
    build: Callable[..., nn.Module]
    flow_adapters: bool = False
    drop_path: float = 0.0
    arguments: dict[str, Any] = field(default_factory=dict)
    batch_norm: bool = False
    joins_flow: bool = False
    decoder_norm: bool = False

    def make(
        self, flow_adapters: bool | None, drop_path: float | None = None, batch_norm: str = "frozen", dtype=FLOAT32
    ) -> nn.Module:
        """The module; None takes the backbone's default. `batch_norm` concerns backbones that have it."""
        return self.build(
            flow_adapters=self.flow_adapters if flow_adapters is None else flow_adapters,
            drop_path=self.drop_path if drop_path is None else drop_path,
            dtype=dtype,
            **({"batch_norm": batch_norm} if self.batch_norm else {}),
            **self.arguments,
        )


_REGISTRY: dict[str, BackboneSpec] = {}
# Modules of this package that register names when imported.
_FAMILIES = ("mit", "swin", "resnet", "efficientnet_lite", "plain_conv")


def register(name: str, entry: BackboneSpec) -> None:
    """Make `build_model(name)` work. Registering a name twice is an error."""
    if name in _REGISTRY:
        raise ValueError(f"backbone {name!r} is already registered")
    _REGISTRY[name] = entry


def _load_families() -> None:
    for family in _FAMILIES:
        importlib.import_module(f"{__name__}.{family}")


def backbone_names() -> list[str]:
    """All registered names."""
    _load_families()
    return list(_REGISTRY)


def spec(name: str) -> BackboneSpec:
    """The entry of a name; ValueError lists the known ones."""
    _load_families()
    if name not in _REGISTRY:
        raise ValueError(f"unknown backbone {name!r}; known: {', '.join(_REGISTRY)}")
    return _REGISTRY[name]


def described(name: str) -> str | None:
    """All that a name stands for, together with this package's sources, for what is kept under it; None for a backbone
    that others registered, which may change behind our back."""
    entry = spec(name)
    home = getattr(entry.build, "__module__", "")
    if not home.startswith(f"{__name__}."):
        return None
    return repr({**vars(entry), "build": f"{home}.{entry.build.__qualname__}"})
