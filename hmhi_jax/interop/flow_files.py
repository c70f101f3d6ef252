"""Files of flow networks' weights: where they lie, reading them whoever wrote them, writing them."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np

from hmhi_jax.errors import InputError
from hmhi_jax.flow_models import build_flow_model, flow_model_names
from hmhi_jax.interop.conversion import format_of, write_variables
from hmhi_jax.interop.fit import Fit, fit, not_finite
from hmhi_jax.interop.flow_weights import (
    COUNTER,
    are_authors_names,
    are_raft_names,
    flow_fit,
    flow_from_torch,
    flow_to_torch,
    flow_variable_shapes,
    from_authors_names,
    network_of,
    require_flow_fit,
)
from hmhi_jax.interop.weight_sources import Source, read_source
from hmhi_jax.interop.weights import nested_float32

FLOW_NETWORK = "flow_network"  # key of our files' metadata that names the network


@dataclasses.dataclass(frozen=True)
class FlowWeights:
    """Weights of a flow network: its registered name, its variables (float32), and the file they came from."""

    network: str
    variables: dict[str, Any]
    path: Path


@dataclasses.dataclass(frozen=True)
class FlowSource:
    """What a file of a flow network's weights is.

    source     as it was read
    publisher  whose names its entries have
    network    registered name
    entries    torchvision's names -> arrays in PyTorch's layout (our paths -> our arrays if `source.ours`)
    fit        against what the network expects
    dropped    reason -> names that were left out by rule
    """

    source: Source
    publisher: str
    network: str
    entries: dict[str, np.ndarray]
    fit: Fit
    dropped: dict[str, list[str]]


def find_flow_weights(name_or_path: str | Path) -> Path:
    """The file that `name_or_path` stands for: itself, or one in PyTorch's hub cache whose name begins so.

    `raft_large` takes the newest version that is there, as torchvision's `DEFAULT` does. Raises `InputError` that says
    where was looked.
    """
    path = Path(name_or_path).expanduser()
    if path.exists():
        return path
    folder = hub_folder()
    name = path.name
    found = sorted(folder.glob(f"{name}*.pth")) if name == str(name_or_path) and folder.is_dir() else []
    if found:
        # ..._C_T_SKHT_V2-<checksum>.pth: what it was trained on and, last, the version. torchvision's own choice among
        # those of one version is SKHT (Sintel, KITTI and HD1K after chairs and things), not tuned to KITTI alone.
        def preference(file: Path) -> tuple[str, bool, str]:
            rest, _, version = file.stem.split("-")[0].rpartition("_")
            return version, rest.endswith("_SKHT"), file.name

        return max(found, key=preference)
    raise InputError(
        f"flow weights {str(name_or_path)!r}: no such file, and none of that name in {folder}; give a file of "
        "torchvision's RAFT, of its authors', or one made of them with 'hmhi convert'"
    )


def is_flow_name(name_or_path: str | Path) -> bool:
    """Whether this may be the beginning of a flow network's name in PyTorch's hub cache, rather than a path."""
    text = str(name_or_path)
    return Path(text).name == text and text.startswith(tuple(flow_model_names()))


def hub_folder() -> Path:
    """Where PyTorch keeps downloaded weights: `$TORCH_HOME/hub/checkpoints`, by default in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("TORCH_HOME") or cache / "torch").expanduser() / "hub" / "checkpoints"


def load_flow_weights(name_or_path: str | Path) -> FlowWeights:
    """Read weights of a flow network, whoever's names they have. Raises `InputError` if they are of no such network or
    anything is missing, left over, misshapen or not finite."""
    path = find_flow_weights(name_or_path)
    source = read_source(path)
    found = identify_flow(source)
    if found is None:
        require_flow_fit(flow_model_names()[0], source.entries, str(path))
        raise InputError(f"{path}: its weights are of no flow network")  # pragma: no cover - fits say so before
    require_fit(found)
    if broken := not_finite(found.entries):
        raise InputError(f"{path}: {len(broken)} arrays hold numbers that are not finite: {', '.join(broken)}")
    return FlowWeights(found.network, variables_of(found), path)


def identify_flow(source: Source, network: str | None = None) -> FlowSource | None:
    """Recognise a flow network's weights; None if a source is something else. `network` overrides what shapes say."""
    if network is not None and network not in flow_model_names():
        raise InputError(f"flow network {network!r} is not known, expected one of {', '.join(flow_model_names())}")
    if source.ours:
        name = network or source.header.get(FLOW_NETWORK)
        if name is None:
            return None
        if name not in flow_model_names():
            raise InputError(f"{source.path}: its metadata names the flow network {name!r}, unknown to this version")
        expected = {path: leaf.shape for path, leaf in flow_variable_shapes(name).items()}
        return FlowSource(source, "hmhi", name, dict(source.entries), fit(expected, source.entries), {})
    if not are_raft_names(source.entries):
        return None
    given, dropped = dict(source.entries), {}
    publisher = "torchvision"
    if are_authors_names(given):
        publisher = "RAFT's authors"
        given, twice = from_authors_names(given)
        if twice:
            dropped["norms that stand there under two names"] = twice
    if counters := [name for name in given if COUNTER.fullmatch(name)]:
        dropped["batch counters"] = counters
    entries = {name: array for name, array in given.items() if name not in counters}
    name = network or network_of(entries) or flow_model_names()[0]
    return FlowSource(source, publisher, name, entries, flow_fit(name, entries), dropped)


def require_fit(found: FlowSource) -> None:
    """Raises `InputError` with everything that does not fit, if anything does not."""
    if not found.fit:
        raise InputError(f"{found.source.path}: the weights do not fit {found.network}. {found.fit}")


def variables_of(found: FlowSource) -> dict[str, Any]:
    """Our variables, nested, float32, of entries that fit."""
    if not found.source.ours:
        return flow_from_torch(build_flow_model(found.network), found.entries)
    return nested_float32(found.entries)


def write_flow_weights(
    found: FlowSource, target: Path, *, torch_names: bool = False, dtype: str = "float32"
) -> dict[str, Any]:
    """Write recognised weights to `target`, whose suffix says how (`conversion.format_of`), and return its header.

    `torch_names` writes `.safetensors` and `.npz` under torchvision's names and in PyTorch's layout; a `.pth` always
    is. Raises `InputError` if the entries do not fit or the target cannot be written.
    """
    require_fit(found)
    kind = format_of(target, dtype)
    header = {FLOW_NETWORK: found.network}
    if not found.source.ours:
        header |= {"converted_from": found.source.path.name, "publisher": found.publisher}
    variables = variables_of(found)
    named = flow_to_torch(variables) if kind == "pth" or (torch_names and kind != "orbax") else None
    write_variables(target, variables, named, header, dtype)
    return header
