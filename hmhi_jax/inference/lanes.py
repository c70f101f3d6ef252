"""Videos on the lanes of a network, from prepared frames to logits, and which videos each of several hosts takes.

A stream is one video on a network of one lane. Several videos are each driven by a thread of its own; their chunks are
computed together, in rounds, as soon as every lane that is taken has one. A video that ends hands its lane to the next
one that waits, so that a long video never holds up the others.
"""

import collections
import contextlib
import functools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import jax
import numpy as np
from jaxtyping import Array, Float, UInt8

from hmhi_jax.errors import InputError
from hmhi_jax.inference.network import Network
from hmhi_jax.inference.network_input import Prepared
from hmhi_jax.inference.pipeline import StageTimes
from hmhi_jax.inference.stream_state import StreamState
from hmhi_jax.models import Memory


@dataclass(frozen=True, kw_only=True)
class Result(Prepared):
    """A frame with what the network says of it.

    flow              also where the network did not look at the frame: that of the key frame before it
    logits            float32 `[h, w]` at the network's size, on the accelerator if there is one
    state             brings the memory after this frame to the host, at the frames where one was due
    logits_by_colour  the logits, moved by what the frame's colours say (`colours.Colours`), where its mask is to be
                      refined
    """

    flow: UInt8[np.ndarray, "h w 3"] = field(kw_only=False)
    logits: Float[np.ndarray | Array, "h w"]
    state: Callable[[], StreamState] | None = None
    logits_by_colour: Float[np.ndarray, "h w"] | None = None


_Sent = tuple[int, list[Array], Memory | None]  # the lane, all lanes' logits by frame, the lane's memory if one is due


@dataclass(frozen=True)
class _Chunk:
    """Some frames of a lane's video. `before` is the memory they follow on, where it is not the lane's own."""

    frames: list[Prepared]
    fresh: bool
    before: Memory | None
    sent: Future[_Sent] = field(default_factory=Future)


