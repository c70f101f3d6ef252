"""From the file of a training config to the programs a run consists of: traced with the shapes of their arguments
(nothing is ever allocated), compiled, and what the compiler says of them written down."""

import ast
import dataclasses
import hashlib
import json
import math
import os
import re
import runpy
import time
from collections import Counter
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from hmhi_jax.complete_files import write_text
from hmhi_jax.data.device_batches import batch_shapes
from hmhi_jax.errors import InputError
from hmhi_jax.inference.functions import functions_of, read_as
from hmhi_jax.inference.network import Programs
from hmhi_jax.interop.shapes import abstract_variables
from hmhi_jax.process import cache_folder
from hmhi_jax.tools.plan.hlo import Collective, Instruction, Program, collectives, parse, program_flops, short_source
from hmhi_jax.tools.plan.topology import Topology
from hmhi_jax.training.assemble import assemble
from hmhi_jax.training.clip_forward import CheckpointPolicy
from hmhi_jax.training.mesh import DATA, SPACE, by_process, check_rows
from hmhi_jax.training.step import make_state


def load_config(path: Path) -> ConfigDict:
    """What `get_config()` of the file gives, or `get_config(ARGUMENT)` of `FILE.py:ARGUMENT`.

    Raises `InputError` for anything else than a training config.
    """
    file, colon, argument = str(path).partition(".py:")
    path = Path(f"{file}.py") if colon else path
    if not path.is_file():
        raise InputError(f"{path}: no such file, expected a config such as configs/ytvos_mit_b1.py")
    try:
        config = runpy.run_path(str(path))["get_config"](*[argument] * bool(colon))
    except KeyError as error:
        raise InputError(f"{path}: has no function get_config, expected a file like those of configs/") from error
    except Exception as error:
        raise InputError(f"{path}: cannot be run ({type(error).__name__}: {error})") from error
    missing = [name for name in ("model", "data", "step", "mesh", "optimiser") if name not in config]
    if missing:
        raise InputError(f"{path}: has no section {', '.join(missing)}, expected a config of a training run")
    return config


def changed(config: ConfigDict, changes: Iterable[str]) -> ConfigDict:
    """The config with "section.field=value" applied, as `--config.section.field=value` does for `train.py`."""
    config = config.copy_and_resolve_references()
    for change in changes:
        field, equals, text = change.partition("=")
        section, _, name = field.rpartition(".")
        where = config
        for part in filter(None, section.split(".")):
            where = where.get(part, None) if isinstance(where, ConfigDict) else None
        if not equals or not isinstance(where, ConfigDict) or name not in where:
            raise InputError(
                f"--set {change}: expected FIELD=VALUE with a field of the config, such as data.batch_size=64"
            )
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = text
        try:
            with where.ignore_type() if isinstance(where[name], tuple | list) else where.unlocked():
                where[name] = value
        except TypeError as error:
            raise InputError(f"--set {change}: {text} is no value for {field} ({error})") from error
    return config


STEPS = 1000  # of a run; only schedules see it, and their shape does not depend on it


def planned_mesh(devices: list[Any], space: int) -> Mesh:
    """The mesh that `training.mesh.make_mesh` would make, of devices that belong to no process here."""
    if space < 1 or len(devices) % space:
        raise InputError(f"config.mesh.space is {space}, expected a divisor of the {len(devices)} chips")
    return Mesh(np.asarray(by_process(devices)).reshape(-1, space), (DATA, SPACE))


def lower_training(config: ConfigDict, mesh: Mesh, batch: int, checkpoint: CheckpointPolicy) -> Any:
    """The training step of `config`, traced for the mesh.

    Args:
        batch: clips of a step over all chips.
        checkpoint: what the backward pass computes again.
    """
    platform = _platform(mesh.devices.flat[0])
    parts = assemble(config, steps=STEPS, platform=platform)
    accumulate = parts.step_arguments["accumulate"]
    data = mesh.shape[DATA] * accumulate
    if batch < 1 or batch % data:
        raise InputError(
            f"a global batch of {batch} clips cannot be split over {mesh.shape[DATA]} chips along mesh.data x "
            f"{accumulate} accumulated parts; expected a multiple of {data}"
        )
    check_rows(parts.sizes[-1][0], mesh)
    ema, variables = config.step.ema_decay > 0, abstract_variables(parts.model)
    state = jax.eval_shape(lambda variables: make_state(variables, parts.optimiser, config.seed, ema), variables)
    arrays = batch_shapes(batch, config.data.frames, parts.sizes[-1])
    step: Any = parts.train_step(mesh, checkpoint=checkpoint)
    return step.trace(state, arrays).lower(lowering_platforms=(platform,))


def lower_inference(config: ConfigDict, devices: list[Any], lanes: int, chunk: int) -> dict[str, Any]:
    """`encode` and `step` of whole data sets: every chip works on `lanes` videos of its own.

    Args:
        lanes: videos a chip works on at once.
        chunk: frames of a video that are encoded together.

    Returns traced programs by name: "encode" of one chunk of all lanes, "step" of one frame of all lanes.
    """
    platform = _platform(devices[0])
    parts = assemble(config, steps=STEPS, platform=platform)
    model: Any = parts.evaluated_model
    functions = functions_of(model)
    programs = Programs(functions, devices, lanes)
    variables = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=programs.replicated),
        read_as(functions, abstract_variables(model), devices),
    )
    size = parts.sizes[-1]
    pictures = programs.pictures(size, chunk)
    features, memory = programs.features_and_memory(variables, size, chunk)
    arguments = {"encode": (pictures, pictures), "step": (memory, features)}
    return {
        name: programs.jitted[name].trace(variables, *own).lower(lowering_platforms=(platform,))
        for name, own in arguments.items()
    }


