"""Whatever file or folder people keep weights in, as one flat dictionary of arrays and where it was found."""

import json
import os
import struct
import tokenize
import zipfile
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hmhi_jax.complete_files import readable
from hmhi_jax.data.flow import FlowRecipe
from hmhi_jax.data.preprocessing import checked_every, checked_size
from hmhi_jax.errors import InputError
from hmhi_jax.interop.shapes import leaves_by_path
from hmhi_jax.interop.torch_checkpoint import read_torch_checkpoint
from hmhi_jax.interop.weight_places import METADATA, find_weights
from hmhi_jax.models.hmhi_net import check_switches

# Keys under which training scripts put a state dict, best first (averaged weights are what people evaluate with).
_WRAPPERS = (
    "network", "state_dict_ema", "ema_state_dict", "model_ema", "params_ema", "ema_model", "ema", "shadow",
    "state_dict", "model", "model_state_dict", "module", "net", "params",
)  # fmt: skip
# What wrappers of modules put in front of every name; of the last ones a file may hold several, the averaged first.
_PREFIXES = ("module.", "_orig_mod.", "ema_model.", "model_ema.", "ema.", "swa_model.", "model.", "net.", "network.")
_COUNTERS = {"n_averaged", "num_updates", "initted", "step", "decay"}  # what averages keep beside their entries
WHOLE = "decode_head.cbam1."  # only HMHI-Net's decoder has it
# What NumPy, with the types of ml_dtypes, can hold of the types that a `.safetensors` file can.
_STORED = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL")
# Weights hardly compress. An archive that unpacks to more than this, and to that many times its size, is none.
_LARGEST_UNSEEN, _MOST_TIMES = 2**28, 100
# What NumPy raises for an archive that is none, or damaged (RuntimeError: of a password, or an unknown compression).
_OF_DAMAGE = (
    OSError, ValueError, TypeError, EOFError, KeyError, MemoryError, OverflowError, RuntimeError, SyntaxError,
    zipfile.BadZipFile, zlib.error, struct.error, tokenize.TokenError,
)  # fmt: skip


@dataclass(frozen=True)
class WeightSource:
    """Weights as they were found.

    path      what was read
    kind      what it is, for people
    entries   name -> array, views of the file where it can be mapped; PyTorch's layout unless `ours`
    ours      whether names are paths of our variables ("params/encoder/...") with arrays laid out as Flax does
    header    what our own files say about themselves (see `weights`), empty for others
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


def read_source(path: str | os.PathLike[str], *, verify: bool = True) -> WeightSource:
    """Read weights by what they are, not by their suffix: `.pth`, `.safetensors`, `.npz`, a folder of Orbax's, or what
    else `find_weights` knows.

    With `verify` the storages of a `.pth` are compared with their checksums. Raises `InputError`.
    """
    path = find_weights(path)
    kind = kind_of(path)
    if kind == "folder":
        from hmhi_jax.interop.checkpoint_folders import read_checkpoint  # Orbax takes a second to import

        name, variables, header = read_checkpoint(path)
        entries = {part: np.asarray(array) for part, array in leaves_by_path(variables).items()}
        return WeightSource(path, name, entries, ours=True, header=_checked_header(path, header))
    if kind == "safetensors":
        return _read_safetensors(path)
    if kind == "npz":
        return _read_npz(path)
    return _from_torch_value(path, read_torch_checkpoint(path, verify=verify))


def kind_of(path: Path) -> str:
    """ "folder", "safetensors", "npz" or "torch", by the first bytes. Raises `InputError`."""
    if path.is_dir():
        return "folder"
    with readable(path), path.open("rb") as file:
        head = file.read(16)
    if head[8:9] == b"{":
        return "safetensors"
    if head.startswith(b"\x89HDF"):
        raise InputError(f"{path}: an HDF5 file, expected .pth, .safetensors, .npz or an Orbax folder")
    return "npz" if head.startswith(b"PK") and path.suffix == ".npz" else "torch"


def _from_torch_value(path: Path, value: Any) -> WeightSource:
    wrapper, found, ignored = _state_dict(value)
    if not found:
        what = f"the keys {', '.join(map(str, list(value)[:8]))}" if isinstance(value, dict) else type(value).__name__
        raise InputError(f"{path}: holds no state dict; expected tensors by name or under 'network', found {what}")
    entries, prefix, aside = _without_prefix(found)
    return WeightSource(
        path, "PyTorch checkpoint", entries, wrapper=wrapper, prefix=prefix, ignored=sorted(ignored + aside)
    )


def _state_dict(value: Any, depth: int = 4) -> tuple[str, dict[str, np.ndarray], list[str]]:
    """Under which keys the tensors stand, the tensors, and what else there is; none where there are none."""
    if not isinstance(value, dict) or not depth:
        return "", {}, []
    found = {key: _state_dict(inner, depth - 1) for key, inner in value.items() if isinstance(inner, dict)}
    holding = [key for key in found if found[key][1]]
    known = [key for key in _WRAPPERS if key in holding]
    # Numbers beside the arrays, under a name of no module, are a step or a score.
    here = {str(name): item for name, item in value.items() if _is_entry(str(name), item)}
    if known or (len(holding) == 1 and not here):
        key = (known or holding)[0]
        inner, entries, ignored = found[key]
        return f"{key}.{inner}".rstrip("."), entries, ignored + [str(name) for name in value if name != key]
    return "", here, [str(name) for name in value if str(name) not in here]


def _is_entry(name: str, value: Any) -> bool:
    return isinstance(value, np.ndarray) and (value.ndim > 0 or "." in name)


def _without_prefix(entries: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], str, list[str]]:
    """Entries without what wrappers put in front of their names, what that was, and what was left aside.

    All entries but an average's counters must share a prefix; where one of several modules in a file is a whole network
    of ours, the others (a criterion, the network that the average is of) are left aside.
    """
    taken, aside = "", Counter()
    while not any(name.startswith(WHOLE) for name in entries):
        for prefix in _PREFIXES:
            inside = {name.removeprefix(prefix): array for name, array in entries.items() if name.startswith(prefix)}
            outside = [name for name in entries if not name.startswith(prefix)]
            if inside and (set(outside) <= _COUNTERS or any(WHOLE in name for name in inside)):
                break
        else:
            break
        aside.update(name.split(".", 1)[0] for name in outside)
        taken, entries = taken + prefix, inside
    return entries, taken, [f"{name} ({count} arrays)" if count > 1 else name for name, count in aside.items()]


def _read_safetensors(path: Path) -> WeightSource:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            names = list(file.keys())
            types = {name: file.get_slice(name).get_dtype() for name in names}
            if strange := [f"{name} ({kind})" for name, kind in types.items() if kind not in _STORED]:
                raise InputError(
                    f"{path}: {len(strange)} arrays of types that weights do not have, first {strange[0]}; expected "
                    "float32, bfloat16 or float16"
                )
            entries = {name: file.get_tensor(name) for name in names}
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: is no readable safetensors file ({error}); download or write it again") from None
    return _named(path, "safetensors", entries, metadata.get("hmhi", ""))


def _read_npz(path: Path) -> WeightSource:
    try:
        _check_archive(path)
        with np.load(path, allow_pickle=False) as file:
            metadata = str(file[METADATA]) if METADATA in file.files else ""
            entries = {name: file[name] for name in file.files if name != METADATA}
        if strange := [f"{name} ({array.dtype})" for name, array in entries.items() if array.dtype.kind not in "biuf"]:
            raise ValueError(f"{len(strange)} of them hold no real numbers, first {strange[0]}")
    except _OF_DAMAGE as error:
        raise InputError(f"{path}: is no readable NumPy archive of plain arrays ({error})") from None
    return _named(path, "NumPy archive", entries, metadata)


def _check_archive(path: Path) -> None:
    """Refuse an archive that unpacks to far more than it is, or an array that claims more than its part holds."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        unpacked = sum(member.file_size for member in members)
        if unpacked > max(_LARGEST_UNSEEN, _MOST_TIMES * path.stat().st_size):
            raise ValueError(f"{path.stat().st_size:,} bytes that unpack to {unpacked:,}: not weights")
        for member in members:
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(file)
                claimed = int(np.prod(shape, dtype=object)) * dtype.itemsize
                if claimed > member.file_size:
                    raise ValueError(f"{member.filename} claims {claimed:,} bytes and has {member.file_size:,}")


