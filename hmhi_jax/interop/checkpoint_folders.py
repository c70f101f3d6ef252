"""Folders that Orbax wrote: of `hmhi convert`, and the checkpoints of training runs, of which this knows the layout.

A checkpoint is sealed when it is complete, so that damage is known before anything reads it: the seal names every file
with its size and CRC-32. A checkpoint without one (its process was killed between the two, or an older version wrote
it) is only looked at for parts that are missing.
"""

import json
import zlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from hmhi_jax.complete_files import write_text
from hmhi_jax.data.flow import FlowRecipe
from hmhi_jax.errors import InputError, reason_of
from hmhi_jax.interop.weight_places import ORBAX_HEADER, ORBAX_VARIABLES, RUN, STATE, checkpoint_of, read_json

SEAL = "seal.json"
DATA = "data"
PARTS = (STATE, DATA, RUN)


def seal(checkpoint: Path) -> None:
    """Write the seal of a complete checkpoint, unless it has one. Raises `OSError`."""
    if (checkpoint / SEAL).exists():
        return
    files = (path for part in PARTS for path in sorted((checkpoint / part).rglob("*")) if path.is_file())
    marks = {path.relative_to(checkpoint).as_posix(): _mark(path) for path in files}
    write_text(checkpoint / SEAL, json.dumps(marks, indent=0))


def damage(checkpoint: Path) -> str | None:
    """What is wrong with the files of a checkpoint, None if nothing is known to be. Raises `OSError` for a file that is
    there and cannot be read; that says nothing about what is in it."""
    for part in PARTS:
        if not (checkpoint / part).is_dir():
            return f"its part {part} is missing"
    for part in (DATA, RUN):
        if not read_json(checkpoint / part / "metadata"):
            return f"{part}/metadata is missing or no JSON"
    for name, mark in read_json(checkpoint / SEAL).items():
        try:
            found = _mark(checkpoint / name)
        except FileNotFoundError:
            return f"{name} is missing"
        if found != mark:
            was = f"{found[0]:,} bytes instead of {mark[0]:,}" if found[0] != mark[0] else "its checksum differs"
            return f"{name}: {was}"
    return None


def _mark(path: Path) -> list[int]:
    """Size and CRC-32."""
    size = crc = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            size, crc = size + len(block), zlib.crc32(block, crc)
    return [size, crc]


def read_checkpoint(folder: Path) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """What a checkpoint is, for people; its variables, nested, of a run the averaged ones where it keeps them; and what
    it says about itself as the header of a weights file, only what is there. `folder` is what
    `weight_places.checkpoint_of` gives. Raises `InputError` if it cannot be read."""
    if (folder / ORBAX_VARIABLES).is_dir():
        header = read_json(folder / ORBAX_HEADER / "metadata")
        return "hmhi weights (Orbax)", read_arrays(folder / ORBAX_VARIABLES), header
    header = _header_of_run(folder / RUN / "metadata")
    return "training checkpoint (Orbax)", variables_of_state(_state(folder)), header


def variables_of_state(state: dict[str, Any], averaged: bool = True) -> dict[str, Any]:
    """The variables in the stored arrays of a `TrainState`; with the averaged parameters if wanted and kept."""
    params = (state.get("ema") if averaged else None) or state.get("params") or {}
    return {"params": params, **({"batch_stats": state["batch_stats"]} if state.get("batch_stats") else {})}


def read_run(folder: Path) -> tuple[dict[str, Any], Any]:
    """Variables and optimiser state of the newest checkpoint in the folder of a training run. Raises `InputError`."""
    checkpoint = checkpoint_of(folder, newest=True) if folder.is_dir() else None
    if checkpoint is None or not (checkpoint / STATE).is_dir():
        raise InputError(f"{folder}: holds no checkpoints of a training run, so there is no optimiser to keep")
    state = _state(checkpoint)
    return variables_of_state(state, averaged=False), state["opt_state"]


def _state(checkpoint: Path) -> dict[str, Any]:
    """The arrays of a training checkpoint, if its files are what they were."""
    if wrong := damage(checkpoint):
        raise InputError(f"{checkpoint}: is damaged ({wrong}); take another checkpoint of the run, or a weights file")
    return read_arrays(checkpoint / STATE)


def stored_tree(folder: Path) -> Any:
    """The tree of the arrays in one part of a checkpoint: names, shapes and types, nothing is read."""
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        found = reader.metadata(folder.absolute()).item_metadata
    if found is None:
        raise FileNotFoundError(f"{folder}: its list of arrays is missing")
    return found.tree


def read_arrays(folder: Path) -> dict[str, Any]:
    """All arrays in one part of a checkpoint as NumPy, wherever they were computed. Raises `InputError`."""
    try:
        numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), stored_tree(folder))
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            return reader.restore(folder.absolute(), args=ocp.args.PyTreeRestore(restore_args=numpy))
    except Exception as error:  # whatever a damaged file makes the reader raise
        raise InputError(
            f"{folder}: this checkpoint cannot be read ({type(error).__name__}: {reason_of(error)}); take another of "
            "the run, or a weights file"
        ) from error


def _header_of_run(record: Path) -> dict[str, Any]:
    """What a training run notes beside its arrays."""
    run = read_json(record)
    try:
        config = run.get("config", {})
        header = {"model": config.get("model", {})}
        if sizes := config.get("data", {}).get("sizes"):
            header["input_size"] = sizes[-1]
        if "flow_recipe" in run:
            header["flow"] = FlowRecipe.from_json(run["flow_recipe"]).fields()
    except (InputError, AttributeError, LookupError, TypeError) as error:
        raise InputError(f"{record}: is no record of a training run ({error})") from error
    return header
