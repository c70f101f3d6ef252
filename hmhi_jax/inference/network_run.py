"""The network at work on prepared frames: chunks to the device, logits back, the memory carried along."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from hmhi_jax.data.preprocessing import normalise
from hmhi_jax.errors import InputError
from hmhi_jax.inference.export import ExportedNetwork
from hmhi_jax.inference.network_input import Prepared
from hmhi_jax.inference.pipeline import StageTimes
from hmhi_jax.inference.stream_state import StreamState
from hmhi_jax.models import Features, HMHINet, Memory, frame


@functools.partial(jax.jit, static_argnums=0)
def encode(
    model: HMHINet | ExportedNetwork, variables: Any, frames: UInt8[Array, "T H W 3"], flows: UInt8[Array, "T H W 3"]
) -> tuple[Features, ...]:
    """Maps of each frame by itself, so that `start` and `step` are compiled once whatever T is."""
    if isinstance(model, ExportedNetwork):
        each = range(frames.shape[0])
        return tuple(model.apply(variables, frames[t : t + 1], flows[t : t + 1], method="encode") for t in each)
    features = model.apply(variables, normalise(frames)[None], normalise(flows)[None], method="encode")
    return tuple(frame(features, t) for t in range(frames.shape[0]))


@functools.partial(jax.jit, static_argnums=0)
def start(
    model: HMHINet | ExportedNetwork, variables: Any, features: Features
) -> tuple[Memory, Float[Array, "1 H W 1"]]:
    """Memory after the first frame, and its logits."""
    return model.apply(variables, features, method="start")


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def step(
    model: HMHINet | ExportedNetwork, variables: Any, memory: Memory, features: Features
) -> tuple[Memory, Float[Array, "1 H W 1"]]:
    """Memory after one more frame, in the place of the one before, and the frame's logits."""
    return model.apply(variables, memory, features, method="step")


@dataclasses.dataclass(frozen=True)
class Result:
    """What the network says of one frame, still at the network's size.

    index, name     of the frame
    size            (height, width) of the frame
    logits          float32 `[h, w]` at the network's size
    kept            what the caller asked to keep of the frame
    state           a function that brings the memory after this frame to the host, at the frames where one was due
    """

    index: int
    name: str
    size: tuple[int, int]
    logits: Float[np.ndarray, "h w"]
    kept: Any = None
    state: Callable[[], StreamState] | None = None

    def logits_at(self, size: tuple[int, int]) -> Float[np.ndarray, "H W"]:
        """Logits resized bilinearly (half-pixel centres, no antialiasing: docs/model.md 8) to (height, width)."""
        return cv2.resize(self.logits, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)


@dataclasses.dataclass(frozen=True)
class NetworkRun:
    """A model with its variables on a device, run over the frames of one video."""

    model: HMHINet | ExportedNetwork
    variables: Any
    device: jax.Device

    def results(
        self,
        prepared: Iterable[Prepared],
        chunk: int,
        state: StreamState | None,
        times: StageTimes,
        read_ahead: bool = True,
    ) -> Iterator[Result]:
        """One result per frame, in order; with `state`, going on from there.

        While the device works at a chunk, the next one is collected and sent off, unless `read_ahead` is off or the
        chunk is the first.
        A short last chunk is filled up for the encoder only, so that one compiled program serves all; the memory never
        sees the filling.
        """
        memory: Memory | None = None
        network_size: tuple[int, int] | None = None
        pending: list[tuple[Prepared, Array, Memory | None]] = []
        started = False
        for batch in _batches(prepared, chunk):
            if network_size is None:
                network_size = batch[0].picture.shape[:2]
                if state is not None:
                    memory = self._restore(state, network_size)
            with times.measure("network" if started else "first chunk, with compilation"):
                filling = [batch[-1]] * (chunk - len(batch))
                pictures = np.stack([item.picture for item in (*batch, *filling)])
                flows = np.stack([item.flow for item in (*batch, *filling)])
                features = encode(self.model, self.variables, *jax.device_put((pictures, flows), self.device))
                sent = []
                for item, maps in zip(batch, features, strict=False):  # the filling's maps are left
                    if memory is None:
                        memory, logits = start(self.model, self.variables, maps)
                    else:
                        memory, logits = step(self.model, self.variables, memory, maps)
                    copy = jax.tree.map(jnp.copy, memory) if item.state_due else None  # the next step overwrites it
                    sent.append((item, logits, copy))
            yield from self._fetch(pending, network_size, times)
            pending = sent
            # The first masks do not wait for the second chunk, whose programs may have to be compiled.
            if not read_ahead or not started:
                yield from self._fetch(pending, network_size, times)
            started = True
        if network_size is None and state is None:
            raise InputError("no frames: the video is empty, expected at least one frame")
        yield from self._fetch(pending, network_size, times)

    def _fetch(
        self, sent: list[tuple[Prepared, Array, Memory | None]], network_size: tuple[int, int] | None, times: StageTimes
    ) -> Iterator[Result]:
        """Wait for what was sent to the device."""
        while sent:
            item, logits, memory = sent.pop(0)
            with times.measure("network"):
                on_host = np.array(logits)[0, :, :, 0]
            state = None
            if memory is not None:
                state = functools.partial(StreamState.of, item.index + 1, memory, item.remember, network_size)
            yield Result(item.index, item.name, item.size, on_host, item.kept, state)

    def _restore(self, state: StreamState, network_size: tuple[int, int]) -> Memory:
        if state.network_size != network_size:
            raise InputError(
                f"saved memory: the network ran at {_text(state.network_size)}, now it would run at "
                f"{_text(network_size)}; choose that size or start over"
            )
        blank = np.zeros((1, *network_size, 3), np.uint8)

        def first_memory() -> Memory:
            (maps,) = encode(self.model, self.variables, blank, blank)
            return start(self.model, self.variables, maps)[0]

        return state.to_memory(first_memory, self.device)


def _batches(items: Iterable[Prepared], size: int) -> Iterator[list[Prepared]]:
    batch: list[Prepared] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
