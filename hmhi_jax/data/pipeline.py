"""Endless batches of training clips: shuffled, sharded, read by grain's threads or worker processes.

Everything random is a function of (seed, position), where position `step * batch_size + i` counts clips since the
beginning of training: which video, which frames, how they are changed. So a batch does not depend on the number of
worker processes, nor on how many hosts share it, and the whole state of an iterator is its step.
"""

import logging
import os
import shutil
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import cv2
import grain
import numpy as np
from absl import flags
from jaxtyping import Int

from hmhi_jax.data.augmentation import Augmentation, draw_change
from hmhi_jax.data.clips import ClipSampling, empty_clips, load_clip, sample_clip
from hmhi_jax.data.layouts import Entry
from hmhi_jax.data.pictures import PICTURE_READINGS, PictureError
from hmhi_jax.errors import InputError

_log = logging.getLogger(__name__)

_ENDLESS = 2**40
_CLIP, _SUBSTITUTE, _SIZE, _ORDER, _OTHER = range(5)  # streams of random numbers
_ATTEMPTS = 8


@dataclass(frozen=True)
class PipelineConfig:
    """How batches are made. None of `workers`, `threads` and `buffer` changes them.

    batch_size  clips of a step, over all hosts
    sizes       (height, width) of training, multiples of 32; of several, each step draws one (multi-scale)
    seed        of everything random
    sampling, augmentation, reading
                see their own descriptions
    on_corrupt  a picture that cannot be read ends training ("fatal"), or its clip is replaced by another one, drawn
                from the same seed and position, and reported ("skip")
    workers     worker processes; 0 uses threads of this process (decoding releases Python's lock)
    threads     threads when there are no workers
    buffer      batches made ahead by each worker, or by all threads
    """

    batch_size: int = 8
    sizes: tuple[tuple[int, int], ...] = ((512, 512),)
    seed: int = 0
    sampling: ClipSampling = field(default_factory=ClipSampling)
    augmentation: Augmentation = field(default_factory=Augmentation)
    reading: str = "exact"
    on_corrupt: str = "skip"
    workers: int = 0
    threads: int = 4
    buffer: int = 2

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("seed", 0), ("workers", 0), ("threads", 1), ("buffer", 1)):
            if (value := getattr(self, name)) < least:
                raise InputError(f"data pipeline: {name} is {value}, expected at least {least}")
        if not self.sizes or any(side < 32 or side % 32 for size in self.sizes for side in size):
            raise InputError(f"data pipeline: sizes are {self.sizes}, expected (height, width) in multiples of 32")
        for name, choices in (("on_corrupt", ("skip", "fatal")), ("reading", PICTURE_READINGS)):
            if (choice := getattr(self, name)) not in choices:
                raise InputError(f"data pipeline: {name} is {choice!r}, expected one of {choices}")


