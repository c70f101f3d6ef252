"""Inference on data sets and their scores: puts together inference and evaluation, which know nothing of each other."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from hmhi_jax.complete_files import write_text
from hmhi_jax.data.layouts import Dataset, open_dataset
from hmhi_jax.errors import InputError
from hmhi_jax.evaluation.protocols import Protocol, find_protocol
from hmhi_jax.evaluation.scores import Scores
from hmhi_jax.evaluation.scoring import evaluate
from hmhi_jax.inference.dataset import DatasetPredictor
from hmhi_jax.inference.prediction_files import PredictionLayout, VideoFolder
from hmhi_jax.kept_programs import watched
from hmhi_jax.process import enable_compilation_cache
from hmhi_jax.progress import doing, frame_progress
from hmhi_jax.runs.evaluation_config import checked_set, evaluation_section, listed_readings, network_size
from hmhi_jax.tools.report.page import Run
from hmhi_jax.tools.report.report import write_report
from hmhi_jax.training.mesh import wait_for_all


@dataclass(frozen=True)
class EvaluationSet:
    """A data set and the protocols it is scored by."""

    name: str
    dataset: Dataset
    protocols: tuple[Protocol, ...]

    @property
    def annotated(self) -> bool:
        """Whether there is any ground truth."""
        return any(video.annotated for video in self.dataset.videos)


def open_sets(
    entries: Sequence[Mapping[str, Any]], root: str = "", where: str = "config.eval.sets"
) -> list[EvaluationSet]:
    """Open the data sets of a config. Raises `InputError` for folders, layouts, splits or protocols that do not
    exist."""
    sets: list[EvaluationSet] = []
    for i, entry in enumerate(entries):
        fields = checked_set(entry, f"{where}[{i}]")
        path = Path(root).expanduser() / Path(fields["path"]).expanduser()
        flows = fields.get("flows")
        dataset = open_dataset(
            path,
            layout=fields.get("layout"),
            split=fields.get("split"),
            flows=Path(root).expanduser() / flows if flows else None,
            name=fields.get("name"),
        )
        try:
            dataset = dataset.chosen(fields.get("videos") or None)
        except InputError as error:
            raise InputError(f"{where}[{i}].videos: {error}") from error
        if dataset.name in (other.name for other in sets):
            raise InputError(f"{where}: two data sets are called {dataset.name!r}; give one of them a 'name'")
        protocols = tuple(find_protocol(name) for name in fields["protocol"])
        sets.append(EvaluationSet(dataset.name, dataset, protocols))
    return sets


def score_set(one: EvaluationSet, folder: Path, readings: Sequence[str], **options: Any) -> tuple[Scores, ...]:
    """Score the predictions in `<folder>/<reading>/<video>/` by all of the data set's protocols; `options` are those of
    `evaluation.scoring.evaluate`."""
    return tuple(
        scores
        for reading in readings
        for scores in evaluate(folder / reading, one.dataset, one.protocols, [reading], **options)
    )


def figures_of(scores: Sequence[Scores]) -> dict[str, float]:
    """`<protocol>/<reading>/<figure>` -> value."""
    named = ((f"{found.protocol.name}/{found.reading}", found.figures) for found in scores)
    return {f"{where}/{name}": value for where, figures in named for name, value in figures.items()}


def run(config: ConfigDict, workdir: str) -> int:
    """Predict and score every data set of a config; the exit code.

    Predictions go to `<workdir>/predictions/<set>/<reading>/<video>/`, reports to `<workdir>/reports/<set>/`, and all
    figures, and videos that failed, to `<workdir>/evaluation.json`. Started again, it goes on where it was.

    Exit code 1: a video of this process was not predicted; on the first process, any video, or an annotated frame was
    not scored.
    """
    enable_compilation_cache()
    settings = evaluation_section(config)
    folder = Path(workdir).expanduser().absolute()
    readings = listed_readings(settings.reading)
    sets = open_sets(settings.sets, settings.root)
    doing("reading weights")
    predictor = DatasetPredictor.load(
        settings.weights or folder,
        size=network_size(settings.size),
        memory_frames=settings.memory_frames,
        dtype=settings.dtype,
        flow=settings.flow,
        flow_weights=settings.flow_weights or None,
        lanes_per_device=settings.lanes_per_device or None,
        chunk=settings.chunk or None,
    )
    name = Path(settings.weights or folder).stem
    summary: dict[str, Any] = {"weights": str(settings.weights or folder), "sets": {}}
    whole = True
    for one in sets:
        place = folder / "predictions" / one.name
        outcome, seconds = _predict(predictor, one, place, readings, settings)
        for video, reason in outcome.failed.items():
            whole = False
            print(f"{one.name}: {video} was not predicted: {reason}", flush=True)
        wait_for_all(f"predictions of {one.name}")
        if jax.process_index() != 0:
            continue
        failed = outcome.failed | {
            video: "has no predictions; the process that had it says why"
            for video in _without_predictions(one, place, readings, settings.files)
            if video not in outcome.failed
        }
        whole = whole and not failed
        entry: dict[str, Any] = {"predictions": str(place), "seconds_of_inference": round(seconds, 1), "failed": failed}
        if one.annotated:
            begin = time.perf_counter()
            scores = score_set(
                one, place, readings,
                extra=settings.extra, strict=settings.strict, workers=settings.workers or None, progress=True,
            )  # fmt: skip
            for found in scores:
                print(f"{one.name}: {found}", flush=True)
            page = write_report([Run(name, scores)], folder / "reports" / one.name, title=f"{name} on {one.name}")
            print(f"{one.name}: {page}", flush=True)
            entry |= {"report": str(page), "seconds_of_scoring": round(time.perf_counter() - begin, 1)}
            entry |= {"complete": all(found.complete for found in scores), "figures": figures_of(scores)}
            whole = whole and entry["complete"]
        else:
            print(f"{one.name}: has no ground truth; its predictions are in {place}", flush=True)
        summary["sets"][one.name] = entry
    if jax.process_index() == 0:
        write_text(folder / "evaluation.json", json.dumps(summary, indent=1) + "\n")
    wait_for_all("scores")  # whoever leaves early would be waited for, but not for long
    return 0 if whole else 1


def _without_predictions(
    one: EvaluationSet, place: Path, readings: Sequence[str], layout: PredictionLayout
) -> list[str]:
    """Videos that some frame is not predicted of, by any process."""
    return [
        video.name
        for video in one.dataset.videos
        if not all(VideoFolder(place / r, video.name, video.frame_names, layout).complete() for r in readings)
    ]


def _predict(
    predictor: DatasetPredictor, one: EvaluationSet, place: Path, readings: tuple[str, ...], settings: ConfigDict
) -> tuple[Any, float]:
    frames = sum(len(video) for video in one.dataset.videos)
    begin = time.perf_counter()
    with frame_progress(one.name, frames) as advance, watched(lambda kept: advance(None, f"compiling{kept}")):
        outcome = predictor.predict(
            one.dataset, place,
            reading=readings, layout=settings.files, overwrite=settings.overwrite, advance=advance,
        )  # fmt: skip
    seconds = time.perf_counter() - begin
    done = sum(len(video) for video in one.dataset.videos if video.name in set(outcome.predicted))
    if done:
        print(f"{one.name}: {done} frames in {seconds:.1f} s, {done / seconds:.2f} frames per second", flush=True)
    if outcome.present:
        print(f"{one.name}: {len(outcome.present)} videos were predicted before", flush=True)
    return outcome, seconds
