"""From the network's word on a frame to its final mask: from logits at the network's size to an 8-bit picture at the
frame's (docs/model.md 8), then nothing there, clean-up and objects, what they remember being saved with the stream."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any, Literal, NamedTuple

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from hmhi_jax.inference.clean_up import CleanUp, Follower, Steadiness
from hmhi_jax.inference.confidence import Calibration, Lately
from hmhi_jax.inference.lanes import Result
from hmhi_jax.inference.objects import ObjectTracker

Reading = Literal["mask", "plain", "release"]
Logits = Float[np.ndarray | Array, "h w"]
_Map = Float[np.ndarray, "h w"]

# Of the guided filter:
RADIUS = 8  # of a window, in pixels of the network: 17 x 17
HALVED = 2**16  # pixels of the network from which on half of its size each way is fine enough, with windows of 9 x 9
STEADINESS = 1e-4 * 255**2  # colours (0 to 255) that vary less than this variance within a window explain nothing
LIMIT = 6.0  # logits beyond count as this much: certainty is no measure of a boundary's place
_BAND = 48  # rows of a frame at a time: what is needed in between stays in the processor's cache


def read_result(result: Result, reading: Reading, threshold: float = 0.5) -> UInt8[np.ndarray, "H W"]:
    """As `read_logits`, of a frame's result: of its logits moved by its colours and refined where it has a guide."""
    logits = result.logits
    if result.guide is not None:
        by_colour = logits if result.logits_by_colour is None else result.logits_by_colour
        bound = _logit(threshold) if reading == "mask" else None
        logits = refine(np.asarray(by_colour), result.picture, result.guide, bound)
    return read_logits(logits, result.size, reading, threshold)


