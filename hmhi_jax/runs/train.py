"""A training run from its config: puts the rooms together that must not know each other. `train.py` calls it.

Validation inside it: the validation sets are predicted and scored, and some predictions drawn.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import jax
import numpy as np
from jaxtyping import UInt8
from ml_collections import ConfigDict
from PIL import Image

from hmhi_jax.complete_files import writable, write_text
from hmhi_jax.data.device_batches import DeviceBatches, batch_shapes
from hmhi_jax.data.masks import read_mask
from hmhi_jax.data.pictures import read_picture
from hmhi_jax.data.records import VideoRecord
from hmhi_jax.errors import InputError
from hmhi_jax.evaluation.protocols import Protocol, lower_is_better
from hmhi_jax.inference.dataset import DatasetPredictor
from hmhi_jax.interop.weight_places import CHECKPOINT_EXPORT
from hmhi_jax.interop.weights import save_weights
from hmhi_jax.kept_programs import watched
from hmhi_jax.models import HMHINet
from hmhi_jax.process import enable_compilation_cache
from hmhi_jax.progress import doing
from hmhi_jax.runs.evaluate import EvaluationSet, open_sets, score_set
from hmhi_jax.tools.synthetic.datasets import rendered_sources, write_moving_blobs
from hmhi_jax.training.assemble import assemble, checked, sizes_of
from hmhi_jax.training.checkpoints import Checkpoints, code_version
from hmhi_jax.training.config import flat, is_among, to_plain
from hmhi_jax.training.initial_weights import starting_state
from hmhi_jax.training.loop import Evaluation, Interruption, Loop
from hmhi_jax.training.mesh import make_mesh, wait_for_all
from hmhi_jax.training.step import TrainState

_MAIN_FIGURES = {"uvos": "JF_mean", "vsod": "MAE"}
_READING = "release"
_ADVICE = "free space or give another --workdir"


def run(config: ConfigDict, workdir: str, *, profile: bool = False, accepted: tuple[str, ...] = ()) -> int:
    """Train, or go on training, until the end of the schedule or a signal; the exit code."""
    enable_compilation_cache()
    doing("opening the data")
    fields = flat(to_plain(config))
    if unknown := [name for name in accepted if not any(is_among(field, (name,)) for field in fields)]:
        raise InputError(f"--accept_changes: the config has no field or section {', '.join(unknown)}")
    folder = Path(workdir).expanduser().absolute()
    with writable(folder, _ADVICE):
        folder.mkdir(parents=True, exist_ok=True)
        if config.data.generate:
            config = _with_generated_data(config, folder)
    mesh = make_mesh(config.mesh.data, config.mesh.space)
    parts = assemble(config, mesh, rendered_sources(config))
    data, when = parts.data, parts.when
    try:
        if config.evaluation.sets and not when.evaluate_every:
            raise InputError(
                "config.evaluation.sets are given, but every_steps and every_epochs are 0; say how often to evaluate"
            )
        validation = Validation(config, parts.evaluated_model, folder) if config.evaluation.sets else None
        best, lowest = best_metric(config, validation.sets if validation else ())
        plain = to_plain(config)
        record = {
            "config": plain, "versions": code_version(), "clips_per_epoch": data.clips_per_epoch,
            "best_metric": best, "lowest_is_best": lowest, "flow_recipe": data.flow_recipe.to_json(),
        }  # fmt: skip
        wait_for_all("data-opened")  # looking through a data set takes some processes longer than others
        # From here on: the first compilation takes minutes, and a signal in it must not end in a traceback.
        with Interruption() as interruption:
            kept = {name: config.checkpoints[name] for name in ("keep_last", "keep_best")}
            checkpoints = Checkpoints(folder, **kept, best_metric=best or None, lowest_is_best=lowest)

            def export(state: TrainState, figures: Mapping[str, float]) -> None:
                extra = {"step": int(state.step), "figures": dict(figures), "config": plain}
                extra["versions"] = record["versions"]
                variables = jax.tree.map(jax.device_get, state.variables(averaged=True))
                recipe = data.flow_recipe
                save_weights(folder / CHECKPOINT_EXPORT, variables, plain["model"], parts.sizes[-1], recipe, extra)

            loop = Loop(
                parts.step_compiler(mesh), data.batches, when, checkpoints, folder, record, evaluate=validation,
                export=export, tensorboard=config.logging.tensorboard, profile=profile,
            )  # fmt: skip

            def compile_first(like: TrainState) -> None:
                if isinstance(data.batches, DeviceBatches):  # a bad first picture is told before minutes of compiling
                    data.batches.wait_for_next()
                first = batch_shapes(config.data.batch_size, config.data.frames, parts.sizes[0])
                compiled.append(loop.compile(like, first))

            def tell(kept: str) -> None:
                if jax.process_index() == 0:
                    doing("compiling for {} x {}{}".format(*parts.sizes[0], kept), tell=True)

            compiled: list[str] = []
            with watched(tell):
                state, restored, notes = starting_state(config, parts, mesh, checkpoints, accepted, compile_first)
            if restored is not None and restored.step >= when.total:
                notes.append(f"the run is finished: its length is {when.total} steps")
            if restored is not None:
                data.batches.set_state(_data_state(restored.data, data.batches.get_state(), accepted))
            if jax.process_index() == 0:
                with writable(folder, _ADVICE):
                    write_text(folder / "config.json", json.dumps(record, indent=2) + "\n")
            outcome = loop.run(state, interruption, [*checkpoints.warnings, *notes, *compiled])
    finally:
        data.batches.close()
    return outcome.exit_code


def _data_state(stored: dict[str, Any], current: dict[str, Any], accepted: tuple[str, ...]) -> dict[str, Any]:
    """The place in the data to go on from: a checkpoint's, but for what was accepted to differ."""
    fields = {"batch_size": "data.batch_size", "seed": "seed", "clips": "data.sources"}
    changed = [name for name, field in fields.items() if name in current and is_among(field, accepted)]
    return stored | {name: current[name] for name in changed}


