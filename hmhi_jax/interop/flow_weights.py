"""Weights of the flow networks: PyTorch state dicts to our variables and back, exact, strict, without PyTorch; where
their files lie, reading them whoever wrote them, writing them.

Names of RAFT's entries, ours, torchvision's and those of the paper's authors, are tables of rules. A rule turns a path
of ours, without its leaf, into the name of a module there; leaves and layouts are those of `torch_weights`.
"""

import dataclasses
import functools
import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from hmhi_jax.errors import InputError
from hmhi_jax.flow_models import RAFT, build_flow_model, flow_model_names
from hmhi_jax.interop.conversion import format_of, write_variables
from hmhi_jax.interop.identify import Recognised
from hmhi_jax.interop.shapes import Fit, fit, not_finite
from hmhi_jax.interop.torch_weights import TorchEntry, layout, renamed, state_dict_of, torch_entries, variables_from
from hmhi_jax.interop.weight_sources import WeightSource, read_source
from hmhi_jax.interop.weights import nested_float32

_ENCODER = r"(feature|context)_encoder"

TORCHVISION = [
    (rf"{_ENCODER}/stem", r"\1_encoder.convnormrelu.0"),
    (rf"{_ENCODER}/stem_norm/batch", r"\1_encoder.convnormrelu.1"),
    (rf"{_ENCODER}/stage(\d)_block(\d)/conv(\d)", r"\1_encoder.layer\2.\3.convnormrelu\4.0"),
    (rf"{_ENCODER}/stage(\d)_block(\d)/norm(\d)/batch", r"\1_encoder.layer\2.\3.convnormrelu\4.1"),
    (rf"{_ENCODER}/stage(\d)_block(\d)/downsample", r"\1_encoder.layer\2.\3.downsample.0"),
    (rf"{_ENCODER}/stage(\d)_block(\d)/downsample_norm/batch", r"\1_encoder.layer\2.\3.downsample.1"),
    (rf"{_ENCODER}/head", r"\1_encoder.conv"),
    (r"motion_encoder/correlation(\d)", r"update_block.motion_encoder.convcorr\1.0"),
    (r"motion_encoder/flow(\d)", r"update_block.motion_encoder.convflow\1.0"),
    (r"motion_encoder/fuse", r"update_block.motion_encoder.conv.0"),
    (r"gru(\d)/update_gate", r"update_block.recurrent_block.convgru\1.convz"),
    (r"gru(\d)/reset_gate", r"update_block.recurrent_block.convgru\1.convr"),
    (r"gru(\d)/candidate", r"update_block.recurrent_block.convgru\1.convq"),
    (r"flow_head/hidden", r"update_block.flow_head.conv1"),
    (r"flow_head/output", r"update_block.flow_head.conv2"),
    (r"mask_head/hidden", r"mask_predictor.convrelu.0"),
    (r"mask_head/output", r"mask_predictor.conv"),
]

# From the authors' names to torchvision's, leaf included. The small network has one GRU, whose number is left out.
_AUTHORS = [
    (r"fnet\.(.*)", r"feature_encoder/\1"),
    (r"cnet\.(.*)", r"context_encoder/\1"),
    (r"(.*)/conv1\.(\w+)", r"\1.convnormrelu.0.\2"),
    (r"(.*)/norm1\.(\w+)", r"\1.convnormrelu.1.\2"),
    (r"(.*)/conv2\.(\w+)", r"\1.conv.\2"),
    (r"(.*)/(layer\d\.\d)\.conv(\d)\.(\w+)", r"\1.\2.convnormrelu\3.0.\4"),
    (r"(.*)/(layer\d\.\d)\.norm([12])\.(\w+)", r"\1.\2.convnormrelu\3.1.\4"),
    (r"(.*)/(layer\d\.\d\.downsample\.\d\.\w+)", r"\1.\2"),
    (r"update_block\.encoder\.convc(\d)\.(\w+)", r"update_block.motion_encoder.convcorr\1.0.\2"),
    (r"update_block\.encoder\.convf(\d)\.(\w+)", r"update_block.motion_encoder.convflow\1.0.\2"),
    (r"update_block\.encoder\.conv\.(\w+)", r"update_block.motion_encoder.conv.0.\1"),
    (r"update_block\.gru\.conv([zrq])(\d)\.(\w+)", r"update_block.recurrent_block.convgru\2.conv\1.\3"),
    (r"update_block\.gru\.conv([zrq])\.(\w+)", r"update_block.recurrent_block.convgru1.conv\1.\2"),
    (r"update_block\.mask\.0\.(\w+)", r"mask_predictor.convrelu.0.\1"),
    (r"update_block\.mask\.2\.(\w+)", r"mask_predictor.conv.\1"),
]
_AUTHORS_ALONE = re.compile(r"(fnet|cnet)\.|update_block\.(encoder|gru|mask)\.")
# In the authors' blocks the norm behind the projection is a member under two names; one of them is read.
_TWICE = re.compile(r"(?P<block>(fnet|cnet)\.layer\d\.\d)\.norm[34]\.(?P<leaf>\w+)")
COUNTER = re.compile(r".*\.num_batches_tracked")


def torchvision_name(path: str, rank: int) -> str:
    """torchvision's name of the array at a path of ours, without its collection; KeyError where no rule covers it."""
    name = renamed(TORCHVISION, path.rsplit("/", 1)[0])
    if name is None:
        raise KeyError(f"no name rule covers {path}")
    return f"{name}.{layout(path, rank).leaf}"


