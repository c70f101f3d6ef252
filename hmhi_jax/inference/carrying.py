"""What moved where between two frames that follow each other, by which masks and labels are carried along."""

import dataclasses
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from hmhi_jax.data.flow import FlowRecipe, estimate_flow

_SIDE = 384  # pixels on the longer side, at which motion is estimated: 5 ms a frame
_LEAST = 12  # that the estimator takes
_RECIPE = FlowRecipe(preset="fast")
_ALIKE = 32.0  # grey levels by which a place may change and perhaps be the same place


@dataclasses.dataclass(frozen=True)
class Motion:
    """From a frame back to the one before it.

    flow    pixels (right, down) at a small size, to where each place was
    trust   1 where the frame before looked the same there, towards 0 where it did not: what was hidden then, or cut
    colour  the frame at that size, RGB
    """

    flow: Float[np.ndarray, "h w 2"]
    trust: Float[np.ndarray, "h w"]
    colour: UInt8[np.ndarray, "h w 3"]

    def carry(self, before: np.ndarray, interpolation: int = cv2.INTER_LINEAR) -> np.ndarray:
        """What `before`, of the frame before and at any size `[H, W]`, is in this frame; 0 where it was out of view."""
        return _carried(before, self.flow, interpolation)


class Follower:
    """Sees the frames of a video in order and tells the motion from each back to the one before."""

    def __init__(self) -> None:
        self._before: UInt8[np.ndarray, "h w 3"] | None = None

    def __call__(self, frame: UInt8[np.ndarray, "H W 3"]) -> Motion:
        """The motion from `frame` to the one of the last call; of the first frame nothing is trusted."""
        size = _small(frame.shape[:2])
        colour = cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA)
        before, self._before = self._before, colour
        if before is None:
            return Motion(np.zeros((*size, 2), np.float32), np.zeros(size, np.float32), colour)
        flow = estimate_flow(colour, before, _RECIPE)
        change = cv2.absdiff(colour, _carried(before, flow, cv2.INTER_LINEAR)).max(-1).astype(np.float32)
        trust = np.exp(-((cv2.blur(change, (5, 5)) / np.float32(_ALIKE)) ** 4))
        return Motion(flow, trust, colour)

    def cut(self) -> None:
        """The next frame begins a new shot: it has no motion from the one before, and nothing is trusted."""
        self._before = None

    def state(self) -> dict[str, np.ndarray]:
        """What `restore` needs."""
        return {} if self._before is None else {"before": self._before}

    def restore(self, arrays: dict[str, Any]) -> None:
        """Go on after the frame at which `state` was taken."""
        self._before = arrays.get("before")


def _small(size: tuple[int, int]) -> tuple[int, int]:
    scale = min(1.0, _SIDE / max(size))
    height, width = (max(_LEAST, round(side * scale)) for side in size)
    return height, width


def _carried(before: np.ndarray, flow: Float[np.ndarray, "h w 2"], interpolation: int) -> np.ndarray:
    height, width = before.shape[:2]
    scale = np.array([width / flow.shape[1], height / flow.shape[0]], np.float32)
    places = cv2.resize(flow, (width, height), interpolation=cv2.INTER_LINEAR) * scale
    places[..., 0] += np.arange(width, dtype=np.float32)
    places[..., 1] += np.arange(height, dtype=np.float32)[:, None]
    return cv2.remap(before, places, None, interpolation, borderMode=cv2.BORDER_CONSTANT)