@dataclass(frozen=True)
class BatchLoader:
    """Makes the batch of any step: `loader(step)`. Picklable, and the same in every process.

    Of a batch that `shards` hosts share, host `shard` makes the clips `[shard * b, (shard + 1) * b)`.
    """

    entries: tuple[Entry, ...]
    config: PipelineConfig
    shard: int = 0
    shards: int = 1

    def __post_init__(self) -> None:
        if self.config.batch_size % self.shards:
            raise InputError(
                f"data pipeline: batch_size is {self.config.batch_size}, expected a multiple of the {self.shards} "
                "processes that share it"
            )
        for entry in dict.fromkeys(self.entries):
            if not entry.video.annotated:
                raise InputError(f"{entry.name}: no frame has a mask; leave it out (--skip-bad) or annotate it")

    def __call__(self, step: int) -> dict[str, Any]:
        """The batch of a step; see `ClipPipeline`. Besides, "skipped": one line for each clip that was replaced."""
        local = self.config.batch_size // self.shards
        arrays = empty_clips(local, self.config.sampling.frames, self.size(step))
        clips = [{name: values[i] for name, values in arrays.items()} for i in range(local)]
        first = step * self.config.batch_size + self.shard * local
        skipped: list[str] = []
        loaded = [self._load(position, clip, skipped) for position, clip in enumerate(clips, first)]
        videos, numbers = zip(*loaded, strict=True)
        return arrays | {"video": np.array(videos), "index": np.array(numbers, np.int32), "skipped": skipped}

    def size(self, step: int) -> tuple[int, int]:
        """(height, width) of a step's batch."""
        return self.config.sizes[self._rng(_SIZE, step).integers(len(self.config.sizes))]

    def entry(self, position: int) -> Entry:
        """The entry at a position of the shuffled, endless sequence: each epoch has its own permutation of all."""
        epoch, offset = divmod(position, len(self.entries))
        return self.entries[_permutation(len(self.entries), self.config.seed, epoch)[offset]]

    def _load(self, position: int, out: dict[str, np.ndarray], skipped: list[str]) -> tuple[str, tuple[int, ...]]:
        sampling, augmentation = self.config.sampling, self.config.augmentation
        entry = self.entry(position)
        for attempt in range(_ATTEMPTS):
            if attempt:
                entry = self._any_entry(self._rng(_SUBSTITUTE, position, attempt))
            rng = self._rng(_CLIP, position, attempt)
            numbers = sample_clip(rng, entry.video, sampling)
            change = draw_change(rng, augmentation, len(numbers))
            other = None  # any video of the mixture and frames of it, whose flow a clip gets; by chance the clip's own
            if change.other_flow:
                rng = self._rng(_OTHER, position, attempt)
                video = self._any_entry(rng).video
                other = video, sample_clip(rng, video, sampling)
            try:
                load_clip(entry.video, numbers, change, self.config.reading, out, other)
            except PictureError as error:
                if self.config.on_corrupt == "fatal":
                    raise PictureError(f"{error} (a frame of {entry.name})") from error
                skipped.append(f"{error} (clip {position}, of {entry.name}, was replaced)")
            else:
                return entry.name, numbers
        raise PictureError(f"{_ATTEMPTS} clips in a row cannot be read, the last one because of: {skipped[-1]}")

    def _any_entry(self, rng: np.random.Generator) -> Entry:
        return self.entries[rng.integers(len(self.entries))]

    def _rng(self, *stream: int) -> np.random.Generator:
        return np.random.default_rng([self.config.seed, *stream])


@lru_cache(maxsize=4)  # batches made ahead may be of the next epoch already
def _permutation(entries: int, seed: int, epoch: int) -> Int[np.ndarray, " entries"]:
    """The order of an epoch."""
    return np.random.default_rng([seed, _ORDER, epoch]).permutation(entries)


