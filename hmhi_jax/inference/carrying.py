"""What moved where between two frames that follow each other, by which masks and labels are carried along."""

import dataclasses

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
        height, width = before.shape[:2]
        scale = np.array([width / self.flow.shape[1], height / self.flow.shape[0]], np.float32)
        places = cv2.resize(self.flow, (width, height), interpolation=cv2.INTER_LINEAR) * scale
        places[..., 0] += np.arange(width, dtype=np.float32)
        places[..., 1] += np.arange(height, dtype=np.float32)[:, None]
        return cv2.remap(before, places, None, interpolation, borderMode=cv2.BORDER_CONSTANT)


class Follower:
    """Sees the frames of a video in order and tells the motion from each back to the one before.

    `before` is the last frame it saw, small, and all it remembers.
    """

    def __init__(self) -> None:
        self.before: UInt8[np.ndarray, "h w 3"] | None = None

    def __call__(self, frame: UInt8[np.ndarray, "H W 3"]) -> Motion:
        """The motion from `frame` to the one of the last call; of the first frame nothing is trusted."""
        scale = min(1.0, _SIDE / max(frame.shape[:2]))
        height, width = (max(_LEAST, round(side * scale)) for side in frame.shape[:2])
        colour = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
        before, self.before = self.before, colour
        nothing = np.zeros((height, width), np.float32)
        if before is None:
            return Motion(np.zeros((height, width, 2), np.float32), nothing, colour)
        motion = Motion(estimate_flow(colour, before, _RECIPE), nothing, colour)
        change = cv2.absdiff(colour, motion.carry(before)).max(-1).astype(np.float32)
        trust = np.exp(-((cv2.blur(change, (5, 5)) / np.float32(_ALIKE)) ** 4))
        return dataclasses.replace(motion, trust=trust)

    def cut(self) -> None:
        """The next frame begins a new shot: it has no motion from the one before, and nothing is trusted."""
        self.before = None
