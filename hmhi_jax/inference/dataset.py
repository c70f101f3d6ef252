"""Predictions for whole data sets on all devices: many videos at once, restartable, no ground truth needed.

    predictor = DatasetPredictor.load("tiny")
    predictor.predict(open_dataset("DAVIS", split="val"), "predictions/davis")

Several hosts share the videos of a data set; each runs its own on its own devices and nothing is exchanged.
"""

import collections
import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, Self

import jax
import numpy as np

from hmhi_jax import compilation_cache
from hmhi_jax.data.decoding import picture_size, read_picture
from hmhi_jax.data.flow import FlowRecipe, flow_picture
from hmhi_jax.data.flow_pictures import flow_recipe_of
from hmhi_jax.data.layouts import Dataset, VideoRecord
from hmhi_jax.data.preprocessing import resize_picture
from hmhi_jax.errors import InputError
from hmhi_jax.inference.batched_step import BatchedSteps
from hmhi_jax.inference.lanes import Piece, Round, plan_rounds, share_of
from hmhi_jax.inference.prediction_files import (
    PredictionLayout,
    VideoFolder,
    as_read,
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
_READ_AHEAD = 2  # rounds that are loaded while the devices work
_UNWRITTEN = 64  # predictions that may wait to be written


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A piece's pictures at the network's size, uint8 `[n, h, w, 3]`, and its frames' own (height, width)."""

    frames: np.ndarray
    flows: np.ndarray
    sizes: tuple[tuple[int, int], ...]


@dataclasses.dataclass
class Outcome:
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
        size: tuple[int, int] | str = (512, 512),
        input_size: tuple[int, int] | None = None,
        flow_recipe: FlowRecipe = FlowRecipe(),  # noqa: B008 - frozen
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
            input_size: (height, width) the weights were trained for; None takes `size`. flow_recipe: how the weights
            want flow pictures made. flow: "estimate" makes flow by the recipe, "files" takes the data set's flow
            pictures as they are, "auto" takes
                them where they are known to be made by the recipe and estimates otherwise.
            devices: this host's devices to use; None takes all.
            lanes_per_device: videos a device works on at once; None takes 1 on CPU and 4 elsewhere.
            chunk: frames of a video per round; None takes 4 on CPU and 8 elsewhere.
            workers: threads that read pictures and estimate flow, and as many that write.
        """
        compilation_cache.enable()
        if flow not in ("auto", "estimate", "files"):
            raise InputError(f"flow is {flow!r}, expected 'auto', 'estimate' or 'files'")
        devices = list(devices or jax.local_devices())
        platform = devices[0].platform
        self.model = model
        self.variables = variables
        self.size = size if size == "auto" else checked_size(size)
        self.input_size = input_size or (self.size if self.size != "auto" else (512, 512))
        self.flow_recipe = flow_recipe
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
        **options: Any,
    ) -> Self:
        """A predictor from weights: a shipped name, a `.safetensors` file, or the folder of a training run.

        `size`, `memory_frames` and `dtype` are as in `VideoSegmenter.load`, `options` those of `DatasetPredictor`.

        Raises:
            InputError: for weights that do not exist, cannot be read or do not fit.
        """
        read = VideoSegmenter.load(name_or_path, size=size, memory_frames=memory_frames, dtype=dtype)
        return cls(
            read.model, jax.device_get(read.variables),
            size=read.size, input_size=read.input_size, flow_recipe=read.flow_recipe, **options,
        )  # fmt: skip

    def predict(
        self,
        dataset: Dataset,
        out_dir: str | Path,
        *,
        variables: Any = None,
        reading: str = "release",
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
                probabilities.
            layout: names of files, see `prediction_files.file_name`.
            overwrite: predict everything again, whatever is there.
            advance: called with numbers of frames done, those of videos left alone included.
            host, hosts: which share of the videos to take, of how many; JAX's process and their number by default.

        Raises:
            InputError: the folder holds predictions made with other settings, or cannot be written to.
        """
        root = Path(out_dir)
        variables = self.variables if variables is None else variables
        host = jax.process_index() if host is None else host
        hosts = jax.process_count() if hosts is None else hosts
        if reading not in ("release", "plain"):
            raise InputError(f"reading is {reading!r}, expected 'release' or 'plain'")
        from_files = self._flow_from_files(dataset)
        settings = {
            "data": dataset.name, "weights": fingerprint(variables), "model": plain_arguments(self.model),
            "size": self.size, "input_size": self.input_size, "reading": reading, "layout": layout,
            "flow": "files" if from_files else self.flow_recipe.to_json(),
        }  # fmt: skip
        settings = {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}
        check_manifest(root, settings, overwrite, writer=host == 0)

        outcome = Outcome(root)
        mine = [dataset.videos[i] for i in share_of([len(video) for video in dataset.videos], host, hosts)]
        groups: dict[tuple[int, int], list[VideoRecord]] = {}
        for video in mine:
            folder = VideoFolder(root, video.name, video.frame_names, layout)
            if not overwrite and len(video) and folder.complete():
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
        for size, videos in groups.items():
            _Run(self, placed, size, videos, from_files, root, reading, layout, outcome, advance).go()
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


class _Run:
    """One data set's videos of one network size: read ahead, compute, write behind."""

    def __init__(
        self,
        predictor: DatasetPredictor,
        variables: Any,
        size: tuple[int, int],
        videos: list[VideoRecord],
        from_files: bool,
        root: Path,
        reading: str,
        layout: PredictionLayout,
        outcome: Outcome,
        advance: Callable[[int], None] | None,
    ) -> None:
        self._predictor = predictor
        self._steps = predictor._steps
        self._variables = variables
        self._size = size
        self._videos = videos
        self._from_files = from_files
        self._reading = reading
        self._outcome = outcome
        self._advance = advance or (lambda count: None)
        self._folders = [VideoFolder(root, video.name, video.frame_names, layout) for video in videos]
        self._writing: dict[int, list[Future]] = {}
        self._ended: set[int] = set()

    def go(self) -> None:
        """Predict all videos. Failing videos are noted in the outcome."""
        readers = ThreadPoolExecutor(self._predictor._workers, thread_name_prefix="hmhi-read")
        writers = ThreadPoolExecutor(self._predictor._workers, thread_name_prefix="hmhi-write")
        try:
            self._go(readers, writers)
        finally:
            readers.shutdown(cancel_futures=True)
            writers.shutdown(cancel_futures=True)
            for number in self._writing:
                self._folders[number].abandon()

    def _go(self, readers: ThreadPoolExecutor, writers: ThreadPoolExecutor) -> None:
        rounds = plan_rounds([len(video) for video in self._videos], self._steps.lanes, self._predictor.chunk)
        ahead: collections.deque[tuple[Round, list[Future | None]]] = collections.deque()

        def load_next() -> None:
            pieces = next(rounds, None)
            if pieces is not None:
                ahead.append((pieces, [piece and readers.submit(self._load, piece) for piece in pieces]))

        for _ in range(_READ_AHEAD):
            load_next()
        memory, computing = None, None
        while ahead:
            pieces, loads = ahead.popleft()
            loaded = [self._loaded(piece, load) for piece, load in zip(pieces, loads, strict=True)]
            load_next()
            memory, logits = self._compute(memory, pieces, loaded)
            # The devices are at this round; meanwhile the round before is fetched and written.
            if computing:
                self._write(writers, *computing)
            computing = pieces, loaded, logits
        if computing:
            self._write(writers, *computing)
        for number in list(self._writing):
            self._close(number)

    def _load(self, piece: Piece) -> Loaded:
        """Read a piece's frames, get their flow pictures, bring both to the network's size."""
        video = self._videos[piece.video]
        held: dict[int, np.ndarray] = {}

        def picture(number: int) -> np.ndarray:
            if number not in held:
                held[number] = read_picture(video.frames[number])
            return held[number]

        def flow(number: int) -> np.ndarray:
            if self._from_files:
                return read_picture(video.flows[number])
            # The last frame's flow goes back to the one before; a single frame's to itself.
            other = number + 1 if number + 1 < len(video) else max(number - 1, 0)
            if picture(number).shape != picture(other).shape:
                raise InputError(f"{video.frames[other]}: is of another size than {video.frame_names[number]}")
            return flow_picture(picture(number), picture(other), self._predictor.flow_recipe)

        frames, flows, sizes = [], [], []
        for number in range(piece.start, piece.stop):
            flows.append(resize_picture(flow(number), self._size))
            frames.append(resize_picture(picture(number), self._size))
            sizes.append(picture(number).shape[:2])
            held.pop(number - 1, None)
        return Loaded(np.stack(frames), np.stack(flows), tuple(sizes))

    def _loaded(self, piece: Piece | None, load: Future | None) -> Loaded | None:
        """A piece's pictures; None for no piece, and for all pieces of a video that cannot be read."""
        if piece is None:
            return None
        video = self._videos[piece.video]
        try:
            loaded = load.result()
        except InputError as error:
            self._fail(piece.video, str(error))
            loaded = None
        if video.name in self._outcome.failed:
            self._advance(len(piece))
            return None
        return loaded

    def _fail(self, number: int, reason: str) -> None:
        self._outcome.failed.setdefault(self._videos[number].name, reason)

    def _compute(self, memory: Any, pieces: Round, loaded: list[Loaded | None]) -> tuple[Any, list[jax.Array]]:
        lanes, chunk = self._steps.lanes, self._predictor.chunk
        frames = np.zeros((lanes, chunk, *self._size, 3), np.uint8)
        flows = np.zeros_like(frames)
        for lane, piece in enumerate(loaded):
            if piece is not None:
                frames[lane, : len(piece.frames)] = piece.frames
                flows[lane, : len(piece.flows)] = piece.flows
        fresh = np.array([piece is not None and piece.first for piece in pieces], bool)
        steps = max((len(piece.frames) for piece in loaded if piece), default=0)
        return self._steps.run(self._variables, memory, frames, flows, fresh, steps)

    def _write(
        self, writers: ThreadPoolExecutor, pieces: Round, loaded: list[Loaded | None], logits: list[jax.Array]
    ) -> None:
        """Fetch a round's logits, hand them to the writers, and close the videos that ended with it."""
        on_host = [np.asarray(output)[:, 0, :, :, 0] for output in logits]
        for lane, (piece, pictures) in enumerate(zip(pieces, loaded, strict=True)):
            if piece is None or pictures is None:
                continue
            if piece.first:
                self._folders[piece.video].begin()
                self._writing[piece.video] = []
            for t in range(len(piece)):
                work = piece.video, piece.start + t, on_host[t][lane], pictures.sizes[t]
                self._writing[piece.video].append(writers.submit(self._write_frame, *work))
            if piece.last:
                self._ended.add(piece.video)
        for number in [number for number, futures in self._writing.items() if all(future.done() for future in futures)]:
            self._close(number)
        while (waiting := [f for futures in self._writing.values() for f in futures if not f.done()]) and (
            len(waiting) > _UNWRITTEN
        ):
            waiting[0].result()

    def _write_frame(self, number: int, frame: int, logits: np.ndarray, size: tuple[int, int]) -> None:
        self._folders[number].write(frame, as_read(logits, size, self._reading))
        self._advance(1)

    def _close(self, number: int) -> None:
        """What a video's writers have said; the folder gets its name when the video has ended."""
        name = self._videos[number].name
        for future in self._writing[number]:
            future.result()
        if name in self._outcome.failed:
            self._folders[number].abandon()
            del self._writing[number]
        elif number in self._ended:
            self._folders[number].finish()
            self._outcome.predicted.append(name)
            del self._writing[number]
