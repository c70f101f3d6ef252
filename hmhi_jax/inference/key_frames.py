"""Frames that the network does not look at: their logits are carried along the motion from the key frames around them.

The network takes most of a frame's time, and little changes from a frame to the next. So it may look at every N-th
frame only, its key frames, at fewer where little changes (`network_input.prepare` chooses), and at the first and the
last of every shot. What it says of the key frames on either side is carried, along the motion from frame to frame, to
each one between them, and so are the pictures of the key frames. How well they then match the frame tells how far each
side is to be believed there; where neither matches, nothing is said, and it is left to the colours (`colours.Colours`)
what is object. The constants were chosen on training videos of DAVIS-2016 (docs/weights.md).
"""

import collections
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from hmhi_jax.inference.clean_up import carry
from hmhi_jax.inference.lanes import Result
from hmhi_jax.inference.network_input import Prepared, difference
from hmhi_jax.inference.pipeline import StageTimes
from hmhi_jax.inference.stream_state import StreamState

_BELIEVED = 5.0  # levels (0 to 255) of difference by which the belief in one side, against the other, falls to 1/e
_SAID = 20.0  # and those by which the logits themselves do, where both sides differ
_LIMIT = 8.0  # logits beyond count as this much: certainty a few frames away is no certainty here


class _Side(NamedTuple):
    """A key frame, seen from a frame on one side of it: what it says, its picture, and the flow that leads there, None
    from itself."""

    logits: Float32[np.ndarray, "h w"]
    picture: UInt8[np.ndarray, "h w 3"]
    flow: Float32[np.ndarray, "h w 2"] | None = None

    def further(self, flow: Float32[np.ndarray, "h w 2"]) -> "_Side":
        """From a neighbouring frame, from which `flow` leads to this one. Flows are added up, and not logits carried
        again and again, which would blur them."""
        if self.flow is not None:
            flow = flow + carry(self.flow, flow, border=cv2.BORDER_REPLICATE)
        return self._replace(flow=flow)

    def carried(self) -> tuple[Float32[np.ndarray, "h w"], UInt8[np.ndarray, "h w 3"]]:
        """The logits and the picture."""
        return carry(self.logits, self.flow), carry(self.picture, self.flow)


class KeyFrames:
    """One video's frames on their way around the network: `keys` lets key frames through to it and keeps the others,
    `results` puts these back in their places. The two may be read by different threads."""

    def __init__(self) -> None:
        self._between: collections.deque[Prepared] = collections.deque()

    def keys(self, prepared: Iterable[Prepared]) -> Iterator[Prepared]:
        """The key frames, in order."""
        for frame in prepared:
            if frame.flow is not None:
                yield frame
            else:
                self._between.append(frame)

    def results(self, keys: Iterable[Result], times: StageTimes) -> Iterator[Result]:
        """A result for every frame, in order, of those of the key frames; how long it takes is added to `times`."""
        before: Result | None = None
        for key in keys:
            frames = []
            while self._between and self._between[0].index < key.index:
                frames.append(self._between.popleft())
            if before and frames:
                yield from times.timed("carrying", _carried_between(before, frames, key))
            # What a key frame remembers of the memory may be for the state after a frame that follows.
            yield key if key.remember is not None else dataclasses.replace(key, state=None)
            before = key


def _carried_between(before: Result, frames: list[Prepared], after: Result) -> Iterator[Result]:
    """Results of the frames between two key frames. Their flow picture is that of the key frame `before` them."""
    one, other = (_Side(np.clip(np.asarray(key.logits), -_LIMIT, _LIMIT), key.picture) for key in (before, after))
    from_after = []
    for frame in reversed(frames):
        other = other.further(frame.motion)
        from_after.append(other)
    for frame, motion in zip(frames, [before.motion, *(frame.motion for frame in frames)], strict=False):
        # Back to the frame before: against that one's motion, which is nearly the same a step back along it.
        one = one.further(-carry(motion, -motion))
        logits = _agreed(one, from_after.pop(), frame.picture)
        state = functools.partial(_state_after, frame, before.state) if frame.remember is not None else None
        yield Result(**(vars(frame) | {"flow": before.flow}), logits=logits, state=state)


def _state_after(frame: Prepared, make: Callable[[], StreamState]) -> StreamState:
    """The state after a frame: the memory is that after the key frame before it."""
    return dataclasses.replace(make(), frames=frame.index + 1, previous=frame.remember)


def _agreed(one: _Side, other: _Side, picture: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "h w"]:
    """The logits of a frame with this picture, by what both sides say of it."""
    said, pictures = zip(one.carried(), other.carried(), strict=True)
    differences = [difference(each, picture) for each in pictures]
    beliefs = [cv2.exp(each / np.float32(-_BELIEVED)) for each in differences]
    logits = (beliefs[0] * said[0] + beliefs[1] * said[1]) / (beliefs[0] + beliefs[1])
    return logits * cv2.exp(np.minimum(*differences) / np.float32(-_SAID))