def are_raft_names(names: Mapping[str, object]) -> bool:
    """Whether entries are those of a RAFT network, by torchvision's names or the authors'."""
    parts = {name.split(".", 1)[0] for name in names}
    return "update_block" in parts and bool(parts & {"feature_encoder", "context_encoder", "fnet", "cnet"})


def _from_authors_name(name: str) -> str:
    """torchvision's name; one that no rule covers stays as it is."""
    while found := renamed(_AUTHORS, name):
        name = found
    return name.replace("/", ".")


@functools.lru_cache(maxsize=4)
def flow_variable_shapes(name: str) -> dict[str, jax.ShapeDtypeStruct]:
    """Path ('params/feature_encoder/...') -> shape of every variable of a flow network, without computing anything."""
    model = build_flow_model(name)
    pictures = jax.ShapeDtypeStruct((1, 128, 128, 3), jnp.float32)
    return flatten_dict(jax.eval_shape(model.init, jax.random.key(0), pictures, pictures), sep="/")


@functools.lru_cache(maxsize=4)
def expected_flow_entries(name: str) -> dict[str, TorchEntry]:
    """torchvision's name of every variable of a flow network -> its `TorchEntry`."""
    return torch_entries(flow_variable_shapes(name), torchvision_name)


def flow_from_torch(flow_model: RAFT, state_dict: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Variables of `flow_model` from a state dict of torchvision's RAFT or of the paper's authors'.

    Args:
        flow_model: from `build_flow_model`.
        state_dict: name -> array in PyTorch's layout. A `module.` prefix is taken off; batch norm's step counters and
            the authors' second names of shared norms may be there or not.

    Raises `InputError`: one error that lists every missing, unused and misshapen entry, by torchvision's names.
    """
    network = flow_model.name_of_network
    given, *_ = flow_entries(state_dict)
    require_flow_fit(network, given)
    return variables_from(expected_flow_entries(network), given)


def flow_to_torch(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """torchvision's state dict of a flow network's variables; the inverse of `flow_from_torch`.

    Batch norm's step counters, which torchvision's strict loading expects, are written as zero.
    """
    return state_dict_of(variables, torchvision_name)


def flow_entries(state_dict: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], str, dict[str, list[str]]]:
    """A state dict by torchvision's names, without what no network reads; whose names they were; and what was left out,
    by reason."""
    given, dropped = {name.removeprefix("module."): array for name, array in state_dict.items()}, {}
    publisher = "torchvision"
    if any(_AUTHORS_ALONE.match(name) for name in given):
        publisher = "RAFT's authors"
        matches = filter(None, map(_TWICE.fullmatch, given))
        if twice := [match[0] for match in matches if f"{match['block']}.downsample.1.{match['leaf']}" in given]:
            dropped["norms that stand there under two names"] = twice
        given = {_from_authors_name(name): array for name, array in given.items() if name not in twice}
    if counters := [name for name in given if COUNTER.fullmatch(name)]:
        dropped["batch counters"] = counters
    return {name: array for name, array in given.items() if name not in counters}, publisher, dropped


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

    def matching(name: str) -> int:
        found = flow_fit(name, given)
        return len(expected_flow_entries(name)) - len(found.missing) - len(found.differing)

    best = max(flow_model_names(), key=matching)
    return best if matching(best) else None


def weights_digest(variables: Mapping[str, Any]) -> str:
    """SHA-256 of weights by name and value, the same whatever file they are kept in."""
    digest = hashlib.sha256()
    for path, array in sorted(flatten_dict(dict(variables), sep="/").items()):
        array = np.ascontiguousarray(np.asarray(array), "<f4")
        digest.update(f"{path} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


FLOW_NETWORK = "flow_network"  # key of our files' metadata that names the network


@dataclasses.dataclass(frozen=True)
class FlowWeights:
    """Weights of a flow network: its registered name, its variables (float32), and the file they came from."""

    network: str
    variables: dict[str, Any]
    path: Path


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
        require_flow_fit(flow_model_names()[0], source.entries, str(path))  # which says what they are not
    found.require_fit()
    if broken := not_finite(found.entries):
        raise InputError(f"{path}: {len(broken)} arrays hold numbers that are not finite: {', '.join(broken)}")
    return FlowWeights(found.network, variables_of(found), path)


def identify_flow(source: WeightSource, network: str | None = None) -> Recognised | None:
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
        return Recognised(source, "hmhi", name, dict(source.entries), fit(expected, source.entries), {})
    if not are_raft_names(source.entries):
        return None
    entries, publisher, dropped = flow_entries(source.entries)
    name = network or network_of(entries) or flow_model_names()[0]
    return Recognised(source, publisher, name, entries, flow_fit(name, entries), dropped)


def variables_of(found: Recognised) -> dict[str, Any]:
    """Our variables, nested, float32, of entries that fit."""
    if not found.source.ours:
        return flow_from_torch(build_flow_model(found.network), found.entries)
    return nested_float32(found.entries)


def write_flow_weights(
    found: Recognised, target: Path, *, torch_names: bool = False, dtype: str = "float32"
) -> dict[str, Any]:
    """Write recognised weights to `target`, whose suffix says how (`conversion.format_of`), and return its header.

    `torch_names` writes `.safetensors` and `.npz` under torchvision's names and in PyTorch's layout; a `.pth` always
    is. Raises `InputError` if the entries do not fit or the target cannot be written.
    """
    found.require_fit()
    kind = format_of(target, dtype)
    header = {FLOW_NETWORK: found.network}
    if not found.source.ours:
        header |= {"converted_from": found.source.path.name, "publisher": found.publisher}
    variables = variables_of(found)
    named = flow_to_torch(variables) if kind == "pth" or (torch_names and kind != "orbax") else None
    write_variables(target, variables, named, header, dtype)
    return header
