"""From recognised weights to a file of another kind; among them PyTorch's `.pth`, written without PyTorch so that
`torch.load(weights_only=True)` and the release read it."""

import os
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import unflatten_dict

from hmhi_jax.complete_files import completed
from hmhi_jax.data.flow import FlowRecipe
from hmhi_jax.errors import InputError
from hmhi_jax.interop.identify import Recognised
from hmhi_jax.interop.shapes import leaves_by_path
from hmhi_jax.interop.torch_pickle import STORAGES
from hmhi_jax.interop.torch_weights import encoder_from_torch, from_torch, to_torch
from hmhi_jax.interop.weight_places import ORBAX_HEADER, ORBAX_VARIABLES
from hmhi_jax.interop.weights import nested_float32, stored, write_arrays
from hmhi_jax.models import build_model


def write_torch_checkpoint(path: str | os.PathLike[str], value: Mapping[str, Any]) -> None:
    """Writes nested dictionaries of arrays and plain values as a `.pth` that `torch.load(weights_only=True)` reads.

    Arrays keep their dtype (bfloat16 and float16 included) and become contiguous tensors on the CPU. The file appears
    under its name only when it is complete.
    """
    path = Path(path)
    storages: list[np.ndarray] = []
    pickle = b"\x80\x02" + b"".join(_pickled(value, storages)) + b"."
    root = "archive"
    with completed(path, advice="") as partial, zipfile.ZipFile(partial, "w", allowZip64=True) as archive:
        archive.writestr(f"{root}/data.pkl", pickle)
        archive.writestr(f"{root}/byteorder", b"little")
        for index, array in enumerate(storages):
            little = array.astype(array.dtype.newbyteorder("<"), copy=False)
            _write_aligned(archive, f"{root}/data/{index}", memoryview(little.reshape(-1).view(np.uint8)))
        archive.writestr(f"{root}/version", b"3\n")


def _pickled(value: Any, storages: list[np.ndarray]) -> Iterator[bytes]:
    """Protocol-2 instructions that build `value`."""
    if isinstance(value, Mapping):
        yield b"ccollections\nOrderedDict\n)R("
        for key, item in value.items():
            yield from _pickled(key, storages)
            yield from _pickled(item, storages)
        yield b"u"
    elif isinstance(value, list | tuple):
        yield b"](" if isinstance(value, list) else b"("
        for item in value:
            yield from _pickled(item, storages)
        yield b"e" if isinstance(value, list) else b"t"
    elif hasattr(value, "__array__"):
        yield from _pickled_tensor(np.ascontiguousarray(value).reshape(np.shape(value)), storages)
    elif value is None or isinstance(value, bool):
        yield {None: b"N", True: b"\x88", False: b"\x89"}[value]
    elif isinstance(value, int):
        encoded = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        yield b"\x8a" + bytes([len(encoded)]) + encoded
    elif isinstance(value, float):
        yield b"G" + struct.pack(">d", value)
    elif isinstance(value, str):
        encoded = value.encode()
        yield b"X" + struct.pack("<I", len(encoded)) + encoded
    else:
        raise TypeError(f"a checkpoint cannot hold {type(value).__name__}")


def _pickled_tensor(array: np.ndarray, storages: list[np.ndarray]) -> Iterator[bytes]:
    name = array.dtype.name
    kind = next((storage for storage, dtype in STORAGES.items() if dtype == name), None)
    if kind is None:
        raise TypeError(f"a checkpoint cannot hold an array of {name}")
    key = str(len(storages))
    storages.append(array)
    strides = tuple(int(np.prod(array.shape[axis + 1 :])) for axis in range(array.ndim))
    yield b"ctorch._utils\n_rebuild_tensor_v2\n("
    yield from (b"(", *_pickled("storage", storages), f"ctorch\n{kind}\n".encode())
    for part in (key, "cpu", array.size):
        yield from _pickled(part, storages)
    yield b"tQ"
    for part in (0, array.shape, strides, False, {}):
        yield from _pickled(part, storages)
    yield b"tR"


def _write_aligned(archive: zipfile.ZipFile, name: str, data: memoryview) -> None:
    """Stores `data` at a multiple of 64 bytes, as PyTorch does, so that it can be mapped; an extra field pads."""
    info = zipfile.ZipInfo(name)
    # A member of 2 GiB or more gets 20 bytes of zip64 sizes beside the extra field.
    start = archive.fp.tell() + 30 + len(name.encode()) + 4 + (20 if len(data) * 1.05 > zipfile.ZIP64_LIMIT else 0)
    padding = -start % 64
    info.extra = struct.pack("<HH", 0x4246, padding) + b"\0" * padding  # "FB": the identifier PyTorch pads with
    archive.writestr(info, data)


_SUFFIXES = {".safetensors": "safetensors", ".npz": "npz", ".pth": "pth", ".pt": "pth", ".bin": "pth", "": "orbax"}


