"""One pass over videos: threads read, the devices compute, threads write. `dataset` is what people call."""

import collections
import dataclasses
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hmhi_jax.data.decoding import read_picture
from hmhi_jax.data.flow import FlowRecipe, neighbours_of
from hmhi_jax.data.layouts import VideoRecord
from hmhi_jax.data.preprocessing import resize_picture
from hmhi_jax.errors import InputError
from hmhi_jax.inference.batched_step import BatchedSteps
from hmhi_jax.inference.lanes import Piece, Round, plan_rounds
from hmhi_jax.inference.learned_flow import LearnedFlow, picture_from
from hmhi_jax.inference.prediction_files import VideoFolder, as_read

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


@dataclasses.dataclass(frozen=True)
class Work:
    """What to predict and how: videos and where each one goes, the network's (height, width), what makes flow pictures
    (None: the data set's are taken), and as which readings predictions are saved: each video has a folder for every
    one."""

    videos: list[VideoRecord]
    folders: list[tuple[VideoFolder, ...]]
    size: tuple[int, int]
    flow: FlowRecipe | LearnedFlow | None
    readings: tuple[str, ...]


class DatasetRun:
    """Videos of one network size: read ahead, compute, write behind."""

    def __init__(
        self,
        steps: BatchedSteps,
        variables: Any,
        work: Work,
        outcome: Outcome,
        chunk: int,
        workers: int,
        advance: Callable[[int], None] | None,
    ) -> None:
        """`variables` are on the devices already; `chunk` and `workers` are as in `DatasetPredictor`."""
        self._steps = steps
        self._variables = variables
        self._work = work
        self._videos, self._folders = work.videos, work.folders
        self._outcome = outcome
        self._chunk = chunk
        self._workers = workers
        self._advance = advance or (lambda count: None)
        self._writing: dict[int, list[Future]] = {}
        self._ended: set[int] = set()

    def go(self) -> None:
        """Predict all videos. Failing videos are noted in the outcome."""
        readers = ThreadPoolExecutor(self._workers, thread_name_prefix="hmhi-read")
        writers = ThreadPoolExecutor(self._workers, thread_name_prefix="hmhi-write")
        try:
            self._go(readers, writers)
        finally:
            readers.shutdown(cancel_futures=True)
            writers.shutdown(cancel_futures=True)
            for number in self._writing:
                self._each(number, VideoFolder.abandon)

    def _go(self, readers: ThreadPoolExecutor, writers: ThreadPoolExecutor) -> None:
        rounds = plan_rounds([len(video) for video in self._videos], self._steps.lanes, self._chunk)
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
            source = self._work.flow
            if source is None:
                return read_picture(video.flows[number])
            recipe = source if isinstance(source, FlowRecipe) else source.recipe
            other, opposite = neighbours_of(number, len(video), recipe)
            if picture(number).shape != picture(other).shape:
                raise InputError(f"{video.frames[other]}: is of another size than {video.frame_names[number]}")
            behind = None if opposite is None else picture(opposite)
            return picture_from(source, picture(number), picture(other), behind)

        frames, flows, sizes = [], [], []
        for number in range(piece.start, piece.stop):
            flows.append(resize_picture(flow(number), self._work.size))
            frames.append(resize_picture(picture(number), self._work.size))
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

    def _each(self, number: int, action: Callable[[VideoFolder], None]) -> None:
        for folder in self._folders[number]:
            action(folder)

    def _fail(self, number: int, reason: str) -> None:
        self._outcome.failed.setdefault(self._videos[number].name, reason)

    def _compute(self, memory: Any, pieces: Round, loaded: list[Loaded | None]) -> tuple[Any, list[jax.Array]]:
        lanes, chunk = self._steps.lanes, self._chunk
        frames = np.zeros((lanes, chunk, *self._work.size, 3), np.uint8)
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
                self._each(piece.video, VideoFolder.begin)
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
        for folder, reading in zip(self._folders[number], self._work.readings, strict=True):
            folder.write(frame, as_read(logits, size, reading))
        self._advance(1)

    def _close(self, number: int) -> None:
        """What a video's writers have said; the folder gets its name when the video has ended."""
        name = self._videos[number].name
        for future in self._writing[number]:
            future.result()
        if name in self._outcome.failed:
            self._each(number, VideoFolder.abandon)
            del self._writing[number]
        elif number in self._ended:
            self._each(number, VideoFolder.finish)
            self._outcome.predicted.append(name)
            del self._writing[number]
