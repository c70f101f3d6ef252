"""Masks made tidy: small parts away, holes filled, edges moved and softened; and flicker damped along the motion, by
which labels of objects are carried from frame to frame too. Needs no network."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from hmhi_jax.data.flow import FlowRecipe, estimate_flow
from hmhi_jax.errors import InputError

_SIDE = 384  # pixels on the longer side, at which motion is estimated: 5 ms a frame
_LEAST = 12  # that the estimator takes
_RECIPE = FlowRecipe(preset="fast")
_ALIKE = 32.0  # grey levels by which a place may change and perhaps be the same place


@dataclasses.dataclass(frozen=True)
class CleanUp:
    """What to do with a mask, in this order; the defaults do nothing.

    min_area    parts of fewer pixels go
    fill_holes  holes of up to so many pixels are filled; what is open to the picture's edge is no hole
    grow        pixels by which the object grows on all sides; negative ones shrink it
    feather     pixels over which the edge fades, to either side: masks then have values between 0 and 255
    steady      share of what the frame before showed at the same place of the object, at least 0 and below 1: above a
                half an error of one frame vanishes, and what appears comes later by a frame or two; up to a half
                nothing changes but feathered edges
    """

    min_area: int = 0
    fill_holes: int = 0
    grow: float | int = 0.0
    feather: float | int = 0.0
    steady: float | int = 0.0

    def __post_init__(self) -> None:
        for name, value, most in (
            ("min_area", self.min_area, np.inf), ("fill_holes", self.fill_holes, np.inf),
            ("grow", abs(self.grow), 1000), ("feather", self.feather, 1000), ("steady", self.steady, 0.99),
        ):  # fmt: skip
            if not 0 <= value <= most:
                raise InputError(f"clean-up: {name} is {getattr(self, name)}, expected at least 0 and at most {most}")

    def frame(self, mask: UInt8[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W"]:
        """All that concerns one frame alone, of a mask in which values above 127 are the object."""
        if self == CleanUp(steady=self.steady):
            return mask
        inside = (mask > 127).astype(np.uint8)
        if self.min_area > 1:
            inside = _parts(inside, 8, lambda area, touches: area >= self.min_area)
        if self.fill_holes:
            outside = _parts(1 - inside, 4, lambda area, touches: touches | (area > self.fill_holes))
            inside = 1 - outside
        if self.grow > 0:
            inside = (_distance(1 - inside) <= self.grow).astype(np.uint8)
        elif self.grow < 0:
            inside = (_distance(inside) > -self.grow).astype(np.uint8)
        cleaned = inside * np.uint8(255)
        return cv2.GaussianBlur(cleaned, (0, 0), self.feather / 2) if self.feather else cleaned


def carry(
    there: np.ndarray,
    flow: Float[np.ndarray, "h w 2"],
    interpolation: int = cv2.INTER_LINEAR,
    border: int = cv2.BORDER_CONSTANT,
) -> np.ndarray:
    """What `there`, of another frame and at any size `[H, W]`, is in the frame whose `flow` leads to that one. Where it
    was out of view it is 0, or what another of OpenCV's borders makes of it."""
    height, width = there.shape[:2]
    if flow.shape[:2] != (height, width):
        scale = np.array([width / flow.shape[1], height / flow.shape[0]], np.float32)
        flow = cv2.resize(flow, (width, height), interpolation=cv2.INTER_LINEAR) * scale
    return cv2.remap(there, _grid(height, width) + flow, None, interpolation, borderMode=border)


@functools.lru_cache(maxsize=2)
def _grid(height: int, width: int) -> Float[np.ndarray, "h w 2"]:
    """The place of every pixel, (column, row)."""
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float32)


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
        return carry(before, self.flow, interpolation)


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
        change = np.maximum.reduce(cv2.split(cv2.absdiff(colour, motion.carry(before)))).astype(np.float32)
        trust = np.exp(-((cv2.blur(change, (5, 5)) / np.float32(_ALIKE)) ** 4))
        return dataclasses.replace(motion, trust=trust)

    def cut(self) -> None:
        """The next frame begins a new shot: it has no motion from the one before, and nothing is trusted."""
        self.before = None


class Steadiness:
    """Damps flicker along the motion, frame by frame, for `CleanUp.steady`; `shown` is what the last frame showed."""

    def __init__(self, options: CleanUp) -> None:
        self._share, self._soft = np.float32(options.steady), options.feather > 0
        self.shown: np.ndarray | None = None

    def __call__(self, mask: UInt8[np.ndarray, "H W"], motion: Motion) -> UInt8[np.ndarray, "H W"]:
        """The next frame's mask; `motion` leads back to the frame before it."""
        shown = mask.astype(np.float32)
        if self.shown is not None:
            trust = cv2.resize(motion.trust, mask.shape[::-1], interpolation=cv2.INTER_LINEAR)
            shown += self._share * trust * (motion.carry(self.shown) - shown)
        self.shown = shown
        return np.rint(shown).astype(np.uint8) if self._soft else (shown > 127.5) * np.uint8(255)


def clean_up(
    masks: Iterable[UInt8[np.ndarray, "H W"]],
    options: CleanUp,
    frames: Iterable[UInt8[np.ndarray, "H W 3"]] | None = None,
) -> Iterator[UInt8[np.ndarray, "H W"]]:
    """The masks of a video, tidied, as they come; as `hmhi segment` does it, and without the network.

    Args:
        masks: in order; values above 127 are the object.
        options: what to do.
        frames: the video's, RGB, at any one size; needed for `options.steady` alone.

    Raises:
        InputError: for frames that are wanted and not given, or are not as many as masks.
    """
    if not options.steady:
        yield from map(options.frame, masks)
        return
    if frames is None:
        raise InputError("clean-up: steady follows the motion between frames; give the frames too")
    follow, steady, pictures = Follower(), Steadiness(options), iter(frames)
    unequal = InputError("clean-up: there are not as many frames as masks, expected one per mask")
    for mask in masks:
        frame = next(pictures, None)
        if frame is None:
            raise unequal
        yield steady(options.frame(mask), follow(frame))
    if next(pictures, None) is not None:
        raise unequal


def _distance(inside: UInt8[np.ndarray, "H W"]) -> np.ndarray:
    """Pixels from each pixel of 1 to the nearest one of 0; as far as can be where there is none."""
    return cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def _parts(
    inside: UInt8[np.ndarray, "H W"], connectivity: int, kept: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> UInt8[np.ndarray, "H W"]:
    """Connected parts of 1 for which `kept`, of their areas and whether they touch the picture's edge, is true."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(inside, connectivity=connectivity)
    left, top, width, height, area = stats.T
    touches = (left == 0) | (top == 0) | (left + width == inside.shape[1]) | (top + height == inside.shape[0])
    wanted = kept(area, touches)
    wanted[0] = False
    return wanted.astype(np.uint8)[labels]
