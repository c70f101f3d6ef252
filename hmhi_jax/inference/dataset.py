"""Predictions for whole data sets on all devices: many videos at once, restartable, no ground truth needed.

    predictor = DatasetPredictor.load("tiny")
    predictor.predict(open_dataset("DAVIS", split="val"), "predictions/davis")

Several hosts share the videos of a data set; each runs its own on its own devices and nothing is exchanged.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax

from hmhi_jax import process
from hmhi_jax.data.decoding import picture_size
from hmhi_jax.data.flow import FlowRecipe
from hmhi_jax.data.flow_pictures import flow_recipe_of
from hmhi_jax.data.layouts import Dataset, VideoRecord
from hmhi_jax.errors import InputError
from hmhi_jax.inference.batched_step import BatchedSteps
from hmhi_jax.inference.dataset_run import DatasetRun, Outcome, Work
from hmhi_jax.inference.lanes import share_of
from hmhi_jax.inference.learned_flow import LearnedFlow, flow_source
from hmhi_jax.inference.prediction_files import (
    PredictionLayout,
    VideoFolder,
    check_manifest,
    fingerprint,
    plain_arguments,
)
from hmhi_jax.inference.segmenter import VideoSegmenter, auto_size, checked_size
from hmhi_jax.models import HMHINet

FlowSource = Literal["auto", "estimate", "files"]
# Frames a lane gets per round, and lanes of a device. A CPU gains nothing from more, an accelerator keeps busier.
CHUNK = {"cpu": 4}
LANES_PER_DEVICE = {"cpu": 1}


class DatasetPredictor:
    """A network ready for data sets; compiled once, whatever the number of data sets and sets of weights."""

    def __init__(
        self,
        model: HMHINet,
        variables: Any = None,
        *,
        size: tuple[int, int] | str = (512, 512),
        input_size: tuple[int, int] | None = None,
        flow_recipe: FlowRecipe = FlowRecipe(),  # noqa: B008 - frozen
        flow_network: LearnedFlow | None = None,
        flow: FlowSource = "auto",
        devices: Sequence[jax.Device] | None = None,
        lanes_per_device: int | None = None,
        chunk: int | None = None,
        workers: int = 4,
    ) -> None:
        """Set up the lanes; nothing is compiled yet.

        Args:
            model: from `build_model`.
            variables: its variables; may be given to `predict` instead.
            size: (height, width) the network runs at, multiples of 32; or "auto": each video's own shape, with about as
                many pixels as `input_size`.
            input_size: (height, width) the weights were trained for; None takes `size`.
            flow_recipe: how the weights want flow pictures made.
            flow_network: makes them instead, by its own recipe.
            flow: "estimate" makes flow by the recipe, "files" takes the data set's flow pictures as they are, "auto"
                takes them where they are known to be made by the recipe and estimates otherwise.
            devices: this host's devices to use; None takes all.
            lanes_per_device: videos a device works on at once; None takes 1 on CPU and 4 elsewhere.
            chunk: frames of a video per round; None takes 4 on CPU and 8 elsewhere.
            workers: threads that read pictures and estimate flow, and as many that write.
        """
        process.enable_compilation_cache()
        if flow not in ("auto", "estimate", "files"):
            raise InputError(f"flow is {flow!r}, expected 'auto', 'estimate' or 'files'")
        for name, value in (("chunk", chunk), ("lanes_per_device", lanes_per_device), ("workers", workers)):
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}, expected at least 1")
        devices = list(devices or jax.local_devices())
        platform = devices[0].platform
        self.model = model
        self.variables = variables
        self.size = size if size == "auto" else checked_size(size)
        self.input_size = input_size or (self.size if self.size != "auto" else (512, 512))
        self.flow_network = flow_network
        self.flow_recipe = flow_network.recipe if flow_network else flow_recipe
        self.flow: FlowSource = flow
        self.chunk = chunk or CHUNK.get(platform, 8)
        self._steps = BatchedSteps(model, devices, lanes_per_device or LANES_PER_DEVICE.get(platform, 4))
        self._workers = workers

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
        read = VideoSegmenter.load(name_or_path, size=size, memory_frames=memory_frames, dtype=dtype)
        if not isinstance(read.model, HMHINet):
            raise InputError(f"{name_or_path}: is an exported network, made for one video at a time; give its weights")
        return cls(
            read.model, jax.device_get(read.variables),
            size=read.size, input_size=read.input_size, flow_recipe=read.flow_recipe,
            flow_network=LearnedFlow.load(flow_weights, read.flow_recipe) if flow_weights else None, **options,
        )  # fmt: skip

    def predict(
        self,
        dataset: Dataset,
        out_dir: str | Path,
        *,
        variables: Any = None,
        reading: str | Sequence[str] = "release",
        layout: PredictionLayout = "davis",
        overwrite: bool = False,
        advance: Callable[[int], None] | None = None,
        host: int | None = None,
        hosts: int | None = None,
    ) -> Outcome:
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
        variables = self.variables if variables is None else variables
        host = jax.process_index() if host is None else host
        hosts = jax.process_count() if hosts is None else hosts
        readings = (reading,) if isinstance(reading, str) else tuple(reading)
        if unknown := [name for name in readings if name not in ("release", "plain")]:
            raise InputError(f"reading is {unknown[0]!r}, expected 'release' or 'plain'")
        places = (root,) if isinstance(reading, str) else tuple(root / name for name in readings)
        from_files = self._flow_from_files(dataset)
        settings = {
            "data": dataset.name, "weights": fingerprint(variables), "model": plain_arguments(self.model),
            "size": self.size, "input_size": self.input_size, "reading": readings, "layout": layout,
            "flow": "files" if from_files else self.flow_recipe.to_json(),
        }  # fmt: skip
        settings = {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}
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

        outcome = Outcome(root)
        mine = [dataset.videos[i] for i in share_of([len(video) for video in dataset.videos], host, hosts)]
        groups: dict[tuple[int, int], list[VideoRecord]] = {}
        for video in mine:
            if video.name in present:
                outcome.present.append(video.name)
            else:
                try:
                    groups.setdefault(self._network_size(video), []).append(video)
                    continue
                except InputError as error:
                    outcome.failed[video.name] = str(error)
            if advance:
                advance(len(video))
        placed = self._steps.place(variables) if groups else None
        source = flow_source(self.flow_recipe, self.flow_network) if groups and not from_files else None
        for size, videos in groups.items():
            folders = [place_of[video.name] for video in videos]
            work = Work(videos, folders, size, source, readings)
            DatasetRun(self._steps, placed, work, outcome, self.chunk, self._workers, advance).go()
        return outcome

    def _network_size(self, video: VideoRecord) -> tuple[int, int]:
        if not len(video):
            raise InputError(f"{video.name}: has no frames")
        if self.size != "auto":
            return self.size
        return auto_size(picture_size(video.frames[0]), self.input_size)

    def _flow_from_files(self, dataset: Dataset) -> bool:
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
        return not lacking and flow_recipe_of(dataset) == self.flow_recipe