class Lanes:
    """The lanes of a network, the videos that are on them, and their memory.

    All videos are of one network size; at most as many as there are lanes are worked on, others wait for a lane.
    """

    def __init__(self, network: Network, chunk: int) -> None:
        """`chunk` is how many frames of a video are computed at a time."""
        self.network, self.chunk = network, chunk
        self._changed = threading.Condition()
        self._free = list(range(network.lanes))[::-1]
        self._waiting: collections.deque[Future[int]] = collections.deque()
        self._taken: set[int] = set()
        self._chunks: dict[int, _Chunk] = {}
        self._memory: Memory | None = None

    def results(
        self,
        prepared: Iterable[Prepared],
        state: StreamState | None,
        times: StageTimes,
        *,
        every: int = 1,
        read_ahead: bool = True,
    ) -> Iterator[Result]:
        """One result per frame of a video, in order; with `state`, going on from there. The frames may be key frames
        alone: those whose number is a multiple of `every`, and some others.

        While the device works at a chunk, the next one is collected and sent off, unless `read_ahead` is off or the
        chunk is the first: the first masks do not wait for the second chunk.
        """
        pending: Iterator[Result] = iter(())
        begun = False
        with contextlib.ExitStack() as lane_held:
            for batch in _batches(prepared, self.chunk, every):
                if not begun:
                    before = state and self._restored(state, batch[0].picture.shape[:2])
                    lane = lane_held.enter_context(self._lane())
                with times.measure("network" if begun else "first chunk, with compilation"):
                    fresh = batch[0].begins_shot or (not begun and state is None)
                    sent = self._compute(lane, _Chunk(batch, fresh, None if begun else before))
                yield from pending
                pending = times.timed("network", self._computed(batch, *sent))
                if not read_ahead or not begun:
                    yield from pending
                begun = True
        if not begun and state is None:
            raise InputError("no frames: the video is empty, expected at least one frame")
        yield from pending

    def _computed(
        self, batch: list[Prepared], lane: int, logits: list[Array], memory: Memory | None
    ) -> Iterator[Result]:
        """Wait for the results of a chunk that is being computed, one by one."""
        for item, own in zip(batch, logits, strict=False):
            state = None
            if memory is not None and item is batch[-1]:
                state = functools.partial(StreamState.of, item.index + 1, memory, item.remember, item.picture.shape[:2])
            yield Result(**vars(item), logits=self.network.lane_logits(own, lane), state=state)

    def _restored(self, state: StreamState, size: tuple[int, int]) -> Memory:
        if state.network_size != size:
            raise InputError(
                f"saved memory: the network ran at {_text(state.network_size)}, now it would run at {_text(size)}; "
                "choose that size or start over"
            )
        of_lanes = self.network.memory_shapes(size, self.chunk)
        return state.to_memory(jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), of_lanes))

    @contextlib.contextmanager
    def _lane(self) -> Iterator[int]:
        """A lane of one's own, waited for if need be."""
        lane: Future[int] = Future()
        try:
            with self._changed:
                self._waiting.append(lane)
                self._hand_out()
                while not lane.done():
                    self._changed.wait(0.5)  # with a limit, so that Ctrl-C gets through on every system
            yield lane.result()
        finally:
            with self._changed:
                if lane.done():
                    self._taken.remove(lane.result())
                    self._free.append(lane.result())
                else:
                    self._waiting.remove(lane)
                self._hand_out()
                self._changed.notify_all()

    def _hand_out(self) -> None:
        while self._free and self._waiting:
            lane = self._free.pop()
            self._taken.add(lane)  # from now on a round waits for it
            self._waiting.popleft().set_result(lane)
            self._changed.notify_all()

    def _compute(self, lane: int, chunk: _Chunk) -> _Sent:
        """Send a lane's chunk off, with those of all others that are taken."""
        with self._changed:
            self._chunks[lane] = chunk
            self._changed.notify_all()
            while not chunk.sent.done():
                if self._chunks.keys() >= self._taken:
                    self._round()
                else:
                    self._changed.wait(0.5)
        return chunk.sent.result()

    def _round(self) -> None:
        chunks, self._chunks = self._chunks, {}
        try:
            logits, memories = self._run(chunks)
            for lane, chunk in chunks.items():
                chunk.sent.set_result((lane, logits, memories.get(lane)))
        except BaseException as error:
            self._memory = None
            for chunk in chunks.values():
                chunk.sent.set_exception(error)
        self._changed.notify_all()

    def _run(self, chunks: dict[int, _Chunk]) -> tuple[list[Array], dict[int, Memory]]:
        example = next(iter(chunks.values())).frames[0].picture
        lanes = self.network.lanes
        pictures = np.zeros((2, lanes, self.chunk, *example.shape), np.uint8)
        fresh, counts = np.zeros(lanes, bool), np.zeros(lanes, np.int32)
        for lane, chunk in chunks.items():
            for t, item in enumerate(chunk.frames):
                pictures[:, lane, t] = item.network_input
            fresh[lane], counts[lane] = chunk.fresh, len(chunk.frames)
            if chunk.before is not None:
                self._memory = self.network.with_memory(self._memory, lane, chunk.before)
        wanted = [lane for lane, chunk in chunks.items() if chunk.frames[-1].keep_memory]
        memory, self._memory = self._memory, None  # it is used up, also where what follows fails
        self._memory, logits, memories = self.network.run(memory, *pictures, fresh, counts, wanted)
        return logits, memories


def _batches(items: Iterable[Prepared], size: int, every: int) -> Iterator[list[Prepared]]:
    """Up to `size` frames each, of at most `size` times `every` numbers that begin at a multiple of that: so a stream
    goes on exactly from there. A new shot begins a batch."""
    batch: list[Prepared] = []
    for item in items:
        if batch and (item.begins_shot or item.index // (size * every) != batch[0].index // (size * every)):
            yield batch
            batch = []
        batch.append(item)
        if len(batch) == size or (item.index + 1) % (size * every) == 0:
            yield batch
            batch = []
    if batch:
        yield batch


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def share_of(lengths: Sequence[int], host: int, hosts: int) -> list[int]:
    """The videos one of several hosts takes: each goes to the host with the fewest frames so far, longest first.

    Every host computes the same shares from the same lengths, so nobody has to tell.
    """
    loads, shares = [0] * hosts, [[] for _ in range(hosts)]
    for video in sorted(range(len(lengths)), key=lambda video: (-lengths[video], video)):
        least = min(range(hosts), key=lambda index: (loads[index], index))
        loads[least] += lengths[video]
        shares[least].append(video)
    return sorted(shares[host])
