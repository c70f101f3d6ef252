"""Optical flow: estimating it, drawing it as the network's second picture, and Middlebury files.

How the flow picture is made belongs to a set of weights; `FlowRecipe` says it in a form that is stored with them.
"""

import dataclasses
import functools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from hmhi_jax.complete_files import completed, readable, refuse_special
from hmhi_jax.data.camera import known_flow, remove_camera
from hmhi_jax.data.preprocessing import resize_picture
from hmhi_jax.errors import InputError

T = TypeVar("T")

_PRESETS = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}
_CHOICES = {
    "estimator": ("dis", "raft"),
    "preset": tuple(_PRESETS),
    "neighbours": ("next", "both"),
    "camera": ("none", "affine"),
    "normalisation": ("max", "robust"),
}
_OF_RAFT = ("network", "iterations", "weights")
_NETWORKS = ("raft_large", "raft_small")
NO_MOTION = 255  # the colour wheel's centre is white
# DIS needs at least one 8-pixel patch at a level it can smooth, RAFT a coarsest map of two pixels.
SMALLEST = {"dis": 12, "raft": 128}
_LARGEST_SIDE = 8192  # pixels, at which flow is estimated
_MOST_ITERATIONS = 1000  # of raft; its authors take up to 32


@dataclasses.dataclass(frozen=True)
class FlowRecipe:
    """How a flow picture is made from two frames. The defaults draw the raw flow as the authors' release expects it.

    estimator      "dis": dense inverse search (Kroeger et al., ECCV 2016) as in OpenCV; or "raft": the network of Teed
                   and Deng (ECCV 2020), which needs weights of its own
    preset         of dis: "ultrafast", "fast" or "medium"
    network        of raft: "raft_large" or "raft_small"
    iterations     of raft: how often the flow is improved
    weights        of raft: the checksum of its weights (`interop.flow_weights.weights_digest`)
    size           (height, width) at which flow is estimated; None for the pictures' own size
    neighbours     "next": the flow to the next frame; or "both": that and the flow to the frame before, turned round;
                   at every pixel the shorter one, once the camera's part is taken away. Beside a moving object one of
                   the two smears into background that the other neighbour still shows, and noise is rarely in both
    camera         "none", or "affine": subtract a robust affine fit, so that only what moves by itself keeps colour
    normalisation  what vector length gets full colour: "max", the longest vector of the picture; or "robust", the 99th
                   percentile of lengths, but never less than `least_motion` times the diagonal (longer vectors are cut
                   to full colour). With "robust", the noise that is left of a still scene stays pale.
    least_motion   see "robust", a fraction of the picture's diagonal; unused with "max"
    """

    estimator: str = "dis"
    preset: str = "medium"
    size: tuple[int, int] | None = None
    neighbours: str = "next"
    camera: str = "none"
    normalisation: str = "max"
    least_motion: int | float = 0.005
    network: str | None = None
    iterations: int | None = None
    weights: str | None = None

    def __post_init__(self) -> None:
        _check_recipe(vars(self))

    def fields(self) -> dict[str, Any]:
        """What says how pictures are made: without the fields that only another estimator has."""
        others = ("preset",) if self.estimator == "raft" else _OF_RAFT
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in others}

    def to_json(self) -> str:
        """One line of JSON; `from_json` reads it back."""
        return json.dumps(self.fields())

    @classmethod
    def from_json(cls, text: str) -> "FlowRecipe":
        """Read a recipe written by `to_json`. Raises `InputError` as `from_fields` does."""
        try:
            fields = json.loads(text)
        except (ValueError, TypeError, RecursionError) as error:
            raise InputError(f"flow recipe: not JSON ({error}): {str(text)[:80]!r}") from error
        return cls.from_fields(fields)

    @classmethod
    def from_fields(cls, fields: Any) -> "FlowRecipe":
        """The recipe of `fields`, as JSON has them. Those left out keep their defaults; unknown ones are an
        `InputError`."""
        if not isinstance(fields, dict):
            raise InputError(f"flow recipe: expected a JSON object, found {str(fields)[:80]!r}")
        known = {field.name: field.default for field in dataclasses.fields(cls)}
        if unknown := sorted(fields.keys() - known):
            raise InputError(f"flow recipe: unknown field {unknown[0]!r}, expected {', '.join(known)}")
        size = fields.get("size")
        fields = fields | {"size": tuple(size) if isinstance(size, list) else size}
        _check_recipe(known | fields)
        return cls(**fields)


