"""From recognised weights to a file of another kind."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from hmhi_jax.complete_files import completed
from hmhi_jax.data.flow import FlowRecipe
from hmhi_jax.errors import InputError
from hmhi_jax.interop.identify import Identity
from hmhi_jax.interop.torch_checkpoint_writer import write_torch_checkpoint
from hmhi_jax.interop.torch_weights import encoder_from_torch, from_torch, to_torch
from hmhi_jax.interop.weight_places import METADATA, ORBAX_HEADER, ORBAX_VARIABLES
from hmhi_jax.interop.weights_file import save_weights

FORMATS = ("safetensors", "npz", "pth", "orbax")
_SUFFIXES = {".safetensors": "safetensors", ".npz": "npz", ".pth": "pth", ".pt": "pth", ".bin": "pth", "": "orbax"}


def format_of(target: Path) -> str:
    """The kind of file a name asks for: one of `FORMATS`. Raises `InputError` for a suffix that says nothing."""
    if target.suffix not in _SUFFIXES:
        raise InputError(
            f"{target}: suffix {target.suffix!r} says no format, expected .safetensors, .npz, .pth, or none "
            "for a folder (Orbax)"
        )
    return _SUFFIXES[target.suffix]


def variables_of(identity: Identity) -> dict[str, Any]:
    """Our variables, nested, float32; an encoder alone gives `{"params": {"encoder": ...}}`.

    Raises:
        InputError: if the entries do not fit.
    """
    from flax.traverse_util import unflatten_dict

    from hmhi_jax.models import build_model

    identity.require_fit()
    if identity.source.ours:
        return unflatten_dict({name: _wide(array) for name, array in identity.entries.items()}, sep="/")
    if identity.whole:
        return from_torch(build_model(**identity.model_arguments), identity.entries)
    return encoder_from_torch(identity.backbone, identity.entries, identity.model_arguments.get("flow_adapters"))


def header_of(
    identity: Identity,
    *,
    memory_frames: int | None = None,
    input_size: tuple[int, int] | None = None,
    flow_recipe: FlowRecipe | None = None,
) -> dict[str, Any]:
    """What our files say about themselves: what the source said, else the release's defaults, else what is given.

    Keys: `model`, `input_size`, `flow`, `extra`; see `weights_file`.
    """
    known = identity.source.header
    model = dict(identity.model_arguments)
    if memory_frames is not None:
        model["memory_frames"] = memory_frames
    recipe = flow_recipe or (FlowRecipe.from_json(json.dumps(known["flow"])) if "flow" in known else FlowRecipe())
    extra = dict(known.get("extra", {}))
    if not identity.source.ours:
        extra |= {"converted_from": identity.source.path.name, "publisher": identity.publisher}
    if not identity.whole:
        extra["part"] = "encoder"
    size = input_size or tuple(known.get("input_size", (512, 512)))
    return {"model": model, "input_size": list(size), "flow": json.loads(recipe.to_json()), "extra": extra}


def write_weights(
    identity: Identity,
    target: Path,
    header: Mapping[str, Any],
    *,
    torch_names: bool = False,
    dtype: str = "float32",
) -> None:
    """Write recognised weights to `target`, whose suffix says how (see `format_of`).

    Args:
        header: from `header_of`.
        torch_names: `.safetensors` and `.npz` under PyTorch's names and layout instead of ours; a `.pth` always is.
        dtype: how floating-point arrays are stored: "float32", "bfloat16" or "float16".

    Raises:
        InputError: if the entries do not fit or the target cannot be written; nothing incomplete is left behind.
    """
    kind = format_of(target)
    if kind == "npz" and dtype == "bfloat16":
        raise InputError(f"{target}: NumPy archives cannot hold bfloat16; take float16, or .safetensors")
    variables = variables_of(identity)
    stored = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    if kind == "safetensors" and not torch_names:
        recipe = FlowRecipe.from_json(json.dumps(header["flow"]))
        size = tuple(header["input_size"])
        save_weights(target, variables, header["model"], size, recipe, header["extra"], dtype=dtype)
        return
    if kind == "orbax":
        write_orbax(target, stored_as(variables, stored), header)
        return
    if kind == "npz" and not torch_names:
        from flax.traverse_util import flatten_dict

        entries = flatten_dict(stored_as(variables, stored), sep="/")
    else:
        entries = stored_as(to_torch(identity.backbone, variables), stored)
        if not identity.whole:  # ImageNet files name their entries from the encoder's root
            entries = {name.removeprefix("backbone."): array for name, array in entries.items()}
    if kind == "pth":
        wrapper = "network" if identity.whole else "model" if identity.backbone.startswith("swin") else ""
        write_torch_checkpoint(target, {wrapper: entries} if wrapper else entries)
    else:
        write_named(target, kind, entries, json.dumps(header))


def _wide(array: np.ndarray) -> np.ndarray:
    return array if array.dtype.kind in "iub" else array.astype(np.float32)


def stored_as(tree: Mapping[str, Any], dtype: np.dtype) -> dict[str, Any]:
    """A tree of arrays with its floating-point ones as `dtype`."""

    def converted(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: converted(item) for name, item in value.items()}
        array = np.asarray(value)
        return array if array.dtype.kind in "iub" else array.astype(dtype, copy=False)

    return converted(tree)


def write_named(target: Path, kind: str, entries: Mapping[str, np.ndarray], metadata: str) -> None:
    """Write arrays by name as "safetensors" or "npz", with `metadata` (JSON) beside them. Raises `InputError`."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    try:
        with completed(target) as partial:
            if kind == "safetensors":
                arrays = {name: np.asarray(array, order="C") for name, array in entries.items()}
                save_file(arrays, partial, metadata={"hmhi": metadata})
            else:
                with partial.open("wb") as file:
                    np.savez(file, **{METADATA: np.asarray(metadata)}, **entries)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{target}: cannot be written: {getattr(error, 'strerror', None) or error}") from error


def write_orbax(target: Path, variables: Mapping[str, Any], header: Mapping[str, Any]) -> None:
    """Write an Orbax folder. Raises `InputError` if the target is there or cannot be written."""
    import orbax.checkpoint as ocp

    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target}: exists already; name a folder that does not, or remove it")
    parts = {ORBAX_VARIABLES: ocp.args.StandardSave(dict(variables)), ORBAX_HEADER: ocp.args.JsonSave(dict(header))}
    try:
        with completed(target) as partial, ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
            checkpointer.save(partial, args=ocp.args.Composite(**parts))
    except OSError as error:
        raise InputError(f"{target}: cannot be written: {error.strerror or error}") from error
