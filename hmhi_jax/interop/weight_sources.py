"""Whatever file or folder people keep weights in, as one flat dictionary of arrays and where it was found."""

import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hmhi_jax.data.flow import FlowRecipe
from hmhi_jax.errors import InputError
from hmhi_jax.interop.packaged_weights import is_packaged, packaged_file
from hmhi_jax.interop.torch_checkpoint import read_torch_checkpoint
from hmhi_jax.interop.weight_places import METADATA, ORBAX_HEADER, ORBAX_VARIABLES, checkpoint_of, shipped_weights

# Keys under which training scripts put a state dict, best first (averaged weights are what people evaluate with).
_WRAPPERS = ("network", "state_dict_ema", "model_ema", "state_dict", "model", "model_state_dict", "module", "net")
# What wrappers of modules put in front of every name.
_PREFIXES = ("module.", "_orig_mod.")


@dataclass(frozen=True)
class Source:
    """Weights as they were found.

    path      what was read
    kind      what it is, for people
    entries   name -> array, views of the file where it can be mapped; PyTorch's layout unless `ours`
    ours      whether names are paths of our variables ("params/encoder/...") with arrays laid out as Flax does
    header    what our own files say about themselves (see `weights_file`), empty for others
    wrapper   key of the file under which the entries stood, empty if none
    prefix    what was taken off the front of every name, empty if nothing
    ignored   other keys of the file ("optimizer", "epoch")
    """

    path: Path
    kind: str
    entries: dict[str, np.ndarray]
    ours: bool = False
    header: dict[str, Any] = field(default_factory=dict)
    wrapper: str = ""
    prefix: str = ""
    ignored: list[str] = field(default_factory=list)


def read_source(path: str | os.PathLike[str], *, verify: bool = True) -> Source:
    """Read weights by what they are, not by their suffix: `.pth`, `.safetensors`, `.npz`, a folder of Orbax's, or the
    name of weights that come with this package ("tiny") or another one ("package:efficientnet-lite0").

    With `verify` the storages of a `.pth` are compared with their checksums. Raises `InputError`.
    """
    path = packaged_file(str(path)) if is_packaged(str(path)) else Path(path).expanduser()
    if not path.exists():
        path = shipped_weights().get(str(path), path)
    if path.is_dir():
        return _read_folder(path)
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    if head[8:9] == b"{":
        return _read_safetensors(path)
    if head.startswith(b"PK") and path.suffix == ".npz":
        return _read_npz(path)
    if head.startswith(b"\x89HDF"):
        raise InputError(f"{path}: an HDF5 file, expected .pth, .safetensors, .npz or an Orbax folder")
    return _from_torch_value(path, read_torch_checkpoint(path, verify=verify))


def _from_torch_value(path: Path, value: Any) -> Source:
    wrapper, ignored = "", []
    if isinstance(value, dict):
        found = {name: item for name, item in value.items() if isinstance(item, np.ndarray)}
        nested = [key for key in _WRAPPERS if isinstance(value.get(key), dict) and _arrays(value[key])]
        if nested:
            wrapper, found = nested[0], _arrays(value[nested[0]])
        ignored = sorted(str(key) for key in value if key != wrapper and key not in found)
    else:
        found = {}
    if not found:
        what = f"the keys {', '.join(map(str, list(value)[:8]))}" if isinstance(value, dict) else type(value).__name__
        raise InputError(f"{path}: holds no state dict; expected tensors by name or under 'network', found {what}")
    entries, prefix = _without_prefix({str(name): array for name, array in found.items()})
    return Source(path, "PyTorch checkpoint", entries, wrapper=wrapper, prefix=prefix, ignored=ignored)


def _arrays(value: Mapping[Any, Any]) -> dict[str, np.ndarray]:
    return {str(name): item for name, item in value.items() if isinstance(item, np.ndarray)}