def _check_recipe(fields: dict[str, Any]) -> None:
    def refuse(name: str, expected: str) -> None:
        raise InputError(f"flow recipe: {name} is {fields[name]!r}, expected {expected}")

    for name, choices in _CHOICES.items():
        if fields[name] not in choices:
            refuse(name, f"one of {', '.join(map(repr, choices))}")
    size, smallest = fields["size"], SMALLEST[fields["estimator"]]
    if size is not None and not (
        isinstance(size, tuple)
        and len(size) == 2
        and all(isinstance(n, int) and smallest <= n <= _LARGEST_SIDE for n in size)
    ):
        refuse("size", f"(height, width), whole numbers from {smallest} to {_LARGEST_SIDE}, or nothing")
    if fields["estimator"] == "raft":
        if fields["network"] not in _NETWORKS:
            refuse("network", f"one of {', '.join(map(repr, _NETWORKS))}")
        if type(fields["iterations"]) is not int or not 1 <= fields["iterations"] <= _MOST_ITERATIONS:
            refuse("iterations", f"a whole number from 1 to {_MOST_ITERATIONS}")
        if not isinstance(fields["weights"], str) or not re.fullmatch("[0-9a-f]{64}", fields["weights"]):
            refuse("weights", "a SHA-256 checksum in 64 hex digits")
    else:
        for name in _OF_RAFT:
            if fields[name] is not None:
                raise InputError(f"flow recipe: {name} is {fields[name]!r}, which only the estimator 'raft' has")
    if not isinstance(fields["least_motion"], (int, float)) or not 0 <= fields["least_motion"] < 1:
        refuse("least_motion", "a fraction of the diagonal in [0, 1)")


@runtime_checkable
class FlowEstimator(Protocol):
    """What makes flow pictures with a network; `inference.learned_flow.LearnedFlow` is one.

    recipe     how it makes them
    pictures   uint8 `[h, w, 3]` for each of `wanted`: frame, neighbour and opposite (see `neighbours_of`), numbers of
               `frames`, uint8 `[H, W, 3]` of one size; raises `InputError`
    """

    recipe: FlowRecipe

    def pictures(
        self, frames: Mapping[int, UInt8[np.ndarray, "H W 3"]], wanted: Sequence[tuple[int, int, int | None]]
    ) -> list[UInt8[np.ndarray, "h w 3"]]: ...


def estimate_flow(
    first: UInt8[np.ndarray, "H W 3"], second: UInt8[np.ndarray, "H2 W2 3"], recipe: FlowRecipe = FlowRecipe()
) -> Float[np.ndarray, "h w 2"]:
    """Optical flow from RGB frame `first` to `second`, camera included.

    Returns float32 (u to the right, v down) in pixels of the size it was estimated at: `recipe.size`, or the frames'.
    The result does not depend on OpenCV's number of threads. Raises `InputError` for frames of unequal or tiny size,
    and for a recipe of RAFT, which `inference.learned_flow` follows.
    """
    if recipe.estimator == "raft":
        raise InputError(
            f"flow recipe: the flow is {recipe.network}'s, whose weights are needed; name them with --flow-weights"
        )
    for frame in (first, second):
        if frame.dtype != np.uint8 or frame.shape[2:] != (3,):
            raise InputError(f"optical flow: a frame is {frame.dtype} {frame.shape}, expected uint8 (height, width, 3)")
    check_frame_sizes(first.shape[:2], second.shape[:2], SMALLEST["dis"], recipe.size)
    if recipe.size is not None:
        first, second = (resize_picture(frame, recipe.size) for frame in (first, second))
    grey = [cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in (first, second)]
    return cv2.DISOpticalFlow_create(_PRESETS[recipe.preset]).calc(*grey, None)


def check_frame_sizes(
    first: tuple[int, int], second: tuple[int, int], smallest: int, resized: tuple[int, int] | None, advice: str = ""
) -> None:
    """Raises `InputError` for frames (height, width) of unequal or too small a size; `resized` is what they are brought
    to before, if they are."""
    one, other, estimated = (" x ".join(map(str, size)) for size in (first, second, resized or first))
    if first != second:
        raise InputError(f"optical flow: frames of {one} and {other} (height x width), expected equal sizes")
    if min(resized or first) < smallest:
        raise InputError(f"optical flow: frames are {estimated}, expected at least {smallest} pixels each way{advice}")


