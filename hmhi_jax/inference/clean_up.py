"""Masks made tidy: small parts away, holes filled, edges moved and softened, flicker damped. Needs no network."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator

import cv2
import numpy as np
from jaxtyping import UInt8

from hmhi_jax.errors import InputError
from hmhi_jax.inference.carrying import Follower, Motion


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