def _with_generated_data(config: ConfigDict, folder: Path) -> ConfigDict:
    """The config with moving blobs in `<workdir>/data` as its data set."""
    if config.data.sources:
        raise InputError(
            f"config.data.generate is {config.data.generate} and config.data.sources {config.data.sources}, expected "
            "only one of them; --config.data.generate=0 trains on the sources"
        )
    config = config.copy_and_resolve_references()
    size = sizes_of(config)[0]
    if jax.process_index() == 0:
        write_moving_blobs(
            folder / "data", train=config.data.generate, val=max(2, config.data.generate // 4), size=size
        )
    wait_for_all("generated-data")
    with config.unlocked():
        config.data.root = str(folder)
        config.data.sources = ({"path": "data", "split": "train"},)
    return config


def _prefix(one: EvaluationSet, protocol: Protocol) -> str:
    """What stands before the figures of a data set's protocol."""
    return one.name if len(one.protocols) == 1 else f"{one.name}/{protocol.name}"


class Validation:
    """Called with a state, gives its figures on all validation sets of a config; on this process's devices alone."""

    def __init__(self, config: ConfigDict, model: HMHINet, folder: Path) -> None:
        """Opens and checks the data sets, so that what is wrong with them is told before training, not after the first
        epoch. `model` is the network as it is evaluated."""
        settings = config.evaluation
        self.sets = [
            dataclasses.replace(one, dataset=checked(one.dataset, config.data.skip_bad))
            for one in open_sets(settings.sets, config.data.root, "config.evaluation.sets")
        ]
        for one in self.sets:
            if not one.annotated:
                raise InputError(f"config.evaluation.sets: {one.dataset.root} has no masks to evaluate against")
        self.folder = folder
        self.pictures = settings.pictures
        self.workers = settings.workers or None
        size = tuple(int(side) for side in config.data.sizes[-1])
        self.predictor = DatasetPredictor(model, size=size, flow="files")

    def __call__(self, state: TrainState) -> Evaluation:
        """`<set>/<figure>`, or `<set>/<protocol>/<figure>` of sets with several protocols; of the averaged parameters,
        where the run keeps them."""
        variables = jax.tree.map(jax.device_get, state.variables(averaged=True))
        result = Evaluation({})
        for one in self.sets:
            place = self.folder / "predictions" / one.name
            outcome = self.predictor.predict(
                one.dataset, place, variables=variables, reading=(_READING,), overwrite=True, host=0, hosts=1
            )
            if outcome.failed:
                video, reason = next(iter(outcome.failed.items()))
                raise InputError(f"validation on {one.name}: {len(outcome.failed)} videos failed, {video}: {reason}")
            for scores in score_set(one, place, (_READING,), extra=False, workers=self.workers):
                prefix = _prefix(one, scores.protocol)
                result.metrics |= {f"{prefix}/{name}": float(value) for name, value in scores.figures.items()}
            result.pictures |= self._draw(one, place / _READING, int(state.step))
        return result

    def _draw(self, one: EvaluationSet, predictions: Path, step: int) -> dict[str, UInt8[np.ndarray, "H W 3"]]:
        """Strips of some videos: first, middle and last frame, prediction in red over the picture, truth outlined."""
        strips = {}
        for video in one.dataset.videos[: self.pictures]:
            strip = _strip(video, predictions / video.name)
            folder = self.folder / "pictures" / f"step-{step:07}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(strip).save(folder / f"{one.name}-{video.name}.png")
            strips[f"{one.name}/{video.name}"] = strip
        return strips


def _strip(video: VideoRecord, folder: Path, height: int = 192) -> UInt8[np.ndarray, "h w 3"]:
    columns = []
    for number in sorted({0, len(video) // 2, len(video) - 1}):
        frame = read_picture(video.frames[number])
        with Image.open(folder / f"{video.frame_names[number]}.png") as image:
            share = np.asarray(image.convert("L").resize(frame.shape[1::-1]), np.float32)[..., None] / 255
        tinted = frame * (1 - 0.55 * share) + np.array([255.0, 40.0, 40.0]) * 0.55 * share
        picture = np.ascontiguousarray(tinted.astype(np.uint8))
        if video.masks[number] is not None:
            truth = np.asarray(read_mask(video.masks[number], frame.shape[:2])).reshape(frame.shape[:2])
            outlines, _ = cv2.findContours(truth.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(picture, outlines, -1, (255, 255, 255), 1)
        width = max(1, round(frame.shape[1] * height / frame.shape[0]))
        columns.append(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA))
    return np.concatenate(columns, 1)


def best_metric(config: ConfigDict, sets: Sequence[EvaluationSet]) -> tuple[str, bool]:
    """(name of the figure the best checkpoint is chosen by, whether lower is better).

    Raises `InputError` for a figure that no evaluation will give.
    """
    name = config.evaluation.best_metric
    if not name and sets:
        first = sets[0].protocols[0]
        name = f"{_prefix(sets[0], first)}/{_MAIN_FIGURES[first.kind]}"
    known = [
        f"{_prefix(one, protocol)}/{figure}"
        for one in sets
        for protocol in one.protocols
        for figure in dict.fromkeys((_MAIN_FIGURES[protocol.kind], *protocol.headline))
    ]
    if sets and name not in known:
        raise InputError(f"config.evaluation.best_metric is {name!r}, expected one of {', '.join(known)}")
    return name, lower_is_better(name.rpartition("/")[2])