def format_of(target: Path, dtype: str = "float32") -> str:
    """The kind of file a name asks for: "safetensors", "npz", "pth" or "orbax". Raises `InputError` for a suffix that
    says nothing, or a kind that cannot hold arrays of that type."""
    if target.suffix not in _SUFFIXES:
        raise InputError(
            f"{target}: suffix {target.suffix!r} says no format, expected .safetensors, .npz, .pth, or none "
            "for a folder (Orbax)"
        )
    kind = _SUFFIXES[target.suffix]
    if kind == "npz" and dtype == "bfloat16":
        raise InputError(f"{target}: NumPy archives cannot hold bfloat16; take float16, or .safetensors")
    return kind


def variables_of(found: Recognised) -> dict[str, Any]:
    """Our variables, nested, float32; an encoder alone gives `{"params": {"encoder": ...}}`. Raises `InputError` if the
    entries do not fit."""
    found.require_fit()
    if found.source.ours:
        return nested_float32(found.entries)
    if found.whole:
        return from_torch(build_model(**found.model_arguments), found.entries)
    return encoder_from_torch(found.network, found.entries, found.model_arguments.get("flow_adapters"))


def header_of(
    found: Recognised,
    *,
    memory_frames: int | None = None,
    input_size: tuple[int, int] | None = None,
    flow_recipe: FlowRecipe | None = None,
    every: int | None = None,
) -> dict[str, Any]:
    """What our files say about themselves: what the source said, else the release's defaults, else what is given.

    Keys: `model`, `input_size`, `flow`, `every`, `extra`; see `weights`.
    """
    known = found.source.header
    model = dict(found.model_arguments)
    if memory_frames is not None:
        model["memory_frames"] = memory_frames
    recipe = flow_recipe or (FlowRecipe.from_fields(known["flow"]) if "flow" in known else FlowRecipe())
    extra = dict(known.get("extra", {}))
    if not found.source.ours:
        extra |= {"converted_from": found.source.path.name, "publisher": found.publisher}
    if not found.whole:
        extra["part"] = "encoder"
    size = input_size or tuple(known.get("input_size", (512, 512)))
    every = known.get("every", 1) if every is None else every
    return {"model": model, "input_size": list(size), "flow": recipe.fields(), "every": every, "extra": extra}


def write_weights(
    found: Recognised, target: Path, header: Mapping[str, Any], *, torch_names: bool = False, dtype: str = "float32"
) -> None:
    """Write recognised weights to `target`, whose suffix says how (see `format_of`).

    Args:
        header: from `header_of`.
        torch_names: `.safetensors` and `.npz` under PyTorch's names and layout instead of ours; a `.pth` always is.
        dtype: how floating-point arrays are stored: "float32", "bfloat16" or "float16".

    Raises `InputError` if the entries do not fit or the target cannot be written; nothing incomplete is left behind.
    """
    kind = format_of(target, dtype)
    variables, named, wrapper = variables_of(found), None, ""
    if kind == "pth" or (torch_names and kind != "orbax"):
        try:
            named = to_torch(found.network, variables)
        except KeyError:
            raise InputError(
                f"{target}: PyTorch has no names for {found.network}; write our own: .safetensors, .npz or a "
                "folder, with --names ours"
            ) from None
        if not found.whole:  # ImageNet files name their entries from the encoder's root
            named = {name.removeprefix("backbone."): array for name, array in named.items()}
        wrapper = "network" if found.whole else "model" if found.network.startswith("swin") else ""
    write_variables(target, variables, named, header, dtype, wrapper)


def write_variables(
    target: Path,
    variables: Mapping[str, Any],
    named: Mapping[str, np.ndarray] | None,
    header: Mapping[str, Any],
    dtype: str,
    wrapper: str = "",
) -> None:
    """Write our variables, or what they are in PyTorch (`named`, in a `.pth` under the key `wrapper`, if any), to the
    kind of file that the suffix says. Raises `InputError` if it cannot be written."""
    kind, entries = format_of(target, dtype), stored(leaves_by_path(variables) if named is None else named, dtype)
    if kind == "orbax":
        write_orbax(target, unflatten_dict(entries, sep="/"), header)
    elif kind == "pth":
        write_torch_checkpoint(target, {wrapper: entries} if wrapper else entries)
    else:
        write_arrays(target, kind, entries, header)


def write_orbax(target: Path, variables: Mapping[str, Any], header: Mapping[str, Any]) -> None:
    """Write an Orbax folder. Raises `InputError` if the target is there or cannot be written."""
    import orbax.checkpoint as ocp

    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target}: exists already; name a folder that does not, or remove it")
    parts = {ORBAX_VARIABLES: ocp.args.StandardSave(dict(variables)), ORBAX_HEADER: ocp.args.JsonSave(dict(header))}
    with completed(target, advice="") as partial, ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        checkpointer.save(partial, args=ocp.args.Composite(**parts))
