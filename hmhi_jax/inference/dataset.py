"""Predictions for whole data sets on all devices: many videos at once, restartable, no ground truth needed.

    predictor = DatasetPredictor.load("small")
    predictor.predict(open_dataset("DAVIS", split="val"), "predictions/davis")

Several hosts share the videos of a data set; each runs its own on its own devices and nothing is exchanged.
"""

import dataclasses
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Literal

import jax

from hmhi_jax.data.flow import FlowRecipe
from hmhi_jax.data.flow_folder import flow_recipe_of
from hmhi_jax.data.layouts import Dataset
from hmhi_jax.data.pictures import picture_size, read_picture
from hmhi_jax.data.records import VideoRecord
from hmhi_jax.data.video import Frame
from hmhi_jax.errors import InputError
from hmhi_jax.inference.export import is_export
from hmhi_jax.inference.lanes import Lanes, Result, share_of
from hmhi_jax.inference.learned_flow import LearnedFlow
from hmhi_jax.inference.masks import read_logits
from hmhi_jax.inference.network import lanes_of
from hmhi_jax.inference.network_input import FlowOf
from hmhi_jax.inference.pipeline import WORKERS, Pipeline, worker_pool
from hmhi_jax.inference.prediction_files import (
    PredictionLayout,
    VideoFolder,
    check_manifest,
    fingerprint,
    plain_arguments,
)
from hmhi_jax.inference.segmenter import VideoSegmenter
from hmhi_jax.models import HMHINet

FlowSource = Literal["auto", "estimate", "files"]


@dataclasses.dataclass
class PredictionOutcome:
    """What `predict` did on this host: videos predicted now, those that were there, those that failed and why."""

    folder: Path
    predicted: list[str] = dataclasses.field(default_factory=list)
    present: list[str] = dataclasses.field(default_factory=list)
    failed: dict[str, str] = dataclasses.field(default_factory=dict)