def neighbours(before: T | None, frame: T, after: T | None, recipe: FlowRecipe) -> tuple[T, T | None]:
    """Which frames the flow of `frame` is estimated to, given those on either side of it (None at a video's ends): the
    next one, and the one before it (None where there is none, or the recipe asks for one neighbour).

    The last frame's flow goes back to the one before it, a single frame's to itself, which says "nothing moves".
    """
    if after is not None:
        return after, before if recipe.neighbours == "both" else None
    return (frame if before is None else before), None


def neighbours_of(number: int, count: int, recipe: FlowRecipe) -> tuple[int, int | None]:
    """`neighbours` of frame `number` of `count`, as numbers."""
    after = number + 1 if number + 1 < count else None
    return neighbours(number - 1 if number else None, number, after, recipe)


def flow_picture(
    frame: UInt8[np.ndarray, "H W 3"],
    neighbour: UInt8[np.ndarray, "H2 W2 3"],
    recipe: FlowRecipe = FlowRecipe(),
    opposite: UInt8[np.ndarray, "H3 W3 3"] | None = None,
) -> UInt8[np.ndarray, "h w 3"]:
    """The whole recipe: estimate, remove the camera if asked, draw. `[h, w]` is `recipe.size` or the frames' own.

    `neighbour` and `opposite` are the frames on either side of `frame`, see `neighbours_of`; only a recipe of both
    neighbours looks at `opposite`, and does without it at a video's ends.
    """
    flow = _moving(estimate_flow(frame, neighbour, recipe), recipe)
    if recipe.neighbours == "both" and opposite is not None:
        flow = _shorter(flow, -_moving(estimate_flow(frame, opposite, recipe), recipe))
    return _draw(flow, recipe)


@dataclasses.dataclass(frozen=True)
class DenseInverseSearch:
    """The `FlowEstimator` of recipes that need no network, and no weights."""

    recipe: FlowRecipe

    def pictures(
        self, frames: Mapping[int, UInt8[np.ndarray, "H W 3"]], wanted: Sequence[tuple[int, int, int | None]]
    ) -> list[UInt8[np.ndarray, "h w 3"]]:
        """`flow_picture` of each."""
        seen = [[None if number is None else frames[number] for number in numbers] for numbers in wanted]
        return [flow_picture(frame, neighbour, self.recipe, opposite) for frame, neighbour, opposite in seen]


def draw_flow(flow: Float[np.ndarray, "h w 2"], recipe: FlowRecipe) -> UInt8[np.ndarray, "h w 3"]:
    """The recipe's second half, for a flow that is already there (a `.flo` file, an exact synthetic flow)."""
    return _draw(_moving(flow, recipe), recipe)


def _moving(flow: Float[np.ndarray, "h w 2"], recipe: FlowRecipe) -> Float[np.ndarray, "h w 2"]:
    return remove_camera(flow) if recipe.camera == "affine" else flow


def _shorter(one: Float[np.ndarray, "h w 2"], other: Float[np.ndarray, "h w 2"]) -> Float[np.ndarray, "h w 2"]:
    squares = [(flow**2).sum(-1, keepdims=True) for flow in (one, other)]
    return np.where(squares[0] <= squares[1], one, other)


def _draw(flow: Float[np.ndarray, "h w 2"], recipe: FlowRecipe) -> UInt8[np.ndarray, "h w 3"]:
    if recipe.normalisation == "max":
        return flow_to_picture(flow)
    lengths = np.hypot(flow[..., 0], flow[..., 1])[known_flow(flow)]
    radius = float(np.percentile(lengths, 99)) if lengths.size else 0.0
    return flow_to_picture(flow, radius=max(radius, recipe.least_motion * float(np.hypot(*flow.shape[:2]))))


