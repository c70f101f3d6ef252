"""Weights of the flow networks: PyTorch state dicts to our variables and back, exact, strict, without PyTorch."""

import functools
import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from hmhi_jax.errors import InputError
from hmhi_jax.flow_models import RAFT, build_flow_model, flow_model_names
from hmhi_jax.interop.fit import Fit, fit
from hmhi_jax.interop.flow_names import (
    COUNTER,
    are_authors_names,
    are_raft_names,
    from_authors_names,
    torchvision_name,
)
from hmhi_jax.interop.torch_names import layout
from hmhi_jax.interop.torch_weights import Entry


@functools.lru_cache(maxsize=4)
def flow_variable_shapes(name: str) -> dict[str, jax.ShapeDtypeStruct]:
    """Path ('params/feature_encoder/...') -> shape of every variable of a flow network, without computing anything."""
    model = build_flow_model(name)
    pictures = jax.ShapeDtypeStruct((1, 128, 128, 3), jnp.float32)
    return flatten_dict(jax.eval_shape(model.init, jax.random.key(0), pictures, pictures), sep="/")


@functools.lru_cache(maxsize=4)
def expected_flow_entries(name: str) -> dict[str, Entry]:
    """torchvision's name of every variable of a flow network -> its `Entry`."""
    entries = {}
    for path, leaf in flow_variable_shapes(name).items():
        inside = path.split("/", 1)[1]
        turned = layout(inside, leaf.ndim)
        shape = turned.to_torch(np.broadcast_to(np.float32(0), leaf.shape)).shape
        entries[torchvision_name(inside, leaf.ndim)] = Entry(path, shape, turned)
    return entries


def flow_from_torch(flow_model: RAFT, state_dict: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Variables of `flow_model` from a state dict of torchvision's RAFT or of the paper's authors'.

    Args:
        flow_model: from `build_flow_model`.
        state_dict: name -> array in PyTorch's layout. A `module.` prefix is taken off; batch norm's step counters and
            the authors' second names of shared norms may be there or not.

    Raises:
        InputError: one error that lists every missing, unused and misshapen entry, by torchvision's names.
    """
    network = flow_model.name_of_network
    given = flow_entries(state_dict)
    expected = expected_flow_entries(network)
    require_flow_fit(network, given)
    flat = {}
    for name, entry in expected.items():
        array = np.ascontiguousarray(entry.layout.from_torch(np.asarray(given[name])), np.float32)
        flat[entry.path] = jnp.asarray(array)
    return unflatten_dict(flat, sep="/")


def flow_to_torch(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """torchvision's state dict of a flow network's variables; the inverse of `flow_from_torch`.

    Batch norm's step counters, which torchvision's strict loading expects, are written as zero.
    """
    state_dict = {}
    for path, array in flatten_dict(dict(variables), sep="/").items():
        inside, array = path.split("/", 1)[1], np.asarray(array)
        name = torchvision_name(inside, array.ndim)
        state_dict[name] = np.ascontiguousarray(layout(inside, array.ndim).to_torch(array))
        if name.endswith(".running_mean"):
            state_dict[name.replace("running_mean", "num_batches_tracked")] = np.zeros((), np.int64)
    return state_dict


def flow_entries(state_dict: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A state dict by torchvision's names, without what no network reads."""
    given = {name.removeprefix("module."): array for name, array in state_dict.items()}
    if are_authors_names(given):
        given, _ = from_authors_names(given)
    return {name: array for name, array in given.items() if not COUNTER.fullmatch(name)}


def flow_fit(network: str, given: Mapping[str, np.ndarray]) -> Fit:
    """How entries by torchvision's names compare with what a network expects."""
    return fit({name: entry.shape for name, entry in expected_flow_entries(network).items()}, given)


def require_flow_fit(network: str, given: Mapping[str, np.ndarray], source: str = "") -> None:
    """Raises `InputError` with everything that does not fit, if anything does not; `source` names the file."""
    found = flow_fit(network, given)
    if found:
        return
    where = f"{source}: " if source else ""
    if not are_raft_names(given):
        raise InputError(
            f"{where}the weights are of another network than RAFT: none of its parts is among {len(given)} entries "
            f"({', '.join(list(given)[:3])}, ...), expected torchvision's or the authors' {network}"
        )
    if (other := network_of(given)) and other != network:
        raise InputError(f"{where}the weights are {other}'s, expected {network}'s; take the network {other}. {found}")
    raise InputError(f"{where}the weights do not fit {network}. {found}")


def network_of(given: Mapping[str, np.ndarray]) -> str | None:
    """The flow network whose entries these mostly are, by name and shape; None if none shares an entry."""
    matching = {
        name: sum(
            key in given and tuple(given[key].shape) == tuple(entry.shape)
            for key, entry in expected_flow_entries(name).items()
        )
        for name in flow_model_names()
    }
    best = max(matching, key=lambda name: matching[name])
    return best if matching[best] else None


def weights_digest(variables: Mapping[str, Any]) -> str:
    """SHA-256 of weights by name and value, the same whatever file they are kept in."""
    digest = hashlib.sha256()
    for path, array in sorted(flatten_dict(dict(variables), sep="/").items()):
        array = np.ascontiguousarray(np.asarray(array), "<f4")
        digest.update(f"{path} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