class DatasetPredictor:
    """A network ready for data sets; compiled once, whatever the number of data sets and sets of weights."""

    def __init__(
        self,
        model: HMHINet,
        variables: Any = None,
        *,
        flow: FlowSource = "auto",
        devices: Sequence[jax.Device] | None = None,
        lanes_per_device: int | None = None,
        workers: int | None = None,
        **options: Any,
    ) -> None:
        """Set up the lanes; nothing is compiled yet.

        Args:
            model: from `build_model`.
            variables: its variables; may be given to `predict` instead.
            flow: "estimate" makes flow by the recipe, "files" takes the data set's flow pictures as they are, "auto"
                takes them where they are known to be made by the recipe and estimates otherwise.
            devices: this host's devices to use; None takes all.
            lanes_per_device: videos a device works on at once; None takes 1 on CPU and 4 elsewhere.
            workers: threads that resize pictures, estimate flow and write; None follows the cores.
            options: `size`, `input_size`, `flow_recipe`, `flow_network` and `chunk` as in `VideoSegmenter`.
        """
        if flow not in ("auto", "estimate", "files"):
            raise InputError(f"flow is {flow!r}, expected 'auto', 'estimate' or 'files'")
        for name, value in (("lanes_per_device", lanes_per_device), ("workers", workers)):
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}, expected at least 1")
        self.flow: FlowSource = flow
        self._devices = list(devices or jax.local_devices())
        self._lanes_per_device = lanes_per_device or lanes_of(self._devices[0])
        self._workers = workers or WORKERS
        if options.get("flow_network"):
            options["flow_recipe"] = options["flow_network"].recipe
        self._segmenter = VideoSegmenter(model, variables, device=self._devices[0], **options)

    @classmethod
    def load(
        cls,
        name_or_path: str | Path,
        *,
        size: tuple[int, int] | str | None = None,
        memory_frames: int | None = None,
        dtype: str = "float32",
        flow_weights: str | Path | None = None,
        **options: Any,
    ) -> "DatasetPredictor":
        """A predictor from weights: a shipped name, a `.safetensors` file, or the folder of a training run.

        `size`, `memory_frames` and `dtype` are as in `VideoSegmenter.load`, `options` those of `DatasetPredictor`.
        With `flow_weights` (see `LearnedFlow.load`) a flow network estimates flow.

        Raises:
            InputError: for weights that do not exist, cannot be read or do not fit.
        """
        if is_export(name_or_path):
            raise InputError(f"{name_or_path}: is an exported network, made for one video at a time; give its weights")
        loaded = VideoSegmenter.load(
            name_or_path, size=size, memory_frames=memory_frames, dtype=dtype, flow_weights=flow_weights
        )
        options |= {name: getattr(loaded, name) for name in ("size", "input_size", "flow_recipe", "flow_network")}
        return cls(loaded.model, loaded.variables, **options)

    def predict(
        self,
        dataset: Dataset,
        out_dir: str | Path,
        *,
        variables: Any = None,
        reading: str | Sequence[str] = "release",
        layout: PredictionLayout = "davis",
        overwrite: bool = False,
        advance: Callable[[int], None] = lambda frames: None,
        host: int | None = None,
        hosts: int | None = None,
    ) -> PredictionOutcome:
        """Predict every frame of every video and save 8-bit pictures, `<out_dir>/<video>/<frame>.png`.

        Videos whose predictions are there are left alone, so the same call goes on after an interruption. A video that
        cannot be read is noted, and the others are predicted.

        Args:
            dataset: the videos. Masks are not looked at.
            out_dir: folder for the predictions of this data set.
            variables: weights, where not those of the constructor.
            reading: "release" stretches each frame to full contrast, as the release does when it saves; "plain" saves
                probabilities. Several are saved at once in folders of their names, `<out_dir>/<reading>/<video>`.
            layout: names of files, see `prediction_files.file_name`.
            overwrite: predict everything again, whatever is there.
            advance: called with numbers of frames done, those of videos left alone included.
            host, hosts: which share of the videos to take, of how many; JAX's process and their number by default.

        Raises:
            InputError: the folder holds predictions made with other settings or from other pictures, or cannot be
                written to.
        """
        root = Path(out_dir)
        segmenter = self._segmenter if variables is None else self._segmenter.with_variables(variables)
        host = jax.process_index() if host is None else host
        hosts = jax.process_count() if hosts is None else hosts
        readings = (reading,) if isinstance(reading, str) else tuple(reading)
        if unknown := [name for name in readings if name not in ("release", "plain")]:
            raise InputError(f"reading is {unknown[0]!r}, expected 'release' or 'plain'")
        places = (root,) if isinstance(reading, str) else tuple(root / name for name in readings)
        from_files = self.takes_flow_files(dataset)
        settings = {
            "data": dataset.name, "weights": fingerprint(segmenter.variables),
            "model": plain_arguments(segmenter.model), "size": segmenter.size, "input_size": segmenter.input_size,
            "reading": readings, "layout": layout,
            "flow": "files" if from_files else segmenter.flow_recipe.to_json(),
        }  # fmt: skip
        place_of = {
            video.name: tuple(VideoFolder(place, video.name, video.frame_names, layout) for place in places)
            for video in dataset.videos
        }
        present = {
            video.name
            for video in dataset.videos
            if not overwrite and len(video) and all(folder.complete() for folder in place_of[video.name])
        }
        prints = {video.name: video.fingerprint(flows=from_files) for video in dataset.videos}
        check_manifest(root, settings, prints, sorted(present), overwrite, writer=host == 0)

        outcome = PredictionOutcome(root)
        mine = [dataset.videos[i] for i in share_of([len(video) for video in dataset.videos], host, hosts)]
        groups: dict[tuple[int, int], list[VideoRecord]] = {}
        for video in mine:
            if video.name in present:
                outcome.present.append(video.name)
            else:
                try:
                    groups.setdefault(self.network_size(video), []).append(video)
                    continue
                except InputError as error:
                    outcome.failed[video.name] = str(error)
            advance(len(video))
        # Asked for here, of the segmenter that stays, so that a flow network is read once.
        estimator = self._segmenter.flow_source() if groups and not from_files else None
        for videos in groups.values():
            lanes = segmenter.lanes(self._devices, self._lanes_per_device)
            _Run(segmenter, lanes, place_of, readings, estimator, outcome, advance).go(videos, self._workers)
        return outcome

    def network_size(self, video: VideoRecord) -> tuple[int, int]:
        """(height, width) the network runs at for a video. Raises `InputError` for one without frames."""
        if not len(video):
            raise InputError(f"{video.name}: has no frames")
        return self._segmenter.network_size(picture_size(video.frames[0]))

    def takes_flow_files(self, dataset: Dataset) -> bool:
        """Whether a data set's flow pictures are taken. Raises `InputError` if they must be but some lack."""
        if self.flow == "estimate":
            return False
        lacking = [v.name for v in dataset.videos if not all(v.flows.has(i) for i in range(len(v)))]
        if self.flow == "files":
            if lacking:
                raise InputError(
                    f"{dataset.root}: {len(lacking)} videos lack flow pictures, first {lacking[0]}; make them with "
                    "'hmhi flow', or have flow estimated"
                )
            return True
        return not lacking and flow_recipe_of(dataset) == self._segmenter.flow_recipe


