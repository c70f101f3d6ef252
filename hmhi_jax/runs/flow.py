"""Flow pictures of a data set: by which recipe, with which flow network, on which devices."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import joblib

from hmhi_jax.data.flow import FlowRecipe
from hmhi_jax.data.flow_folder import FlowFormat, make_flow_pictures, missing_flows, read_recipe
from hmhi_jax.data.layouts import open_dataset
from hmhi_jax.errors import InputError
from hmhi_jax.inference.export import ExportedNetwork, is_export
from hmhi_jax.inference.learned_flow import LearnedFlow
from hmhi_jax.interop.weights import load_weights
from hmhi_jax.process import devices_here
from hmhi_jax.progress import frame_progress


def make_flow(
    folder: Path,
    *,
    out: Path | None,
    layout: str | None,
    split: str | None,
    recipe: str | None,
    changes: dict[str, Any],
    flow_weights: str | None,
    dtype: str,
    format: str,
    quality: int,
    workers: int | None,
    devices: int | None,
    overwrite: bool,
) -> bool:
    """Do what `hmhi flow` was asked for; the arguments are its options, `changes` the recipe's fields among them.

    Returns whether all were made. Raises `InputError` for what can be refused before the first picture, and at the end
    if none could be made.
    """
    fields = {name: value for name, value in changes.items() if value is not None}
    chosen, network = _chosen(_recipe(recipe) if recipe else FlowRecipe(), fields, flow_weights, dtype)
    dataset = open_dataset(folder, layout=layout, split=split, flows=out)
    missing = missing_flows(dataset, overwrite)
    frames = sum(len(video) for video in dataset.videos)
    print(f"{folder}: {dataset.layout}, {len(dataset)} videos, {frames} frames, {missing} flow pictures to make")
    estimators = [network.to(device) for device in devices_here(devices)] if network and missing else []
    with frame_progress("flow", missing) as advance:
        problems = make_flow_pictures(
            dataset,
            chosen,
            format=FlowFormat(format, quality),
            workers=workers or joblib.cpu_count(),
            estimators=estimators,
            overwrite=overwrite,
            advance=advance,
        )
    if problems:
        listed = "\n".join(problems)
        text = f"{folder}: {len(problems)} of {missing} flow pictures could not be made:\n{listed}"
        if len(problems) == missing:
            raise InputError(text)
        print(f"error: {text}", file=sys.stderr)
    return not problems


def _recipe(text: str) -> FlowRecipe:
    """A recipe from what was given as `--recipe`: JSON, a file of it, weights or an export."""
    if text.lstrip().startswith("{"):
        return FlowRecipe.from_json(text)
    if text.endswith(".json"):
        return read_recipe(Path(text).expanduser())
    return ExportedNetwork(text).flow_recipe if is_export(text) else load_weights(text).flow_recipe


def _chosen(
    recipe: FlowRecipe, fields: dict[str, Any], flow_weights: str | None, dtype: str
) -> tuple[FlowRecipe, LearnedFlow | None]:
    """The recipe with its changed fields, and the flow network that follows it, if it needs one."""
    estimator = fields.pop("estimator", recipe.estimator)
    iterations = fields.pop("iterations", None)
    if estimator == "dis":
        for option, value in (("--flow-weights", flow_weights), ("--iterations", iterations)):
            if value is not None:
                raise InputError(f"{option} {value}: is for the estimator raft; add '--estimator raft'")
        of_raft = {"network": None, "iterations": None, "weights": None}
        return dataclasses.replace(recipe, estimator="dis", **of_raft, **fields), None
    if "preset" in fields:
        raise InputError(f"--preset {fields['preset']}: is for the estimator dis, not for raft")
    network = LearnedFlow.load(
        flow_weights or recipe.network or "raft_large",
        dataclasses.replace(recipe, **fields),
        iterations=iterations,
        dtype=dtype,
    )
    return network.recipe, network