def read_logits(
    logits: Logits, size: tuple[int, int], reading: Reading, threshold: float = 0.5
) -> UInt8[np.ndarray, "H W"]:
    """8-bit values of a frame at (height, width).

    Logits are resized bilinearly with half-pixel centres and no antialiasing; where they are still on an accelerator,
    it does all the work.

    Args:
        logits: of the frame, at the network's size.
        size: (height, width) of the result.
        reading: "mask" is 255 where the probability is above `threshold`, else 0. "plain" is the probability times
            255, rounded. "release" stretches the frame's probabilities to 0..1 first and rounds down, in float32,
            exactly as the release saves them.
        threshold: see "mask".
    """
    bound = _logit(threshold)
    if isinstance(logits, np.ndarray):
        resized = cv2.resize(logits, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
        return _values(resized, reading, bound, np)
    return np.asarray(_read_on_device(logits, size, reading, bound))


def _logit(threshold: float) -> float:
    """What logits are above where probabilities are above `threshold`: the sigmoid is monotonous."""
    return math.log(threshold / (1 - threshold))


def _values(logits: Any, reading: Reading, bound: Any, numpy: ModuleType) -> Any:
    if reading == "mask":
        return (logits > bound).astype(np.uint8) * np.uint8(255)
    probability = np.float32(1) / (np.float32(1) + numpy.exp(-numpy.clip(logits, -80, 80)))
    if reading == "plain":
        return numpy.rint(probability * np.float32(255)).astype(np.uint8)
    low, high = probability.min(), probability.max()
    stretched = (probability - low) / (high - low + np.float32(1e-8))
    return (stretched * np.float32(255)).astype(np.uint8)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _read_on_device(logits: Float[Array, "h w"], size: tuple[int, int], reading: Reading, bound: Any) -> Any:
    return _values(jax.image.resize(logits, size, "linear", antialias=False), reading, bound, jnp)


def refine(
    logits: _Map,
    small: UInt8[np.ndarray, "h w 3"],
    frame: UInt8[np.ndarray, "H W 3"],
    bound: float | None = None,
) -> Float[np.ndarray, "H W"]:
    """Logits at the size of `frame`, float32, that keep to its edges; `small` is the frame at the size of `logits`, the
    network's. A guided filter enlarges them (He et al., ECCV 2010, in the fast form of He and Sun, 2015).

    With `bound`, all that counts of them is whether they are above it; where no colour could change that, they are not
    computed.

    In every window of the frame at the network's size, or at half of it, the logits are fitted by a linear function of
    its colours. The functions, averaged over all windows that a pixel lies in and enlarged, are applied to the frame at
    its own size: so a boundary that the network drew a little beside an edge goes to the edge, and parts finer than the
    network's grid follow the frame's colours.
    """
    logits, colours = np.clip(logits, -LIMIT, LIMIT), small.astype(np.float32)
    if halved := logits.size >= HALVED:
        logits, colours = (
            cv2.resize(each, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) for each in (logits, colours)
        )
    functions = _linear_functions(logits, cv2.split(colours), RADIUS // 2 if halved else RADIUS)
    (height, width), (rows, columns) = frame.shape[:2], logits.shape
    side = np.ones(logits.shape, np.uint8) if bound is None else _sides(functions, bound)
    # So many blocks of columns have whole columns at both sizes: each can be enlarged without the others.
    blocks = math.gcd(width, columns)
    # Bilinear with half-pixel centres; rows first, so that a band of the frame needs nothing but its own rows.
    places = np.clip((np.arange(height) + 0.5) * rows / height - 0.5, 0, rows - 1)
    above = places.astype(int)
    below, share = np.minimum(above + 1, rows - 1), np.float32(places - above)[:, None]
    refined = np.empty((height, width), np.float32)
    for first in range(0, height, _BAND):
        band = np.s_[first : first + _BAND]
        seen = side[above[band][0] : below[band][-1] + 1]
        begin, end = _undecided(seen, blocks)
        left, right = (block * width // blocks for block in (begin, end))
        if bound is not None:
            refined[band, :left], refined[band, right:] = (bound - 1.0 + seen[0, edge] for edge in (0, -1))
        if begin == end:
            continue
        part = np.s_[begin * columns // blocks : end * columns // blocks]
        *slopes, sums = (
            cv2.resize(
                each[above[band], part] * (1 - share[band]) + each[below[band], part] * share[band],
                (right - left, len(share[band])),
            )
            for each in functions
        )
        for slope, channel in zip(slopes, cv2.split(frame[band, left:right]), strict=True):
            sums += np.multiply(slope, channel, out=slope)
        refined[band, left:right] = sums
    return refined


def _sides(functions: Sequence[_Map], bound: float) -> UInt8[np.ndarray, "h w"]:
    """Where linear functions of colours (0 to 255) stay below `bound` whatever the colour (0), and above it (2); and
    where neither is so, there or at a neighbour that is interpolated with (1)."""
    *slopes, offset = functions
    lowest, highest = (offset + 255 * sum(bend(slope, 0) for slope in slopes) for bend in (np.minimum, np.maximum))
    side = (lowest > bound).astype(np.uint8) + (highest >= bound)
    window = np.ones((3, 3), np.uint8)
    fewest, most = cv2.erode(side, window), cv2.dilate(side, window)
    return np.where(fewest == most, side, np.uint8(1))


def _undecided(side: UInt8[np.ndarray, "rows w"], blocks: int) -> tuple[int, int]:
    """The first of `blocks` of columns, and the one after the last, that hold all undecided `_sides` and those that are
    interpolated with them."""
    undecided, columns = np.flatnonzero((side == 1).any(0)), side.shape[1]
    if not undecided.size:
        return 0, 0
    first, last = max(undecided[0] - 1, 0), min(undecided[-1] + 1, columns - 1)
    return int(first * blocks // columns), int(last * blocks // columns) + 1


def _linear_functions(logits: _Map, colours: Sequence[_Map], radius: int) -> list[_Map]:
    """The slopes of three colours and the offset of the function at every pixel, the mean of those of all windows."""
    side = 2 * radius + 1

    def over_window(values: _Map) -> _Map:
        """The mean around every pixel; beyond the border the picture is mirrored."""
        return cv2.blur(values, (side, side))

    means = [over_window(colour) for colour in colours]
    mean = over_window(logits)

    def covariance(i: int, j: int) -> _Map:
        return over_window(colours[i] * colours[j]) - means[i] * means[j]

    rr, gg, bb = (covariance(i, i) + np.float32(STEADINESS) for i in range(3))
    rg, rb, gb = covariance(0, 1), covariance(0, 2), covariance(1, 2)
    r, g, b = (over_window(colour * logits) - own * mean for colour, own in zip(colours, means, strict=True))
    # The three equations of every window, [[rr rg rb] [rg gg gb] [rb gb bb]] slopes = [r g b], by elimination.
    by_r, by_r_too = rg / rr, rb / rr
    gg, gb, bb = gg - by_r * rg, gb - by_r * rb, bb - by_r_too * rb
    g, b = g - by_r * r, b - by_r_too * r
    by_g = gb / gg
    slope_b = (b - by_g * g) / (bb - by_g * gb)
    slope_g = (g - gb * slope_b) / gg
    slope_r = (r - rg * slope_g - rb * slope_b) / rr
    slopes = [slope_r, slope_g, slope_b]
    offset = mean - sum(slope * own for slope, own in zip(slopes, means, strict=True))
    return [over_window(each) for each in (*slopes, offset)]


@dataclasses.dataclass(frozen=True)
class Postprocessing:
    """What to do with masks.

    clean_up     how they are tidied
    objects      number at most so many objects; None numbers none
    calibration  empty the masks of frames in which nothing moves by itself, by these constants; None leaves them
    """

    clean_up: CleanUp = dataclasses.field(default_factory=CleanUp)
    objects: int | None = None
    calibration: Calibration | None = None


class Read(NamedTuple):
    """A frame on its own: the network's word, the picture at any size of its shape, its mask, and log-odds of something
    that moves in it."""

    result: Result
    picture: UInt8[np.ndarray, "h w 3"]
    mask: UInt8[np.ndarray, "H W"]
    log_odds: float | None


class Finished(NamedTuple):
    """A frame with its final mask; labels where objects are numbered; confidence where it is calibrated.

    `saved` is what `Postprocessor.restore` takes, at frames after which the stream can go on.
    """

    result: Result
    mask: UInt8[np.ndarray, "H W"]
    labels: UInt8[np.ndarray, "H W"] | None
    confidence: float | None
    nothing: bool
    saved: tuple[dict[str, np.ndarray], dict[str, Any]] | None


class Postprocessor:
    """Follows one video. `read` may be called from several threads and for any frame, `follow` for each in order."""

    def __init__(self, options: Postprocessing, threshold: float) -> None:
        self._options, self._threshold = options, threshold
        self._lately, self._follow = Lately(), Follower()
        self._steady = Steadiness(options.clean_up) if options.clean_up.steady else None
        self._objects = ObjectTracker(options.objects) if options.objects else None

    def read(self, result: Result, picture: UInt8[np.ndarray, "h w 3"]) -> Read:
        """What concerns one frame alone."""
        mask = self._options.clean_up.frame(read_result(result, "mask", self._threshold))
        calibration = self._options.calibration
        return Read(result, picture, mask, calibration and calibration.log_odds(np.asarray(result.logits), result.flow))

    def follow(self, read: Read) -> Finished:
        """What depends on the frames before."""
        result, picture, mask, log_odds = read
        if result.begins_shot:
            self._lately = Lately()
            self._follow.cut()
        confidence, nothing = None, False
        if log_odds is not None and self._options.calibration:
            confidence = float(1 / (1 + np.exp(-log_odds)))
            nothing = self._lately(log_odds) < self._options.calibration.nothing_below
        if nothing:
            mask = np.zeros_like(mask)
        labels = None
        if self._steady or self._objects:
            motion = self._follow(picture)
            if self._steady:
                mask = self._steady(mask, motion)
            if nothing:  # whatever is left of the frames before
                mask = np.zeros_like(mask)
            if self._objects:
                labels = self._objects(mask, motion)
        return Finished(result, mask, labels, confidence, nothing, self._state() if result.state else None)

    def objects(self, names: list[str]) -> list[dict[str, Any]]:
        """A line for each object, with `names` of all frames so far; none where none are numbered."""
        lines = self._objects.objects() if self._objects else []
        return [{**line, "first": names[line["first"]], "last": names[line["last"]]} for line in lines]

    def _state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        arrays, objects = self._objects.state() if self._objects else ({}, None)
        arrays |= {"before": self._follow.before, "shown": self._steady and self._steady.shown}
        there = {name: array for name, array in arrays.items() if array is not None}
        return there, {"lately": self._lately.log_odds, "objects": objects}

    def restore(self, arrays: dict[str, np.ndarray], note: dict[str, Any]) -> None:
        """Go on after the frame that came with these as `saved`."""
        self._lately.log_odds = note["lately"]
        self._follow.before = arrays.get("before")
        if self._steady:
            self._steady.shown = arrays.get("shown")
        if self._objects:
            self._objects.restore(arrays, note["objects"])