def _platform(device: Any) -> str:
    """The name lowering knows: devices that were made up without a GPU call themselves "gpu"."""
    return {"gpu": "cuda"}.get(device.platform, device.platform)


_KINDS = ("argument", "output", "alias", "temp", "generated_code")
_FORMAT = 3  # of stored measurements; to be raised when what they hold, or how it is counted, changes
_REFUSED = re.compile(r"Used ([\d.]+)([KMG]?) of ([\d.]+)([KMG]?) (?:hbm|HBM)", re.IGNORECASE)
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}


@dataclasses.dataclass(frozen=True)
class Measured:
    """One compiled program, on one chip.

    Attributes:
        memory: bytes by kind: argument, output, alias (outputs that lie in arguments), temp, generated_code; empty if
            the compiler refused the program for want of memory.
        needed: bytes in all, aliased ones once; None where the compiler refused without a number.
        refused: the compiler found no room.
        flops: of matrix products and convolutions, in a step, recomputation included.
        seconds: the compiler's estimate (see `estimate`), None where it gives none.
        sorting: part of `seconds` spent in sorts, by this package's bound.
        places: (place in the model, seconds), the largest first.
        collectives: everything exchanged with other chips.
        unknown_loops: loops whose length depends on data; counted once.
        compile_seconds: what compiling took.
    """

    memory: dict[str, int]
    needed: int | None
    refused: bool
    flops: float
    seconds: float | None
    sorting: float | None
    places: list[tuple[str, float]]
    collectives: list[Collective]
    unknown_loops: int
    compile_seconds: float

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "Measured":
        rows = [Collective(**row) for row in fields["collectives"]]
        places = [(place, seconds) for place, seconds in fields["places"]]
        known: dict[str, Any] = {**fields, "collectives": rows, "places": places}
        return cls(**known)


def measure(lowered: Any, topology: Topology, mesh: dict[str, int]) -> Measured:
    """Compile, or take what an earlier compilation of the same program by the same compiler left in the cache."""
    stored = _stored_at(lowered, topology)
    if stored.exists():
        return Measured.from_json(json.loads(stored.read_text(encoding="utf-8")))
    measured = _compile(lowered, topology, mesh)
    write_text(stored, json.dumps(dataclasses.asdict(measured)))
    return measured


def _compile(lowered: Any, topology: Topology, mesh: dict[str, int]) -> Measured:
    begin = time.perf_counter()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if not (match := _REFUSED.search(str(error))) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        wanted = int(float(match[1]) * _UNITS[match[2].upper()]) if match else None
        return Measured({}, wanted, True, 0.0, None, None, [], [], 0, time.perf_counter() - begin)
    spent = time.perf_counter() - begin
    stats = compiled.memory_analysis()
    memory = {kind: int(getattr(stats, f"{kind}_size_in_bytes")) for kind in _KINDS}
    needed = sum(memory.values()) - 2 * memory["alias"]
    program = parse(compiled.as_text())
    seconds, sorting, places = estimate(program, topology.chip.clock) if topology.chip.clock else (None, None, [])
    return Measured(
        memory=memory,
        needed=needed,
        refused=False,
        flops=program_flops(program),
        seconds=seconds,
        sorting=sorting,
        places=places[:40],
        collectives=collectives(program, mesh),
        unknown_loops=len(program.unknown_loops()),
        compile_seconds=round(spent, 1),
    )


_LANES = 1024  # elements a vector register holds, of 32 bits
_OPERATIONS = 8  # of a compare-exchange of two keys and values, at two a cycle


def estimate(program: Program, clock: float) -> tuple[float | None, float | None, list[tuple[str, float]]]:
    """Seconds in all, of sorts (part of them), and by place in the model, the largest first; None where the compiler
    notes no cycles (other platforms than TPU).

    The TPU compiler notes estimated cycles, `clock` of them a second, with most instructions. Its figure for a whole
    program is of no use (it counts the body of a loop once), so they are added up here, times the turns of loops. Sorts
    and copies between memories carry none: sorts are bounded by their comparisons, copies are taken to overlap.
    """
    places: Counter[str] = Counter()
    sorting = noted = 0
    for instruction, _, times in program.executed():
        if cycles := instruction.attribute(r'estimated_cycles":"(\d+)"'):
            noted += 1
            spent = int(cycles) * times
        elif instruction.opcode == "sort":
            spent = sort_cycles(instruction) * times
            sorting += spent
        else:
            continue
        place = "/".join(short_source(instruction.source).split("/")[:-1][:3])
        places[place or instruction.opcode] += spent
    if not noted:
        return None, None, []
    total = sum(places.values())
    return total / clock, sorting / clock, [(place, spent / clock) for place, spent in places.most_common()]


def sort_cycles(instruction: Instruction) -> int:
    """Cycles that a bitonic sort along one axis, padded to a power of two, takes at least."""
    shape = instruction.shapes[0]
    axis = int(instruction.attribute(r"dimensions=\{(\d+)\}") or 0)
    length = 1 << max(1, math.ceil(math.log2(max(2, shape.sizes[axis]))))
    stages = int(math.log2(length)) * (int(math.log2(length)) + 1) // 2
    elements = shape.elements // shape.sizes[axis] * length
    return stages * elements * _OPERATIONS // (2 * 2 * _LANES)


def _stored_at(lowered: Any, topology: Topology) -> Path:
    versions = []
    for package in ("jax", "jaxlib", "libtpu", "jax-cuda12-plugin"):
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    flags = [os.environ.get(name, "") for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")]
    content = "\n".join([str(_FORMAT), str(topology), *versions, *flags, lowered.as_text()])
    return cache_folder() / "plans" / f"{hashlib.sha256(content.encode()).hexdigest()[:32]}.json"
