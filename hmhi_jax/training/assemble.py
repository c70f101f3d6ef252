"""From a config to the parts of a run, among them the batches: from `config.data` to clips on devices."""

import importlib
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import jax
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from hmhi_jax import kept_programs
from hmhi_jax.data.augmentation import Augmentation
from hmhi_jax.data.clips import ClipSampling
from hmhi_jax.data.device_batches import DeviceBatches, batch_shardings
from hmhi_jax.data.flow import FlowRecipe
from hmhi_jax.data.flow_folder import RECIPE_FILE, flow_recipe_of
from hmhi_jax.data.inspection import check_for_training
from hmhi_jax.data.layouts import Dataset, Source, entries_of, open_sources
from hmhi_jax.data.pipeline import ClipPipeline, PipelineConfig
from hmhi_jax.data.preprocessing import checked_size
from hmhi_jax.errors import InputError
from hmhi_jax.interop.shapes import abstract_variables
from hmhi_jax.models import HMHINet, build_model
from hmhi_jax.models.backbones import described
from hmhi_jax.models.hmhi_net import check_switches
from hmhi_jax.training.clip_forward import CheckpointPolicy
from hmhi_jax.training.config import check_initialisation, check_values
from hmhi_jax.training.loop import Batches, Schedule
from hmhi_jax.training.mesh import DATA, check_rows
from hmhi_jax.training.optimiser import BACKBONE, check_patterns, learning_rate_schedule, make_optimiser
from hmhi_jax.training.step import Batch, TrainState, make_train_step

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
    try:
        return tuple(map(checked_size, sizes))
    except InputError as error:
        raise InputError(f"config.data.sizes: {error}") from error


def pipeline_config(config: ConfigDict) -> PipelineConfig:
    """Settings of the data pipeline out of `config.data`."""
    d = config.data
    changes = {name: d[name] for name in ("flip", "photometric", "hue", "still", "no_flow", "other_flow", "flow_noise")}
    reading = {name: d[name] for name in ("batch_size", "reading", "on_corrupt", "workers", "threads", "buffer")}
    return PipelineConfig(
        sizes=sizes_of(config),
        seed=config.seed,
        sampling=ClipSampling(d.frames, d.reach, d.among),
        augmentation=Augmentation(per=d.augment_per, crop=_crop_of(config), **changes),
        **reading,
    )


def _crop_of(config: ConfigDict) -> tuple[float, float] | None:
    crop = config.data.crop
    if crop is None:
        return None
    if not isinstance(crop, tuple | list) or len(crop) != 2 or not all(isinstance(x, int | float) for x in crop):
        raise InputError(f"config.data.crop is {crop!r}, expected two shares of the area such as (0.3, 1.0), or None")
    return tuple(crop)


def _function(name: str) -> Any:
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"config.data.make is {name!r}, expected 'module:function' ({error})") from error


@dataclass(frozen=True)
class Parts:
    """What a run is made of.

    Attributes:
        model: the network that is trained.
        evaluated_model: the same with the memory it has in validation.
        optimiser: and `learning_rate`, its rate by step.
        step_arguments: of `make_train_step`.
        sizes: (height, width) of the clips, one after the other; the last one is that of inference.
        when: what happens at which step.
        data: the batches; None where none were asked for.
        network: says, together with this package's sources, all that `model` computes (see `kept_programs`); or None.
        what: the same of the step.
    """

    model: HMHINet
    evaluated_model: HMHINet
    optimiser: optax.GradientTransformation
    learning_rate: optax.Schedule
    step_arguments: dict[str, Any]
    sizes: tuple[tuple[int, int], ...]
    when: Schedule
    data: Data | None
    network: str | None = None
    what: str | None = None

    def train_step(self, mesh: Mesh, **changes: Any) -> Callable[..., Any]:
        """The compiled step on a mesh; `changes` to `step_arguments`."""
        return make_train_step(self.model, self.optimiser, self.learning_rate, mesh, **self.step_arguments | changes)

    def step_compiler(self, mesh: Mesh) -> Callable[[TrainState, Batch], jax.stages.Compiled]:
        """What gives the step's program for a state and a batch of given shapes, on a mesh."""

        def program(state: TrainState, batch: Batch) -> jax.stages.Compiled:
            return kept_programs.program(
                self.what and f"{self.what} {mesh}", (state, batch), lambda: self.train_step(mesh).lower(state, batch),
                list(mesh.devices.flat),
            )  # fmt: skip

        return program


