"""Weights of a network in one `.safetensors` file that also says which network, input size and flow they belong to.

Arrays are named by their path in the variables, joined with '/' ("params/encoder/..."). The file's metadata has one
entry, `hmhi`, a JSON object: `model` (keyword arguments of `build_model`), `input_size` ([height, width] the weights
were trained for), `flow` (a `FlowRecipe`) and `extra` (whatever the writer wants to keep, such as scores).
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hmhi_jax.complete_files import completed
from hmhi_jax.data.flow import FlowRecipe
from hmhi_jax.errors import InputError
from hmhi_jax.interop.weight_places import find_weights
from hmhi_jax.interop.weight_sources import read_source

_STORED = ("float32", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class Weights:
    """What a weights file holds.

    model_arguments  keyword arguments of `build_model`
    variables        `{"params": {...}}` (and `"batch_stats"` for ResNets), nested dicts of float32 numpy arrays
    input_size       (height, width) the network was trained for
    flow_recipe      how flow pictures must be made for these weights
    extra            anything else the writer kept
    path             the file
    """

    model_arguments: dict[str, Any]
    variables: dict[str, Any]
    input_size: tuple[int, int]
    flow_recipe: FlowRecipe
    extra: dict[str, Any]
    path: Path


def save_weights(
    path: str | Path,
    variables: Mapping[str, Any],
    model_arguments: Mapping[str, Any],
    input_size: tuple[int, int],
    flow_recipe: FlowRecipe,
    extra: Mapping[str, Any] | None = None,
    *,
    dtype: str = "float32",
) -> None:
    """Write `variables` (nested dicts of arrays) and what belongs to them, under a temporary name first.

    `dtype` is how floating-point arrays are stored: "float32", or half the size as "bfloat16" or "float16". Raises
    `InputError` if the file cannot be written, `ValueError` for arguments that cannot be stored.
    """
    import ml_dtypes
    from flax.traverse_util import flatten_dict
    from safetensors.numpy import save

    if dtype not in _STORED:
        raise ValueError(f"dtype is {dtype!r}, expected one of {', '.join(_STORED)}")
    stored = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    leaves = {name: np.asarray(leaf) for name, leaf in flatten_dict(dict(variables), sep="/").items()}
    arrays = {
        name: np.asarray(leaf, None if _whole(leaf.dtype) else stored, order="C") for name, leaf in leaves.items()
    }
    header = {
        "model": {name: _plain(value) for name, value in model_arguments.items()},
        "input_size": list(input_size),
        "flow": json.loads(flow_recipe.to_json()),
        "extra": dict(extra or {}),
    }
    path = Path(path)
    try:
        with completed(path) as partial:
            partial.write_bytes(save(arrays, metadata={"hmhi": json.dumps(header)}))  # `save_file` hides it from others
    except OSError as error:
        raise InputError(f"{path}: weights cannot be written ({error.strerror})") from error


def load_weights(name_or_path: str | Path) -> Weights:
    """Read weights: a `.safetensors` file, a shipped name, or a folder of training or of `hmhi convert`.

    In the folder of a training run `weights.safetensors` is taken, else the newest checkpoint.

    Raises `InputError` that says what was found instead.
    """
    path = find_weights(name_or_path)
    header, arrays = _read_checkpoint(path) if path.is_dir() else _read(path)
    floating = {name: array if _whole(array.dtype) else array.astype(np.float32) for name, array in arrays.items()}
    from flax.traverse_util import unflatten_dict

    return Weights(variables=unflatten_dict(floating, sep="/"), path=path, **header)


def check_variables(model: Any, variables: Mapping[str, Any], source: str | Path) -> None:
    """Compare names and shapes of `variables` with what `model` expects; `source` names them in the error.

    Raises one `InputError` that lists every missing, left-over and misshapen entry. Where all of a module's entries
    are concerned it is named once, with their number.
    """
    import jax
    import jax.numpy as jnp
    from flax.traverse_util import flatten_dict

    clip = jax.ShapeDtypeStruct((1, 2, 64, 64, 3), jnp.float32)
    expected, found = (
        {name: np.shape(leaf) for name, leaf in flatten_dict(dict(tree), sep="/").items()}
        for tree in (jax.eval_shape(model.init, jax.random.key(0), clip, clip), variables)
    )
    missing = sorted(set(expected) - set(found))
    left_over = sorted(set(found) - set(expected))
    misshapen = [
        f"{name} (found {found[name]}, expected {expected[name]})"
        for name in sorted(set(expected) & set(found))
        if found[name] != expected[name]
    ]
    problems = [
        f"{len(names)} {kind}: {', '.join(shown)}"
        for kind, names, shown in (
            ("missing", missing, _by_module(missing, set(expected))),
            ("left over", left_over, _by_module(left_over, set(found))),
            ("misshapen", misshapen, misshapen),
        )
        if names
    ]
    if problems:
        raise InputError(f"{source}: these weights do not fit {model.backbone}; {'; '.join(problems)}")


def _read_checkpoint(folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """As `_read`, of an Orbax folder."""
    source = read_source(folder)
    if lacking := [name for name in ("model", "input_size", "flow") if not source.header.get(name)]:
        raise InputError(
            f"{folder}: this checkpoint does not say the {', '.join(lacking)} of its network; make a weights file "
            "of it with 'hmhi convert', whose --flow, --input-size and --backbone say them"
        )
    return _fields(folder, source.header), source.entries


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Fields of `Weights` from the metadata, and the arrays by name as they are stored."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{path}: is no readable safetensors file ({error}); PyTorch checkpoints go through 'hmhi convert' first"
        ) from error
    if "hmhi" not in metadata:
        raise InputError(
            f"{path}: its metadata has no entry 'hmhi' that names the network, expected a file written by "
            "'hmhi convert' or by training; convert it first"
        )
    return _fields(path, metadata["hmhi"]), arrays


def _fields(path: Path, metadata: str | Mapping[str, Any]) -> dict[str, Any]:
    """The metadata, JSON or what it holds, as fields of `Weights`."""
    try:
        header = json.loads(metadata) if isinstance(metadata, str) else metadata
        height, width = header["input_size"]
        fields = {
            "model_arguments": dict(header["model"]),
            "input_size": (int(height), int(width)),
            "extra": dict(header.get("extra", {})),
        }
        flow = header["flow"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: its metadata 'hmhi' cannot be used ({type(error).__name__}: {error}), expected JSON with "
            "'model', 'input_size' and 'flow'"
        ) from error
    try:
        recipe = FlowRecipe.from_json(flow if isinstance(flow, str) else json.dumps(flow))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return {**fields, "flow_recipe": recipe}


def _by_module(names: list[str], universe: set[str], prefix: str = "") -> list[str]:
    """`names` in order, but a module of `universe` whose entries are all among them as one 'module/* (number)'."""
    chosen, shown = set(names), []
    children: dict[str, list[str]] = {}
    for name in names:
        head, slash, _ = name[len(prefix) :].partition("/")
        children.setdefault(prefix + head + slash, []).append(name)
    for child, inside in children.items():
        if not child.endswith("/"):
            shown.append(child)
        elif len(everything := {name for name in universe if name.startswith(child)}) > 1 and everything <= chosen:
            shown.append(f"{child}* ({len(inside)})")
        else:
            shown += _by_module(inside, universe, child)
    return shown


def _whole(dtype: Any) -> bool:
    """Whether a dtype counts (steps, flags). NumPy does not know bfloat16 as floating, so ask this way round."""
    return np.dtype(dtype).kind in "iub"


def _plain(value: Any) -> Any:
    """A model argument as JSON: dtypes by their names."""
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return np.dtype(value).name
