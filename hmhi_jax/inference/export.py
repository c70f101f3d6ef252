"""The network as compiled-to-be programs (StableHLO) that run without this package's model code.

An export is a folder:

    export.json           what it is: sizes, platforms, the model's arguments, the flow recipe, the order of parameters
    encode.stablehlo      (frames, flows) uint8 [B, H, W, 3] each  ->  four feature maps [B, h, w, C]
    start.stablehlo       (features)          ->  (memory, logits [B, H, W, 1])
    step.stablehlo        (memory, features)  ->  (memory, logits)
    weights.safetensors   only if parameters lie beside: each program then takes them first, as {name: array}

Features are a tuple; the memory is a dict of arrays. Both are handed in and back, nothing is hidden in the programs.
"""

import hashlib
import json
import shutil
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import export as jax_export
from jaxtyping import Array, Float, UInt8

from hmhi_jax.complete_files import completed
from hmhi_jax.data.flow import FlowRecipe
from hmhi_jax.data.preprocessing import checked_every, checked_size
from hmhi_jax.errors import InputError, reason_of
from hmhi_jax.inference.functions import Functions, functions_of
from hmhi_jax.interop.shapes import not_finite
from hmhi_jax.models import Features, HMHINet, Memory, build_model
from hmhi_jax.models.hmhi_net import check_switches
from hmhi_jax.models.memory import Bank

HEADER, WEIGHTS = "export.json", "weights.safetensors"
PROGRAMS = ("encode", "start", "step")
PLATFORMS = ("cpu", "cuda", "tpu")
FORMAT = 1


def memory_to_dict(memory: Memory) -> dict[str, Any]:
    """Plain containers: `{"written": int32, "shallow": {"keys", "values"}, "deep": {...}}`; a bank that is off has no
    entry."""
    banks = {"shallow": memory.shallow, "deep": memory.deep}
    stored = {name: {"keys": bank.keys, "values": bank.values} for name, bank in banks.items() if bank is not None}
    return {**stored, "written": memory.written}


def memory_from_dict(stored: Mapping[str, Any]) -> Memory:
    """The inverse of `memory_to_dict`."""
    banks = (Bank(**stored[name]) if name in stored else None for name in ("shallow", "deep"))
    return Memory(*banks, stored["written"])


def programs(model: HMHINet) -> dict[str, Any]:
    """The three functions, on plain containers, with the flat parameters first."""
    functions = functions_of(model)

    def encode(parameters, frames: UInt8[Array, "B H W 3"], flows: UInt8[Array, "B H W 3"]) -> Features:
        """One frame each of B videos: to the encoder, B frames of one."""
        each = functions.encode(unflatten_dict(parameters, sep="/"), frames, flows)
        return jax.tree.map(lambda *maps: jnp.concatenate(maps), *each)

    def start(parameters, features):
        memory, logits = functions.start(unflatten_dict(parameters, sep="/"), features)
        return memory_to_dict(memory), logits

    def step(parameters, memory, features):
        memory, logits = functions.step(unflatten_dict(parameters, sep="/"), memory_from_dict(memory), features)
        return memory_to_dict(memory), logits

    return {"encode": encode, "start": start, "step": step}


def write_export(
    folder: str | Path,
    model_arguments: Mapping[str, Any],
    variables: Mapping[str, Any],
    *,
    size: tuple[int, int],
    flow_recipe: FlowRecipe,
    every: int = 1,
    batch: int = 1,
    platforms: Sequence[str] = PLATFORMS,
    parameters_inside: bool = True,
) -> Path:
    """Write an export folder, under a temporary name until it is whole.

    Args:
        folder: must not exist, or be an export, which is replaced.
        model_arguments: keyword arguments of `build_model`; `dtype` a name.
        variables: the network's variables.
        size: (height, width) of the programs' inputs, multiples of 32.
        flow_recipe: how flow pictures must be made for these weights.
        every: at every so many frames of a video the network looks, unless it is told otherwise.
        batch: videos that go through together.
        platforms: out of cpu, cuda, rocm, tpu; one file serves all of them.
        parameters_inside: as constants of each program, or once beside them.

    Raises:
        InputError: if the folder is something else, or cannot be written.
    """
    folder = Path(folder)
    if folder.exists() and not (folder / HEADER).is_file():
        raise InputError(f"{folder}: exists and is no export (no {HEADER} in it); choose another folder")
    model = build_model(**model_arguments)
    parameters = {name: np.asarray(leaf) for name, leaf in flatten_dict(dict(variables), sep="/").items()}
    serialized = _serialized(model, parameters, size, batch, platforms, parameters_inside)
    header = {
        "format": FORMAT,
        "model": {"dtype": "float32", **model_arguments},
        "input_size": list(size),
        "batch": batch,
        "platforms": list(platforms),
        "parameters": "inside" if parameters_inside else "beside",
        "flow": flow_recipe.fields(),
        "every": every,
        "jax": jax.__version__,
    }
    with completed(folder, advice="make room, or choose another folder") as partial:
        partial.mkdir()
        for name, data in serialized.items():
            (partial / f"{name}.stablehlo").write_bytes(data)
        if not parameters_inside:
            from safetensors.numpy import save_file

            save_file(parameters, partial / WEIGHTS)
        (partial / HEADER).write_text(json.dumps(header, indent=2) + "\n")
        if folder.exists():
            shutil.rmtree(folder)
    return folder