def assemble(
    config: ConfigDict,
    mesh: Mesh | None = None,
    rendered: Rendered = (),
    *,
    steps: int | None = None,
    platform: str | None = None,
) -> Parts:
    """The parts of the run that a config describes.

    Args:
        mesh: where it trains; data is opened for this process, and belongs to the caller to close. None opens none.
        rendered: data sets that are trained on besides those of the config, see `open_data`.
        steps: its length, where the config's is of no interest; without it, epochs are counted in the data opened.
        platform: that it trains on; None: the one that runs this.

    Raises `InputError` for a field that cannot be used, with its name.
    """
    check_values(config)
    sizes = sizes_of(config)
    if mesh is not None:
        check_devices(config, mesh)
    model = model_of(config)
    check_initialisation(config.initialisation)
    arguments = step_arguments(config, platform)
    data = None if mesh is None else open_data(config, mesh, rendered)
    try:
        clips = 0 if data is None else data.clips_per_epoch
        total, evaluate_every = (steps, 0) if steps is not None else steps_of(config, clips)
        optimiser, learning_rate = optimiser_of(config, total)
        if config.optimiser.frozen:
            params = abstract_variables(model)["params"]
            check_patterns(params, {"config.optimiser.frozen": tuple(config.optimiser.frozen)})
        when = Schedule(total, config.checkpoints.every_steps, evaluate_every, config.logging.every_steps)
        backbone = described(model.backbone)
        network = backbone and f"{backbone} {model}"
        length = None if config.optimiser.schedule == "constant" else total  # which such a schedule knows nothing of
        what = network and f"step {network} {config.optimiser.to_json()} {length} {arguments}"
        return Parts(
            model, evaluated(config, model), optimiser, learning_rate, arguments, sizes, when, data, network, what
        )
    except BaseException:
        if data is not None:
            data.batches.close()
        raise


def model_of(config: ConfigDict) -> HMHINet:
    """The network of `config.model`."""
    arguments = config.model.to_dict()
    try:
        return build_model(**arguments)
    except (TypeError, ValueError) as error:
        raise InputError(f"config.model: {error}") from error


def evaluated(config: ConfigDict, model: HMHINet) -> HMHINet:
    """The network as validation runs it."""
    capacity = config.evaluation.memory_frames
    if capacity is None:
        return model
    try:
        check_switches({"memory_frames": capacity})
    except ValueError as error:
        raise InputError(f"config.evaluation.{error}") from error
    return model.clone(memory_frames=capacity)


def optimiser_of(config: ConfigDict, total_steps: int) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The optimiser of `config.optimiser` and its learning rate by step."""
    o = config.optimiser
    schedule = learning_rate_schedule(o.schedule, o.learning_rate, total_steps, o.warmup_steps, o.final_fraction)
    same = {name: o[name] for name in ("weight_decay", "decay_mask", "b1", "b2", "eps")}
    rates = {BACKBONE: o.backbone_rate} if o.backbone_rate != 1.0 else None
    clip_norm, frozen = o.clip_norm or None, tuple(o.frozen)
    return make_optimiser(schedule, **same, clip_norm=clip_norm, frozen=frozen, rate_multipliers=rates), schedule


def step_arguments(config: ConfigDict, platform: str | None = None) -> dict[str, Any]:
    """Keyword arguments of `make_train_step` out of a config, for a platform (None: the one that runs this)."""
    s = config.step
    choices = {"frames": ("auto", "unrolled", "scanned"), "checkpoint": get_args(CheckpointPolicy)}
    for name, expected in choices.items():
        if s[name] not in expected:
            raise InputError(f"config.step.{name} is {s[name]!r}, expected one of {', '.join(expected)}")
    unroll = s.frames == "unrolled" or (s.frames == "auto" and (platform or jax.default_backend()) in ("cpu", "tpu"))
    return {
        "accumulate": s.accumulate, "checkpoint": s.checkpoint, "unroll": unroll, "dropout": bool(s.dropout),
        "ema_decay": s.ema_decay or None, "map_weight": s.map_weight, "frozen": tuple(config.optimiser.frozen),
    }  # fmt: skip


def steps_of(config: ConfigDict, clips_per_epoch: int) -> tuple[int, int]:
    """(steps of the run, steps between evaluations; 0: none)."""
    per_epoch = clips_per_epoch / config.data.batch_size

    def in_steps(steps: int, epochs: float, field: str) -> int:
        if steps or not epochs:
            return int(steps)
        if not per_epoch:
            raise InputError(f"config.{field} counts epochs, but this data has none; give it in steps")
        return max(1, math.ceil(epochs * per_epoch))

    total = in_steps(config.steps, config.epochs, "epochs")
    if total < 1:
        raise InputError(
            f"config.steps is {config.steps} and config.epochs {config.epochs}, expected the length of the run in one "
            "of them"
        )
    every = in_steps(config.evaluation.every_steps, config.evaluation.every_epochs, "evaluation.every_epochs")
    return total, every


def check_devices(config: ConfigDict, mesh: Mesh) -> None:
    """Refuse a batch or a size the mesh cannot split evenly."""
    data, parts = mesh.shape[DATA], config.step.accumulate
    if config.data.batch_size % (data * parts):
        raise InputError(
            f"config.data.batch_size is {config.data.batch_size}, expected a multiple of {data * parts} "
            f"({data} devices along mesh.data x {parts} accumulated parts)"
        )
    for height, _ in sizes_of(config):
        check_rows(height, mesh)
