"""PyTorch state dicts to our variables and back; exact, strict, without PyTorch."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from hmhi_jax.errors import InputError
from hmhi_jax.interop.torch_names import UNUSED, Layout, layout, torch_name
from hmhi_jax.models import HMHINet
from hmhi_jax.models.backbones.swin import relative_position_index


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


def expected_entries(model: HMHINet) -> dict[str, Entry]:
    """The release's name of every variable of a model -> its `Entry`."""
    entries = {}
    for path, leaf in variable_shapes(model).items():
        inside = path.split("/", 1)[1]
        turned = layout(inside, leaf.ndim)
        shape = turned.to_torch(np.broadcast_to(np.float32(0), leaf.shape)).shape
        entries[torch_name(inside, leaf.ndim, model.backbone)] = Entry(path, shape, turned)
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
    expected = expected_entries(model)
    missing = [name for name in expected if name not in given]
    unused = [name for name in given if name not in expected and not UNUSED.fullmatch(name)]
    misshapen = [
        f"{name} is {given[name].shape}, expected {entry.shape}"
        for name, entry in expected.items()
        if name in given and given[name].shape != entry.shape
    ]
    problems = [
        f"{len(found)} {kind}: {', '.join(found)}"
        for kind, found in (("missing", missing), ("unused", unused), ("misshapen", misshapen))
        if found
    ]
    if problems:
        raise InputError(f"the weights do not fit {model.backbone} with these switches. " + "; ".join(problems))
    flat = {}
    for name, entry in expected.items():
        array = entry.layout.from_torch(given[name])
        flat[entry.path] = jnp.asarray(np.ascontiguousarray(array, dtype=np.float32))
    return unflatten_dict(flat, sep="/")


def to_torch(model: HMHINet, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The release's state dict of `variables`; the inverse of `from_torch`.

    The release's `load_state_dict` is strict, so the entries it never reads are written too: copies of the
    cross-attention that its layers use, Swin's window positions, batch norm's counters (zero).
    """
    state_dict = {}
    for path, array in flatten_dict(dict(variables), sep="/").items():
        inside, array = path.split("/", 1)[1], np.asarray(array)
        turned = layout(inside, array.ndim).to_torch(array)
        state_dict[torch_name(inside, array.ndim, model.backbone)] = np.ascontiguousarray(turned)
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
