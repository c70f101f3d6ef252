"""PyTorch state dicts to our variables and back; exact, strict, without PyTorch."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from hmhi_jax.errors import InputError
from hmhi_jax.interop.torch_names import UNUSED, Layout, layout, torch_name
from hmhi_jax.models import HMHINet
from hmhi_jax.models.backbones import spec
from hmhi_jax.models.backbones.swin import relative_position_index


@functools.lru_cache(maxsize=8)  # tracing a deep network takes seconds, and a conversion asks several times
def variable_shapes(model: HMHINet) -> dict[str, jax.ShapeDtypeStruct]:
    """Path ('params/encoder/...') -> shape of every variable of a model, without computing anything."""
    clip = jax.ShapeDtypeStruct((1, 2, 64, 64, 3), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), clip, clip)
    return flatten_dict(shapes, sep="/")


class Entry(NamedTuple):
    """Where an entry of a state dict belongs: our path, its shape in PyTorch's layout, and that layout."""

    path: str
    shape: tuple[int, ...]
    layout: Layout


@functools.lru_cache(maxsize=8)
def expected_entries(model: HMHINet) -> dict[str, Entry]:
    """The release's name of every variable of a model -> its `Entry`."""
    return _entries(variable_shapes(model), model.backbone)


def expected_encoder_entries(backbone: str, flow_adapters: bool | None = None) -> dict[str, Entry]:
    """The same for an encoder alone, names with `backbone.`; `flow_adapters` None takes the backbone's default."""
    return _encoder_entries(backbone, spec(backbone).flow_adapters if flow_adapters is None else flow_adapters)


@functools.lru_cache(maxsize=8)
def _encoder_entries(backbone: str, flow_adapters: bool) -> dict[str, Entry]:
    encoder = spec(backbone).make(flow_adapters=flow_adapters)
    pictures = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
    shapes = jax.eval_shape(lambda key, x: encoder.init(key, x, flow_rows=1), jax.random.key(0), pictures)
    nested = {collection: {"encoder": tree} for collection, tree in shapes.items()}
    return _entries(flatten_dict(nested, sep="/"), backbone)


def _entries(shapes: Mapping[str, jax.ShapeDtypeStruct], backbone: str) -> dict[str, Entry]:
    entries = {}
    for path, leaf in shapes.items():
        inside = path.split("/", 1)[1]
        turned = layout(inside, leaf.ndim)
        shape = turned.to_torch(np.broadcast_to(np.float32(0), leaf.shape)).shape
        entries[torch_name(inside, leaf.ndim, backbone)] = Entry(path, shape, turned)
    return entries


@dataclass(frozen=True)
class Fit:
    """How a set of names and shapes compares with an expected one."""

    missing: list[str]
    unused: list[str]
    misshapen: list[str]

    def __bool__(self) -> bool:
        return not (self.missing or self.unused or self.misshapen)

    def __str__(self) -> str:
        kinds = (("missing", self.missing), ("unused", self.unused), ("misshapen", self.misshapen))
        return "; ".join(f"{len(found)} {kind}: {', '.join(found)}" for kind, found in kinds if found)


def fit(expected: Mapping[str, tuple[int, ...]], given: Mapping[str, Any]) -> Fit:
    """Compare arrays by name with expected shapes; entries that no network reads (`UNUSED`) may be there or not."""
    return Fit(
        missing=[name for name in expected if name not in given],
        unused=[name for name in given if name not in expected and not UNUSED.fullmatch(name)],
        misshapen=[
            f"{name} is {tuple(given[name].shape)}, expected {tuple(shape)}"
            for name, shape in expected.items()
            if name in given and tuple(given[name].shape) != tuple(shape)
        ],
    )


def from_torch(model: HMHINet, state_dict: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Variables of `model` from a state dict of the release's network.

    Args:
        model: from `build_model`; its switches decide which entries are expected.
        state_dict: release name -> array in PyTorch's layout. A `module.` prefix is taken off.

    Raises:
        InputError: one error that lists every missing, unused and misshapen entry.
    """
    given = {name.removeprefix("module."): np.asarray(array) for name, array in state_dict.items()}
    expected = expected_entries(model)
    found = fit({name: entry.shape for name, entry in expected.items()}, given)
    if not found:
        raise InputError(f"the weights do not fit {model.backbone} with these switches. {found}")
    return _turned(expected, given)


def encoder_from_torch(
    backbone: str, state_dict: Mapping[str, np.ndarray], flow_adapters: bool | None = None
) -> dict[str, Any]:
    """Variables of an encoder alone, `{"params": {"encoder": ...}}` (and `"batch_stats"`).

    Args:
        backbone: a registered name.
        state_dict: the release's names, which begin with `backbone.`; flow adapters may be absent as a whole.
        flow_adapters: whether they are expected; None takes the backbone's default.

    Raises:
        InputError: one error that lists every missing, unused and misshapen entry.
    """
    expected = expected_encoder_entries(backbone, flow_adapters)
    if not any("adapter." in name for name in state_dict):
        expected = {name: entry for name, entry in expected.items() if "adapter." not in name}
    found = fit({name: entry.shape for name, entry in expected.items()}, state_dict)
    if not found:
        raise InputError(f"the weights do not fit {backbone}. {found}")
    return _turned(expected, state_dict)


def _turned(expected: Mapping[str, Entry], given: Mapping[str, np.ndarray]) -> dict[str, Any]:
    flat = {}
    for name, entry in expected.items():
        flat[entry.path] = jax.device_put(_float32(entry.layout.from_torch(given[name])), may_alias=True)
    return unflatten_dict(flat, sep="/")


def _float32(array: np.ndarray) -> np.ndarray:
    """A contiguous copy that begins at a multiple of 64 bytes, which JAX takes on a CPU without another copy."""
    buffer = np.empty(4 * array.size + 64, np.uint8)
    begin = -buffer.ctypes.data % 64
    copy = buffer[begin : begin + 4 * array.size].view(np.float32).reshape(array.shape)
    np.copyto(copy, array, casting="unsafe")
    return copy


def to_torch(model: HMHINet | str, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The release's state dict of `variables`; the inverse of `from_torch`.

    `model` may be the backbone's name alone; variables of an encoder alone give its part of the state dict.

    The release's `load_state_dict` is strict, so the entries it never reads are written too: copies of the
    cross-attention that its layers use, Swin's window positions, batch norm's counters (zero).
    """
    backbone = model if isinstance(model, str) else model.backbone
    state_dict = {}
    for path, array in flatten_dict(dict(variables), sep="/").items():
        inside, array = path.split("/", 1)[1], np.asarray(array)
        turned = layout(inside, array.ndim).to_torch(array)
        state_dict[torch_name(inside, array.ndim, backbone)] = np.ascontiguousarray(turned)
    live = ".pixel_transformer.layers.0.cross_attn_image."
    for name in [name for name in state_dict if live in name]:
        state_dict[name.replace(live, ".cross_attention.")] = state_dict[name].copy()
    for name in list(state_dict):
        if name.endswith(".relative_position_bias_table"):
            index = relative_position_index().astype(np.int64)
            state_dict[name.replace("bias_table", "index")] = index
        if name.endswith(".running_var"):
            state_dict[name.replace("running_var", "num_batches_tracked")] = np.zeros((), np.int64)
    return state_dict