def _serialized(
    model: HMHINet,
    parameters: dict[str, np.ndarray],
    size: tuple[int, int],
    batch: int,
    platforms: Sequence[str],
    inside: bool,
) -> dict[str, bytes]:
    functions = programs(model)
    picture = jax.ShapeDtypeStruct((batch, *size, 3), jnp.uint8)
    features = jax.eval_shape(functions["encode"], parameters, picture, picture)
    memory, _ = jax.eval_shape(functions["start"], parameters, features)
    inputs = {"encode": (picture, picture), "start": (features,), "step": (memory, features)}

    def serialize(name: str) -> bytes:
        function, arguments = functions[name], inputs[name]
        if inside:
            constants = jax.tree.map(jnp.asarray, parameters)
            jitted = jax.jit(lambda *arguments: function(constants, *arguments))
        else:
            jitted = jax.jit(function)
            arguments = (jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), parameters), *arguments)
        return bytes(jax_export.export(jitted, platforms=list(platforms))(*arguments).serialize())

    return {name: serialize(name) for name in PROGRAMS}


class ExportedNetwork:
    """An export that was read.

    Attributes:
        header: the contents of export.json.
        input_size, flow_recipe, every: what frames and flow pictures must be, and at how many of them to look.
        variables: what its functions take first; empty where parameters are inside.
        functions: what a `Network` runs.
    """

    def __init__(self, folder: str | Path) -> None:
        """Raises `InputError` for a folder that is no readable export."""
        self.folder = Path(folder)
        try:
            self.header = json.loads((self.folder / HEADER).read_text())
            self.input_size = checked_size(self.header["input_size"])
            check_switches({name: value for name, value in self.header["model"].items() if name != "dtype"})
            self.flow_recipe = FlowRecipe.from_fields(self.header["flow"])
            self.every = checked_every(self.header.get("every", 1))
            if self.header["format"] != FORMAT:
                raise ValueError(f"format {self.header['format']}, expected {FORMAT}")
            contents = {name: (self.folder / f"{name}.stablehlo").read_bytes() for name in PROGRAMS}
            self._programs = {name: _program(name, content) for name, content in contents.items()}
            taken, said = self._programs["encode"].in_avals[-1].shape, (self.header["batch"], *self.input_size, 3)
            if taken != said:
                raise ValueError(f"its programs take pictures of {taken}, batch and input_size say {said}")
            self.variables = {}
            if self._takes_parameters():
                from safetensors.numpy import load_file

                self.variables = load_file(self.folder / WEIGHTS)
                if broken := not_finite(self.variables):
                    raise ValueError(f"{len(broken)} of its arrays are not finite, first {broken[0]}")
            self.functions = Functions(self._encode, self._start, self._step, what=_digest(contents))
        except Exception as error:  # the decoders of programs raise whatever they meet
            raise InputError(f"{self.folder}: is no readable export ({error}); make one with 'hmhi export'") from error

    def require(self, platform: str, **asked: Any) -> None:
        """Raise `InputError` if something is asked for (not None) that was fixed otherwise when the export was made:
        `size`, `memory_frames`, `backbone`, `dtype` or `chunk`.

        `platform` is that of the device it is to run on, as JAX calls it ("cpu", "gpu", "tpu").
        """
        platforms = self._programs["encode"].platforms
        if not {"gpu": {"cuda", "rocm"}}.get(platform, {platform}).intersection(platforms):
            raise InputError(
                f"{self.folder}: was made for {', '.join(platforms)}, this is a {platform}; "
                "export the weights anew, with --platforms"
            )
        model = self.header["model"]
        fixed = {
            "size": self.input_size, "memory_frames": model.get("memory_frames", 3), "backbone": model.get("backbone"),
            "dtype": model.get("dtype", "float32"), "batch": self.header["batch"], "chunk": 1,
        }  # fmt: skip
        for name, wanted in (*asked.items(), ("batch", 1)):
            if wanted not in (None, fixed[name]):
                raise InputError(
                    f"{self.folder}: {name} is {fixed[name]} in this export, {wanted} is asked for; export the weights "
                    "anew"
                )

    def _encode(
        self, variables: Any, frames: UInt8[Array, "T H W 3"], flows: UInt8[Array, "T H W 3"]
    ) -> tuple[Features, ...]:
        each = range(frames.shape[0])
        return tuple(self._call("encode", variables, frames[t : t + 1], flows[t : t + 1]) for t in each)

    def _start(self, variables: Any, features: Features) -> tuple[Memory, Float[Array, "1 H W 1"]]:
        memory, logits = self._call("start", variables, features)
        return memory_from_dict(memory), logits

    def _step(self, variables: Any, memory: Memory, features: Features) -> tuple[Memory, Float[Array, "1 H W 1"]]:
        memory, logits = self._call("step", variables, memory_to_dict(memory), features)
        return memory_from_dict(memory), logits

    def _call(self, name: str, variables: Any, *arguments: Any) -> Any:
        own = (variables,) if self._takes_parameters() else ()
        try:
            return self._programs[name].call(*own, *arguments)
        except ValueError as error:  # another network's program, or arrays
            raise InputError(
                f"{self.folder}: {name}.stablehlo, {WEIGHTS} and the others do not belong together "
                f"({reason_of(error)}); export the weights anew"
            ) from error

    def _takes_parameters(self) -> bool:
        """Whether they lie beside the programs: else those take pictures alone."""
        return len(self._programs["encode"].in_avals) > 2


def _program(name: str, content: bytes) -> jax_export.Exported:
    try:
        return jax_export.deserialize(bytearray(content))
    except struct.error as error:
        raise ValueError(f"{name}.stablehlo is cut off: {error}") from error


def _digest(contents: dict[str, bytes]) -> str:
    """Says all that the programs compute; whether they take parameters, their arguments show."""
    return "export " + " ".join(hashlib.sha256(content).hexdigest() for content in contents.values())


def is_export(path: str | Path) -> bool:
    """Whether a path is an export folder."""
    return (Path(path) / HEADER).is_file()
