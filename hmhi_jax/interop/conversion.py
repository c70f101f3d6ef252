"""From recognised weights to a file of another kind."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import unflatten_dict

from hmhi_jax.complete_files import completed
from hmhi_jax.data.flow import FlowRecipe
from hmhi_jax.errors import InputError
from hmhi_jax.interop.fit import leaves_by_path
from hmhi_jax.interop.identify import Identity
from hmhi_jax.interop.torch_checkpoint_writer import write_torch_checkpoint
from hmhi_jax.interop.torch_weights import encoder_from_torch, from_torch, to_torch
from hmhi_jax.interop.weight_places import ORBAX_HEADER, ORBAX_VARIABLES
from hmhi_jax.interop.weights import nested_float32, stored, write_arrays
from hmhi_jax.models import build_model

FORMATS = ("safetensors", "npz", "pth", "orbax")
_SUFFIXES = {".safetensors": "safetensors", ".npz": "npz", ".pth": "pth", ".pt": "pth", ".bin": "pth", "": "orbax"}


def format_of(target: Path, dtype: str = "float32") -> str:
    """The kind of file a name asks for: one of `FORMATS`. Raises `InputError` for a suffix that says nothing, or a kind
    that cannot hold arrays of that type."""
    if target.suffix not in _SUFFIXES:
        raise InputError(
            f"{target}: suffix {target.suffix!r} says no format, expected .safetensors, .npz, .pth, or none "
            "for a folder (Orbax)"
        )
    kind = _SUFFIXES[target.suffix]
    if kind == "npz" and dtype == "bfloat16":
        raise InputError(f"{target}: NumPy archives cannot hold bfloat16; take float16, or .safetensors")
    return kind


def variables_of(identity: Identity) -> dict[str, Any]:
    """Our variables, nested, float32; an encoder alone gives `{"params": {"encoder": ...}}`.

    Raises:
        InputError: if the entries do not fit.
    """
    identity.require_fit()
    if identity.source.ours:
        return nested_float32(identity.entries)
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

    Keys: `model`, `input_size`, `flow`, `extra`; see `weights`.
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
    kind = format_of(target, dtype)
    variables, named, wrapper = variables_of(identity), None, ""
    if kind == "pth" or (torch_names and kind != "orbax"):
        try:
            named = to_torch(identity.backbone, variables)
        except KeyError:
            raise InputError(
                f"{target}: PyTorch has no names for {identity.backbone}; write our own: .safetensors, .npz or a "
                "folder, with --names ours"
            ) from None
        if not identity.whole:  # ImageNet files name their entries from the encoder's root
            named = {name.removeprefix("backbone."): array for name, array in named.items()}
        wrapper = "network" if identity.whole else "model" if identity.backbone.startswith("swin") else ""
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
    try:
        with completed(target) as partial, ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
            checkpointer.save(partial, args=ocp.args.Composite(**parts))
    except OSError as error:
        raise InputError(f"{target}: cannot be written: {error.strerror or error}") from error