@functools.cache
def colour_wheel() -> Float[np.ndarray, "56 3"]:
    """Middlebury's 55 hues around the circle, in [0, 1]; the first is repeated at the end for interpolation.

    Six arcs between red, yellow, green, cyan, blue and magenta, one channel full and one rising or falling, as long as
    people tell hues apart (Baker et al., "A Database and Evaluation Methodology for Optical Flow", IJCV 2011).
    """
    arcs = ((15, 0, 1, +1), (6, 1, 0, -1), (4, 1, 2, +1), (11, 2, 1, -1), (13, 2, 0, +1), (6, 0, 2, -1))
    colours = []
    for length, full, changing, direction in arcs:
        arc = np.zeros((length, 3))
        ramp = np.floor(255 * np.arange(length) / length)
        arc[:, full] = 255
        arc[:, changing] = ramp if direction > 0 else 255 - ramp
        colours.append(arc)
    colours.append(colours[0][:1])
    return (np.concatenate(colours) / 255).astype(np.float32)


def flow_to_picture(flow: Float[np.ndarray, "h w 2"], *, radius: float | None = None) -> UInt8[np.ndarray, "h w 3"]:
    """Draw flow with the Middlebury colour wheel: hue is direction, no motion is white, unknown flow is black.

    `radius` is the vector length in pixels that gets full colour; longer vectors are cut to it. None takes the longest
    known vector of the picture, as the usual drawing tools and the authors' release do.
    """
    known = known_flow(flow)
    if radius is None:
        radius = float(np.hypot(*_components(flow, known)).max(initial=0))
    picture = np.empty((*known.shape, 3), np.uint8)
    for top in range(0, len(picture), _BAND):
        rows = slice(top, top + _BAND)
        picture[rows] = _coloured(*_components(flow[rows], known[rows]), radius)
    picture[~known] = 0
    return picture


_BAND = 32  # rows drawn at a time: what is needed in between stays in the processor's cache, which halves the time


def _components(flow: Float[np.ndarray, "h w 2"], known: Any) -> tuple[np.ndarray, np.ndarray]:
    u, v = (np.where(known, flow[..., c], 0).astype(np.float32) for c in (0, 1))
    return u, v


def _coloured(u: Float[np.ndarray, "h w"], v: Float[np.ndarray, "h w"], radius: float) -> UInt8[np.ndarray, "h w 3"]:
    length = np.hypot(u, v)
    length = np.minimum(length / np.float32(radius + 1e-5), 1)[..., None]
    position = (np.arctan2(-v, -u) / np.pi + 1) / 2 * 54
    lower = np.clip(position.astype(np.int32), 0, 54)
    fraction = (position - lower)[..., None]
    wheel = colour_wheel()
    hue = (1 - fraction) * wheel.take(lower, 0) + fraction * wheel.take(lower + 1, 0)
    return (255 * (1 - length * (1 - hue))).astype(np.uint8)  # rounded down


_MAGIC = 202021.25
_LARGEST = 99_999  # Middlebury's own reader refuses more, a sign of a file that is something else


def read_flo(path: str | Path) -> Float[np.ndarray, "h w 2"]:
    """Read a Middlebury `.flo` file: float32 (u, v) in pixels. Raises `InputError` that says what is wrong with it."""
    path = Path(path)
    refuse_special(path)
    with readable(path):
        data = path.read_bytes()
    if len(data) < 12 or np.frombuffer(data, "<f4", 1)[0] != np.float32(_MAGIC):
        raise InputError(f"{path}: is no Middlebury flow file, expected it to begin with the bytes 'PIEH'")
    width, height = (int(n) for n in np.frombuffer(data, "<i4", 2, offset=4))
    if not (0 < width <= _LARGEST and 0 < height <= _LARGEST):
        raise InputError(f"{path}: width {width}, height {height}, expected 1 to {_LARGEST}; is it damaged?")
    expected = 12 + 8 * width * height
    if len(data) != expected:
        raise InputError(
            f"{path}: {len(data)} bytes, expected {expected} for {width} x {height} vectors; is it cut off?"
        )
    return np.frombuffer(data, "<f4", offset=12).reshape(height, width, 2).astype(np.float32)


def write_flo(path: str | Path, flow: Float[np.ndarray, "h w 2"]) -> None:
    """Write a Middlebury `.flo` file (float32, little endian), under a temporary name first."""
    path = Path(path)
    height, width = flow.shape[:2]
    header = np.float32(_MAGIC).astype("<f4").tobytes() + np.array([width, height], "<i4").tobytes()
    with completed(path, advice="") as partial:
        partial.write_bytes(header + flow.astype("<f4").tobytes())
