"""PyTorch state dicts to our variables and back; exact, strict, without PyTorch."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import unflatten_dict

from hmhi_jax.errors import InputError
from hmhi_jax.interop.fit import fit, leaves_by_path
from hmhi_jax.interop.model_shapes import Shapes, encoder_shapes, variable_shapes
from hmhi_jax.interop.torch_names import UNUSED, Layout, layout, torch_name
from hmhi_jax.kernels.windows import relative_position_index
from hmhi_jax.models import HMHINet
from hmhi_jax.models.backbones import spec


class Entry(NamedTuple):
    """Where an entry of a state dict belongs: our path, its shape in PyTorch's layout, and that layout."""

    path: str
    shape: tuple[int, ...]
    layout: Layout


def expected_entries(model: HMHINet) -> dict[str, Entry]:
    """The release's name of every variable of a model -> its `Entry`."""
    return entries_of(variable_shapes(model), partial(torch_name, backbone=model.backbone))


def expected_encoder_entries(backbone: str, flow_adapters: bool | None = None) -> dict[str, Entry]:
    """The same for an encoder alone, names with `backbone.`; `flow_adapters` None takes the backbone's default."""
    adapters = spec(backbone).flow_adapters if flow_adapters is None else flow_adapters
    return entries_of(encoder_shapes(backbone, adapters), partial(torch_name, backbone=backbone))


def entries_of(shapes: Shapes, name_of: Callable[[str, int], str]) -> dict[str, Entry]:
    """Variables by the names that `name_of` gives for their paths (without collection) and ranks."""
    entries = {}
    for path, leaf in shapes.items():
        inside = path.split("/", 1)[1]
        turned = layout(inside, leaf.ndim)
        shape = turned.to_torch(np.broadcast_to(np.float32(0), leaf.shape)).shape
        entries[name_of(inside, leaf.ndim)] = Entry(path, shape, turned)
    return entries


def from_torch(model: HMHINet, state_dict: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Variables of `model` from a state dict of the release's network.

    Args:
        model: from `build_model`; its switches decide which entries are expected.
        state_dict: release name -> array in PyTorch's layout. A `module.` prefix is taken off.

    Raises:
        InputError: one error that lists every missing, unused and misshapen entry.
    """
    given = {name.removeprefix("module."): np.asarray(array) for name, array in state_dict.items()}
    return _turned(expected_entries(model), given, f"{model.backbone} with these switches")


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
    return _turned(expected, state_dict, backbone)


def _turned(expected: Mapping[str, Entry], given: Mapping[str, np.ndarray], network: str) -> dict[str, Any]:
    """The variables; entries that no network reads (`UNUSED`) may be there or not."""
    found = fit(expected, {name: array for name, array in given.items() if not UNUSED.fullmatch(name)})
    if not found:
        raise InputError(f"the weights do not fit {network}. {found}")
    return variables_from(expected, given)


def variables_from(expected: Mapping[str, Entry], given: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The variables, nested, float32, of entries that fit."""
    flat = {}
    for name, entry in expected.items():
        array = entry.layout.from_torch(np.asarray(given[name]))
        flat[entry.path] = jax.device_put(_float32(array), may_alias=True)
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
    state_dict = state_dict_of(variables, partial(torch_name, backbone=backbone))
    live = ".pixel_transformer.layers.0.cross_attn_image."
    for name in [name for name in state_dict if live in name]:
        state_dict[name.replace(live, ".cross_attention.")] = state_dict[name].copy()
    for name in list(state_dict):
        if name.endswith(".relative_position_bias_table"):
            index = relative_position_index().astype(np.int64)
            state_dict[name.replace("bias_table", "index")] = index
    return state_dict


def state_dict_of(variables: Mapping[str, Any], name_of: Callable[[str, int], str]) -> dict[str, np.ndarray]:
    """Arrays in PyTorch's layout by the names that `name_of` gives, and batch norm's counters, zero."""
    state_dict = {}
    for path, array in leaves_by_path(dict(variables)).items():
        inside, array = path.split("/", 1)[1], np.asarray(array)
        name = name_of(inside, array.ndim)
        state_dict[name] = np.ascontiguousarray(layout(inside, array.ndim).to_torch(array))
        if name.endswith(".running_var"):
            state_dict[name.replace("running_var", "num_batches_tracked")] = np.zeros((), np.int64)
    return state_dict