class ClipPipeline(grain.DatasetIterator):
    """Iterator over batches, dicts of numpy arrays with B clips of this host:

        frames, flows   uint8 [B, T, H, W, 3]
        masks           uint8 {0, 1} [B, T, H, W, 1]
        valid           bool [B, T], whether the mask is known
        video           str [B], "<data set>/<video>"
        index           int32 [B, T], numbers of the frames

    `get_state()` is JSON: the step, and what it belongs to; it may be restored under any number of workers and hosts.
    Being grain's iterator, it also goes into `grain.checkpoint.CheckpointSave`. Of clips that were replaced it warns.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        config: PipelineConfig,
        *,
        shard: int = 0,
        shards: int = 1,
        stop: int | None = None,
    ):
        """`shard` of `shards`: this host's number among those that share a batch, and how many; `stop`: last step + 1.

        Raises InputError for a video without masks, or a batch that cannot be shared.
        """
        super().__init__()
        self._batches: grain.DatasetIterator | None = None  # first of all: grain's finaliser closes half-made iterators
        self.loader = BatchLoader(tuple(entries), config, shard, shards)
        self._stop = stop if stop is not None else _ENDLESS
        self._step = 0

    @property
    def step(self) -> int:
        """The step whose batch comes next."""
        return self._step

    @property
    def clips_per_epoch(self) -> int:
        """Number of clips that make an epoch: videos times repeats."""
        return len(self.loader.entries)

    def __next__(self) -> dict[str, Any]:
        if self._step >= self._stop:
            self._end()
            raise StopIteration
        self.start_prefetch()
        try:
            batch = next(self._batches)
        except InputError:
            self._end()
            raise
        except RuntimeError as error:
            self._end()
            raise RuntimeError(
                f"a data worker died while making the batch of step {self._step} ({error}); "
                "out of memory is the usual cause: lower `workers`, `buffer` or `batch_size`"
            ) from error
        for line in batch.pop("skipped"):
            _log.warning("step %d: %s", self._step, line)
        self._step += 1
        return batch

    def start_prefetch(self) -> None:
        """Begin to make batches ahead; the first `next` does it otherwise."""
        if self._closed:
            raise ValueError("this pipeline was closed")
        if self._batches is None:
            if not flags.FLAGS.is_parsed():  # grain reads its own, which absl allows only after parsing (absl.app does)
                flags.FLAGS.mark_as_parsed()
            self._batches = iter(self._dataset())
            self._batches.start_prefetch()

    def _dataset(self) -> grain.IterDataset:
        config = self.loader.config
        steps = grain.MapDataset.range(self._step, self._stop).map(self.loader)
        if not config.workers:
            ahead = max(config.buffer, config.threads)
            return steps.to_iter_dataset(grain.ReadOptions(num_threads=config.threads, prefetch_buffer_size=ahead))
        batches = steps.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
        if not self._fits_shared_memory():
            options = grain.experimental.DatasetOptions(min_shm_size=2**62)
            batches = grain.experimental.WithOptionsIterDataset(batches, options)
        options = grain.MultiprocessingOptions(num_workers=config.workers, per_worker_buffer_size=config.buffer)
        return batches.mp_prefetch(options, worker_init_fn=_prepare_worker)

    def _fits_shared_memory(self) -> bool:
        """Whether all batches in flight fit into /dev/shm: containers often have 64 MB there, and a write beyond it is
        a bus error. Pipes carry the batches then, which costs a copy."""
        config = self.loader.config
        pixels = max(height * width for height, width in config.sizes) * config.sampling.frames
        clips = config.batch_size // self.loader.shards
        needed = 7 * pixels * clips * config.workers * (config.buffer + 2)
        free = shutil.disk_usage("/dev/shm").free if os.path.isdir("/dev/shm") else needed
        if free < needed:
            _log.warning(
                "/dev/shm has %d MB free, %d workers want %d MB: batches go through pipes, which is slower "
                "(a container gets more with --shm-size)", free >> 20, config.workers, needed >> 20,
            )  # fmt: skip
        return free >= needed

    def get_state(self) -> dict[str, Any]:
        """What the next batch depends on, as JSON."""
        return self.state_at(self._step)

    def state_at(self, step: int) -> dict[str, Any]:
        """The state before the batch of `step` (of a loop that asks for batches ahead)."""
        config = self.loader.config
        return {"step": step, "seed": config.seed, "batch_size": config.batch_size, "clips": self.clips_per_epoch}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on where `get_state` was called. Raises InputError, naming the field, when it was another pipeline's."""
        here = self.get_state()
        for name in here.keys() - {"step"}:
            if state.get(name) != here[name]:
                raise InputError(
                    f"data state: {name} is {state.get(name)!r} in the checkpoint, {here[name]!r} in the configuration;"
                    " continue with the same data, or start afresh from the checkpoint's weights"
                )
        self._end()
        self._step = int(state["step"])

    def close(self) -> None:
        """Stop threads and workers."""
        self._end()
        self._closed = True

    def _end(self) -> None:
        if self._batches is not None:
            self._batches.close()
            self._batches = None


def _prepare_worker(number: int, count: int) -> None:
    """A worker leaves signals to the process it serves (which saves first), and does not outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    cv2.setNumThreads(1)
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