@dataclasses.dataclass(frozen=True)
class _Run:
    """Videos of one network size through the lanes: each in a thread that reads, computes and writes it.

    folders     where each video's predictions go, one for each reading
    estimator   what makes flow pictures; None takes the data set's
    """

    segmenter: VideoSegmenter
    lanes: Lanes
    folders: dict[str, tuple[VideoFolder, ...]]
    readings: tuple[str, ...]
    estimator: FlowRecipe | LearnedFlow | None
    outcome: PredictionOutcome
    advance: Callable[[int], None]
    stop: threading.Event = dataclasses.field(default_factory=threading.Event)
    closing: threading.Lock = dataclasses.field(default_factory=threading.Lock)

    def go(self, videos: Sequence[VideoRecord], workers: int) -> None:
        """Predict all videos. Failing ones are noted in the outcome; a disk that takes no more is an `InputError`."""
        # Long videos first, so that the lanes end at about the same time; one video more than there are lanes is read,
        # so that no lane waits for its first chunk.
        longest_first = sorted(videos, key=lambda video: (-len(video), video.name))
        drivers = ThreadPoolExecutor(self.lanes.network.lanes + 1, thread_name_prefix="hmhi-video")
        with worker_pool(workers) as pool, drivers:
            running = [drivers.submit(self._predict, video, pool) for video in longest_first]
            try:
                for future in as_completed(running):
                    future.result()
            except BaseException:
                self.stop.set()
                drivers.shutdown(wait=False, cancel_futures=True)
                raise

    def _predict(self, video: VideoRecord, pool: ThreadPoolExecutor) -> None:
        folders, done = self.folders[video.name], 0
        try:
            for folder in folders:
                folder.begin()
            frames = (
                Frame(number, name, read_picture(video.frames[number])) for number, name in enumerate(video.frame_names)
            )
            with Pipeline(pool) as pipeline:
                results = self.segmenter.results(
                    pipeline.ahead(frames, 1),
                    pipeline=pipeline,
                    flow_of=_flow_files(video) if self.estimator is None else self.estimator,
                    lanes=self.lanes,
                )
                for _ in pipeline.map(functools.partial(self._write, folders), self._readable(video, results), WORKERS):
                    if self.stop.is_set():
                        return
                    done += 1
                    self.advance(1)
            with self.closing:
                if video.name in self.outcome.failed:
                    self.advance(len(video) - done)
                    return
                for folder in folders:
                    folder.finish()
                self.outcome.predicted.append(video.name)
        finally:
            for folder in folders:
                folder.abandon()

    def _readable(self, video: VideoRecord, results: Iterator[Result]) -> Iterator[Result]:
        """Results up to where the video cannot be read any more, which is noted."""
        try:
            yield from results
        except InputError as error:
            self.outcome.failed[video.name] = str(error)

    def _write(self, folders: tuple[VideoFolder, ...], result: Result) -> None:
        for folder, reading in zip(folders, self.readings, strict=True):
            folder.write(result.index, read_logits(result.logits, result.size, reading))


def _flow_files(video: VideoRecord) -> FlowOf:
    numbers = {name: number for number, name in enumerate(video.frame_names)}
    return lambda name, size: read_picture(video.flows[numbers[name]])