def _named(path: Path, kind: str, entries: dict[str, np.ndarray], metadata: str) -> WeightSource:
    """Entries of a file that keeps names and arrays only: ours say so by their paths."""
    if not entries:
        raise InputError(f"{path}: holds no arrays")
    header: Any = {}
    if metadata:
        try:
            header = json.loads(metadata)
        except (ValueError, RecursionError) as error:
            raise unusable_header(path, error) from None
    header = _checked_header(path, header)
    if any(name.startswith("params/") for name in entries):
        return WeightSource(path, f"hmhi weights ({kind})", entries, ours=True, header=header)
    entries, prefix, aside = _without_prefix(entries)
    return WeightSource(path, f"{kind} with PyTorch names", entries, header=header, prefix=prefix, ignored=aside)


def _checked_header(path: Path, header: Any) -> dict[str, Any]:
    """A header whose parts, as far as they are there, are what all readers count on: each switch of the network, sizes
    and the flow recipe can be used."""
    kinds = {"model": dict, "input_size": list, "flow": dict, "extra": dict}
    if not isinstance(header, dict):
        raise unusable_header(path, TypeError(f"{type(header).__name__} instead of an object"))
    for name, kind in kinds.items():
        if name in header and not isinstance(header[name], kind):
            raise unusable_header(path, TypeError(f"{name} is {str(header[name])[:40]}"))
    try:
        check_switches({name: value for name, value in header.get("model", {}).items() if name != "dtype"})
        if "input_size" in header:
            checked_size(header["input_size"])
        if "flow" in header:
            FlowRecipe.from_fields(header["flow"])
        checked_every(header.get("every", 1))
    except (TypeError, ValueError, InputError) as error:
        raise InputError(f"{path}: its metadata 'hmhi': {error}") from error
    return header


def unusable_header(path: Path, error: Exception) -> InputError:
    """What is said of metadata that does not describe a network."""
    return InputError(
        f"{path}: its metadata 'hmhi' cannot be used ({type(error).__name__}: {error}), expected JSON with 'model', "
        "'input_size' and 'flow'"
    )
