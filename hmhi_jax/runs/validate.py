"""Validation inside a training run: predict the validation sets, score them, draw some predictions."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import cv2
import jax
import numpy as np
from jaxtyping import UInt8
from ml_collections import ConfigDict
from PIL import Image

from hmhi_jax.data.masks import read_mask
from hmhi_jax.data.pictures import read_picture
from hmhi_jax.data.records import VideoRecord
from hmhi_jax.errors import InputError
from hmhi_jax.evaluation.protocols import Protocol, lower_is_better
from hmhi_jax.inference.dataset import DatasetPredictor
from hmhi_jax.models import HMHINet
from hmhi_jax.runs.evaluate import EvaluationSet, open_sets, score_set
from hmhi_jax.training.assemble import checked
from hmhi_jax.training.loop import Evaluation
from hmhi_jax.training.step import TrainState

_MAIN_FIGURES = {"uvos": "JF_mean", "vsod": "MAE"}
_READING = "release"


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
