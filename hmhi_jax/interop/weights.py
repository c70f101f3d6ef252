"""Weights of a network, read from wherever they lie, checked against it, and written.

    weights = load_weights("small")
    variables = weights.fit(build_model(**weights.model_arguments))

A file of ours is a `.safetensors` that also says which network, input size and flow its weights belong to.
Arrays are named by their path in the variables, joined with '/' ("params/encoder/..."). The file's metadata has one
entry, `hmhi`, a JSON object: `model` (keyword arguments of `build_model`), `input_size` ([height, width] the weights
were trained for), `flow` (a `FlowRecipe`), perhaps `every` (at every so many frames of a video the network looks best)
and `extra` (whatever the writer wants to keep, such as scores). In memory arrays are float32, but for what counts
(steps, flags).
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from flax.traverse_util import unflatten_dict

from hmhi_jax.complete_files import completed
from hmhi_jax.data.flow import FlowRecipe
from hmhi_jax.errors import InputError
from hmhi_jax.interop.shapes import by_module, fit, leaves_by_path, not_finite, variable_shapes
from hmhi_jax.interop.weight_places import METADATA, find_weights
from hmhi_jax.interop.weight_sources import kind_of, read_source, unusable_header
from hmhi_jax.models import HMHINet

STORED = {"float32": np.dtype("float32"), "bfloat16": np.dtype(ml_dtypes.bfloat16), "float16": np.dtype("float16")}


def as_float32(array: np.ndarray) -> np.ndarray:
    """The array in memory; a float32 array stays the one it is."""
    return array if _counts(array) else array.astype(np.float32, copy=False)


def nested_float32(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Our variables, nested, as they are in memory, of arrays by path."""
    return unflatten_dict({name: as_float32(array) for name, array in arrays.items()}, sep="/")


def stored(arrays: Mapping[str, Any], dtype: str) -> dict[str, np.ndarray]:
    """Arrays by name, contiguous, floating-point ones as a type of `STORED`. Raises `InputError` for another."""
    if dtype not in STORED:
        raise InputError(f"dtype is {dtype!r}, expected one of {', '.join(STORED)}")
    numpy = {name: np.asarray(array) for name, array in arrays.items()}
    return {
        name: np.asarray(array, None if _counts(array) else STORED[dtype], order="C") for name, array in numpy.items()
    }


def _counts(array: np.ndarray) -> bool:
    """NumPy does not know bfloat16 as floating, so ask this way round."""
    return array.dtype.kind in "iub"


@dataclasses.dataclass(frozen=True)
class Weights:
    """What a weights file holds.

    model_arguments  keyword arguments of `build_model`
    arrays           path ("params/encoder/...") -> numpy array, float32 but for what counts
    input_size       (height, width) the network was trained for
    flow_recipe      how flow pictures must be made for these weights
    extra            anything else the writer kept
    path             the file
    every            at every so many frames of a video the network looks, unless it is told otherwise
    """

    model_arguments: dict[str, Any]
    arrays: dict[str, np.ndarray]
    input_size: tuple[int, int]
    flow_recipe: FlowRecipe
    extra: dict[str, Any]
    path: Path
    every: int = 1

    @property
    def variables(self) -> dict[str, Any]:
        """`{"params": {...}}` (and `"batch_stats"` for ResNets) as they were found; `fit` gives them checked."""
        return unflatten_dict(self.arrays, sep="/")

    def fit(self, model: HMHINet) -> dict[str, Any]:
        """The variables, if they are those of `model`.

        Raises one `InputError` that lists every missing, left-over and misshapen array, and every one with a number
        that is not finite. Where all of a module's arrays are concerned it is named once, with their number.
        """
        try:
            expected = variable_shapes(model)
        except Exception as error:  # switches of no network: which they are is known to the layers alone
            raise unusable_header(self.path, error) from error
        found = fit(expected, self.arrays)
        broken = not_finite(self.arrays)
        problems = [
            f"{number} {kind}: {', '.join(shown)}"
            for kind, number, shown in (
                ("missing", len(found.missing), by_module(found.missing, expected)),
                ("left over", len(found.unused), by_module(found.unused, self.arrays)),
                ("misshapen", len(found.differing), found.shapes("{name} (found {found}, expected {expected})")),
                ("not finite", len(broken), by_module(broken, self.arrays)),
            )
            if number
        ]
        if problems:
            raise InputError(f"{self.path}: these weights do not fit {model.backbone}; {'; '.join(problems)}")
        return self.variables


def save_weights(
    path: str | Path,
    variables: Mapping[str, Any],
    model_arguments: Mapping[str, Any],
    input_size: tuple[int, int],
    flow_recipe: FlowRecipe,
    extra: Mapping[str, Any] | None = None,
    *,
    every: int = 1,
    dtype: str = "float32",
) -> None:
    """Write `variables` (nested dicts of arrays) and what belongs to them, under a temporary name first.

    `dtype` is how floating-point arrays are stored: "float32", or half the size as "bfloat16" or "float16". Raises
    `InputError` if the file cannot be written.
    """
    header = {
        "model": dict(model_arguments),
        "input_size": list(input_size),
        "flow": flow_recipe.fields(),
        "every": every,
        "extra": dict(extra or {}),
    }
    write_arrays(Path(path), "safetensors", stored(leaves_by_path(dict(variables)), dtype), header)


def write_arrays(path: Path, kind: str, arrays: Mapping[str, np.ndarray], header: Mapping[str, Any]) -> None:
    """Write named arrays and what they say about themselves as "safetensors" or "npz". Raises `InputError`."""
    from safetensors.numpy import save

    text = json.dumps(header, default=lambda value: np.dtype(value).name)  # a model's `dtype` by its name
    with completed(path, advice="") as partial, partial.open("wb") as file:
        if kind == "npz":
            np.savez(file, **{METADATA: np.asarray(text)}, **arrays)
        else:
            file.write(save(dict(arrays), metadata={"hmhi": text}))


def load_weights(name_or_path: str | Path) -> Weights:
    """Read weights that say which network they are of: a `.safetensors` file or what else we write, a shipped name, or
    a folder of training or of `hmhi convert`.

    Of a training run `weights.safetensors` is taken, else the checkpoint that its evaluations found best, else the
    newest one. Raises `InputError` that says what was found instead.
    """
    path = find_weights(name_or_path)
    if kind_of(path) == "torch":
        raise InputError(
            f"{path}: is no readable safetensors file; PyTorch checkpoints go through 'hmhi convert' first"
        )
    source = read_source(path)
    if not source.ours or not source.header:
        raise InputError(
            f"{path}: its metadata has no entry 'hmhi' that names the network, expected a file written by "
            "'hmhi convert' or by training; convert it first"
        )
    lacking = [name for name in ("model", "input_size", "flow") if not source.header.get(name)]
    if lacking and path.is_dir():
        raise InputError(
            f"{path}: this checkpoint does not say the {', '.join(lacking)} of its network; make a weights file of it "
            "with 'hmhi convert', whose --flow, --input-size and --backbone say them"
        )
    try:
        model, size, flow = (source.header[name] for name in ("model", "input_size", "flow"))
    except KeyError as error:
        raise unusable_header(path, error) from error
    arrays = {name: as_float32(array) for name, array in source.entries.items()}
    recipe = FlowRecipe.from_fields(flow)
    every, extra = source.header.get("every", 1), dict(source.header.get("extra", {}))
    return Weights(dict(model), arrays, tuple(size), recipe, extra, path, every)
