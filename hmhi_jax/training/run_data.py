"""The batches of a run: from `config.data` to clips on devices."""

import importlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from hmhi_jax.data.augmentation import Augmentation
from hmhi_jax.data.clips import ClipSampling
from hmhi_jax.data.device_batches import DeviceBatches, batch_shardings
from hmhi_jax.data.flow import FlowRecipe
from hmhi_jax.data.flow_pictures import RECIPE_FILE, flow_recipe_of
from hmhi_jax.data.inspection import check_for_training
from hmhi_jax.data.layouts import Dataset
from hmhi_jax.data.mixture import Source, entries_of, open_sources
from hmhi_jax.data.pipeline import ClipPipeline, PipelineConfig
from hmhi_jax.errors import InputError
from hmhi_jax.training.loop import Batches

Rendered = Sequence[tuple[Dataset, int, FlowRecipe]]  # data set, repeats, how its flow pictures are made


@dataclass(frozen=True)
class Data:
    """The batches of a run, how many clips an epoch has (0: not known), and how their flow pictures were made."""

    batches: Batches
    clips_per_epoch: int
    flow_recipe: FlowRecipe


def open_data(config: ConfigDict, mesh: Mesh, rendered: Rendered = ()) -> Data:
    """The batches `config.data` describes, for this process. `rendered`: data sets, with repeats and flow recipe, that
    are trained on besides `config.data.sources` and need no looking through."""
    if config.data.make:
        batches = _function(config.data.make)(config, mesh)
        return Data(batches, getattr(batches, "clips_per_epoch", 0), FlowRecipe())
    opened = open_sources(sources_of(config)) if config.data.sources or not rendered else []
    datasets = [(checked(dataset, config.data.skip_bad), repeats) for dataset, repeats in opened]
    recipes = {dataset.name: recipe for dataset, _ in datasets if (recipe := flow_recipe_of(dataset))}
    recipes |= {dataset.name: recipe for dataset, _, recipe in rendered}
    datasets += [(dataset, repeats) for dataset, repeats, _ in rendered]
    pipeline = ClipPipeline(
        entries_of(datasets), pipeline_config(config), shard=jax.process_index(), shards=jax.process_count()
    )
    batches = DeviceBatches(pipeline, batch_shardings(mesh))
    recipe = FlowRecipe() if config.data.generate else flow_recipe(recipes)
    return Data(batches, pipeline.clips_per_epoch, recipe)


def checked(dataset: Dataset, skip_bad: bool) -> Dataset:
    """The data set, if pictures, flow and masks are there; or, warned about, without the videos where they are not."""
    good, left_out = check_for_training(dataset, skip_bad=skip_bad)
    for problem in left_out:
        logging.getLogger(__name__).warning("%s: left out, %s", dataset.name, problem)
    return good


def sources_of(config: ConfigDict) -> list[Source]:
    """The data sets of `config.data.sources`, with paths from `config.data.root` on."""
    entries, fields = config.data.sources, ", ".join(Source.__dataclass_fields__)
    if not entries:
        raise InputError("config.data.sources is empty, expected at least one data set; see docs/training.md")
    if not isinstance(entries, tuple | list) or not all(isinstance(entry, Mapping) for entry in entries):
        raise InputError(f"config.data.sources is {entries}, expected a tuple of data sets: ({{'path': 'DAVIS'}},)")
    root, sources = Path(config.data.root).expanduser(), []
    for i, entry in enumerate(entries):
        where = f"config.data.sources[{i}]"
        if unknown := set(entry) - set(Source.__dataclass_fields__):
            raise InputError(f"{where}: unknown {', '.join(sorted(unknown))}, expected {fields}")
        if "path" not in entry:
            raise InputError(f"{where}: has no path, expected {fields}")
        if not isinstance(repeats := entry.get("repeats", 1), int) or repeats < 0:
            raise InputError(f"{where}.repeats is {repeats!r}, expected a whole number, 0 or more")
        sources.append(Source(**{**entry, "path": root / Path(entry["path"]).expanduser()}))
    return sources


def flow_recipe(known: Mapping[str, FlowRecipe]) -> FlowRecipe:
    """How the flow pictures of a mixture were made, from what is known of its data sets, by name; weights trained on
    them want the same when they are used."""
    log = logging.getLogger(__name__)
    if not known:
        log.warning("how the flow pictures were made is not known (no %s beside them); default assumed", RECIPE_FILE)
        return FlowRecipe()
    name, recipe = next(iter(known.items()))
    others = [other for other, its in known.items() if its != recipe]
    if others:
        log.warning("flow pictures of %s were made in another way than those of %s", ", ".join(others), name)
    return recipe


def sizes_of(config: ConfigDict) -> tuple[tuple[int, int], ...]:
    """`config.data.sizes` as (height, width) pairs."""
    sizes = config.data.sizes
    if not sizes or not all(isinstance(size, tuple | list) and len(size) == 2 for size in sizes):
        raise InputError(f"config.data.sizes is {sizes}, expected (height, width) pairs such as ((512, 512),)")
    return tuple((int(height), int(width)) for height, width in sizes)


def pipeline_config(config: ConfigDict) -> PipelineConfig:
    """Settings of the data pipeline out of `config.data`."""
    d = config.data
    return PipelineConfig(
        batch_size=d.batch_size,
        sizes=sizes_of(config),
        seed=config.seed,
        sampling=ClipSampling(frames=d.frames, reach=d.reach, among=d.among),
        augmentation=Augmentation(
            flip=d.flip,
            photometric=d.photometric,
            hue=d.hue,
            per=d.augment_per,
            crop=tuple(d.crop) if d.crop else None,
            still=d.still,
            no_flow=d.no_flow,
            other_flow=d.other_flow,
            flow_noise=d.flow_noise,
        ),
        reading=d.reading,
        on_corrupt=d.on_corrupt,
        workers=d.workers,
        threads=d.threads,
        buffer=d.buffer,
    )


def _function(name: str) -> Any:
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"config.data.make is {name!r}, expected 'module:function' ({error})") from error
