"""Flow pictures of a data set: by which recipe, with which flow network, on which devices."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hmhi_jax.data.flow import FlowRecipe
from hmhi_jax.data.flow_pictures import FlowFormat, make_flow_pictures, missing_flows, read_recipe
from hmhi_jax.data.layouts import open_dataset
from hmhi_jax.errors import InputError
from hmhi_jax.progress import frame_progress

if TYPE_CHECKING:
    from hmhi_jax.inference.learned_flow import LearnedFlow


def run(
    dataset: Path,
    out: Path | None,
    *,
    layout: str | None,
    split: str | None,
    recipe: str | None,
    fields: Mapping[str, Any],
    flow_weights: str | None,
    dtype: str,
    format: FlowFormat,
    workers: int | None,
    devices: int | None,
    overwrite: bool,
) -> None:
    """Do what `hmhi flow` was asked for; the arguments are its options, `fields` those that change the recipe's.

    Raises `InputError` for what can be refused before the first picture, and at the end if any could not be made.
    """
    given = recipe_of(recipe) if recipe else FlowRecipe()
    chosen, network = _chosen(given, dict(fields), flow_weights, dtype)
    videos = open_dataset(dataset, layout=layout, split=split, flows=out)
    missing = missing_flows(videos, overwrite)
    frames = sum(len(video) for video in videos.videos)
    print(f"{dataset}: {videos.layout}, {len(videos)} videos, {frames} frames, {missing} flow pictures to make")
    with frame_progress("flow", missing) as advance:
        problems = make_flow_pictures(
            videos,
            chosen,
            format=format,
            workers=workers or os.cpu_count() or 1,
            estimators=_on_devices(network, devices) if network and missing else (),
            overwrite=overwrite,
            advance=advance,
        )
    if problems:
        raise InputError(
            f"{dataset}: {len(problems)} of {missing} flow pictures could not be made:\n" + "\n".join(problems)
        )


def recipe_of(text: str) -> FlowRecipe:
    """A recipe as it is given by hand: JSON, a file of it, or the weights that want it."""
    if text.lstrip().startswith("{"):
        return FlowRecipe.from_json(text)
    if text.endswith(".json"):
        return read_recipe(Path(text).expanduser())
    from hmhi_jax.inference.export import ExportedNetwork, is_export
    from hmhi_jax.interop.weights_file import load_weights

    return ExportedNetwork(text).flow_recipe if is_export(text) else load_weights(text).flow_recipe


def _chosen(
    recipe: FlowRecipe, fields: dict[str, Any], flow_weights: str | None, dtype: str
) -> "tuple[FlowRecipe, LearnedFlow | None]":
    """The recipe with its changed fields, and the flow network that follows it, if it needs one."""
    estimator = fields.pop("estimator", recipe.estimator)
    iterations = fields.pop("iterations", None)
    if estimator not in ("dis", "raft"):
        raise InputError(f"--estimator is {estimator!r}, expected dis or raft")
    if estimator == "dis":
        for option, value in (("--flow-weights", flow_weights), ("--iterations", iterations)):
            if value is not None:
                raise InputError(f"{option} {value}: is for the estimator raft; add '--estimator raft'")
        of_raft = {"network": None, "iterations": None, "weights": None}
        return dataclasses.replace(recipe, estimator="dis", **of_raft, **fields), None
    if "preset" in fields:
        raise InputError(f"--preset {fields['preset']}: is for the estimator dis, not for raft")
    from hmhi_jax.inference.learned_flow import LearnedFlow

    network = LearnedFlow.load(
        flow_weights or recipe.network or "raft_large",
        dataclasses.replace(recipe, **fields),
        iterations=iterations,
        dtype=dtype,
    )
    return network.recipe, network


def _on_devices(network: "LearnedFlow", devices: int | None) -> "Sequence[LearnedFlow]":
    import jax

    there = jax.local_devices()
    if devices is not None and devices > len(there):
        raise InputError(
            f"--devices {devices}: there are {len(there)} here ({there[0].platform}), expected at most that"
        )
    return [network if device == network.device else network.to(device) for device in there[:devices]]