def _without_prefix(entries: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], str]:
    taken = ""
    while prefix := next((p for p in _PREFIXES if entries and all(name.startswith(p) for name in entries)), ""):
        taken += prefix
        entries = {name.removeprefix(prefix): array for name, array in entries.items()}
    return entries, taken


def _read_safetensors(path: Path) -> Source:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            entries = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: is no readable safetensors file ({error}); download or write it again") from None
    return _named(path, "safetensors", entries, metadata.get("hmhi", ""))


def _read_npz(path: Path) -> Source:
    try:
        with np.load(path, allow_pickle=False) as file:
            metadata = str(file[METADATA]) if METADATA in file.files else ""
            entries = {name: file[name] for name in file.files if name != METADATA}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path}: is no readable NumPy archive of plain arrays ({error})") from None
    return _named(path, "NumPy archive", entries, metadata)


def _named(path: Path, kind: str, entries: dict[str, np.ndarray], metadata: str) -> Source:
    """Entries of a file that keeps names and arrays only: ours say so by their paths."""
    if not entries:
        raise InputError(f"{path}: holds no arrays")
    try:
        header = json.loads(metadata) if metadata else {}
    except ValueError as error:
        raise InputError(f"{path}: its metadata 'hmhi' is not JSON ({error})") from None
    if all(name.startswith(("params/", "batch_stats/")) for name in entries):
        return Source(path, f"hmhi weights ({kind})", entries, ours=True, header=header)
    entries, prefix = _without_prefix(entries)
    return Source(path, f"{kind} with PyTorch names", entries, header=header, prefix=prefix)


def _read_folder(path: Path) -> Source:
    """A folder that `hmhi convert` or training wrote."""
    if (path / "weights.safetensors").is_file():
        return _read_safetensors(path / "weights.safetensors")
    found = checkpoint_of(path)
    if found is None:
        raise InputError(f"{path}: the folder holds no weights.safetensors and no checkpoint of ours")
    if (found / ORBAX_VARIABLES).is_dir():
        header = _read_json(found / ORBAX_HEADER / "metadata")
        return _orbax(found, "hmhi weights (Orbax)", _restore(found / ORBAX_VARIABLES), header)
    state = _restore(found / "state")
    variables = {"params": state.get("ema") or state.get("params") or {}, "batch_stats": state.get("batch_stats") or {}}
    return _orbax(found, "training checkpoint (Orbax)", variables, _header_of_run(found / "run" / "metadata"))


def _header_of_run(record: Path) -> dict[str, Any]:
    """What a training run notes beside its arrays, as the header of a weights file; only what is there."""
    run = _read_json(record)
    config = run.get("config", {})
    header = {"model": config.get("model", {})}
    if sizes := config.get("data", {}).get("sizes"):
        header["input_size"] = list(sizes[-1])
    if "flow_recipe" in run:
        try:
            header["flow"] = json.loads(FlowRecipe.from_json(run["flow_recipe"]).to_json())
        except InputError as error:
            raise InputError(f"{record}: flow_recipe: {error}") from error
    return header


def _orbax(path: Path, kind: str, variables: Mapping[str, Any], header: dict[str, Any]) -> Source:
    from flax.traverse_util import flatten_dict

    entries = {"/".join(name): np.asarray(array) for name, array in flatten_dict(dict(variables)).items()}
    return Source(path, kind, entries, ours=True, header=header)


def _restore(folder: Path) -> dict[str, Any]:
    """All arrays of an Orbax tree as NumPy, wherever they were computed."""
    import jax
    import orbax.checkpoint as ocp

    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            tree = checkpointer.metadata(folder.absolute()).item_metadata.tree
            numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
            return checkpointer.restore(folder.absolute(), args=ocp.args.PyTreeRestore(restore_args=numpy))
    except Exception as error:  # whatever a damaged file makes the reader raise
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{folder}: this checkpoint cannot be read ({type(error).__name__}: {reason})") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return {}
