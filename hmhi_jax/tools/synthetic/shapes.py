"""Objects as trees of parts: outlines, joints, how the joints swing. An object is about 1 unit long; y points down."""

import dataclasses

import cv2
import numpy as np
from jaxtyping import Float, UInt8

Outline = Float[np.ndarray, "_ 2"]
Number = float | int | np.floating | np.integer
Matrix = Float[np.ndarray, "3 3"]


@dataclasses.dataclass(frozen=True)
class Part:
    """A piece of an object that is rigid (or ripples) by itself.

    outline   polygon in the part's own frame, whose origin is the joint with the parent
    parent    index of the part it hangs on, -1 for the object itself
    joint     where the origin sits in the parent's frame
    rest, swing, phase, pace   the joint's angle is `rest + swing * sin(pace * gait + phase)`, in radians
    spin      radians of turning per unit of distance travelled: wheels
    holes     polygons cut out of the outline
    material  parts with the same number share a texture
    depth     parts are painted in order of it: legs on the far side first
    """

    outline: Outline
    parent: int = -1
    joint: tuple[Number, Number] = (0.0, 0.0)
    rest: Number = 0.0
    swing: Number = 0.0
    phase: Number = 0.0
    pace: Number = 1.0
    spin: Number = 0.0
    holes: tuple[Outline, ...] = ()
    material: int = 0
    depth: Number = 0.0


@dataclasses.dataclass(frozen=True)
class Body:
    """An object's parts, how softly it ripples (0: not at all), and whether it stays upright or turns freely.

    A cut-out has one part, whose outline spans `picture` (RGB and opacity).
    """

    kind: str
    parts: tuple[Part, ...]
    soft: Number = 0.0
    upright: bool = True
    picture: UInt8[np.ndarray, "h w 4"] | None = None


def translation(x: Number, y: Number) -> Matrix:
    """The matrix that shifts by (x, y)."""
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], np.float64)


def rotation(angle: Number) -> Matrix:
    """The matrix that turns by an angle, in radians."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]], np.float64)


def scaling(x: Number, y: Number) -> Matrix:
    """The matrix that scales along both axes."""
    return np.diag([x, y, 1.0]).astype(np.float64)


def part_matrices(body: Body, gait: Number, distance: Number) -> list[Matrix]:
    """Part frame -> object frame for every part, at a phase of the gait and after a distance travelled."""
    matrices: list[Matrix] = []
    for part in body.parts:
        angle = part.rest + part.swing * np.sin(part.pace * gait + part.phase) + part.spin * distance
        own = translation(*part.joint) @ rotation(angle)
        matrices.append(own if part.parent < 0 else matrices[part.parent] @ own)
    return matrices


# --- outlines -------------------------------------------------------------------------------------------------------


def blob(
    rng: np.random.Generator, rough: Number, length: Number = 1.0, height: Number = 1.0, points: int = 72
) -> Outline:
    """A closed curve whose radius is a Fourier series: `rough` 0 is an ellipse, .5 is star-like."""
    turn = np.linspace(0, 2 * np.pi, points, endpoint=False)
    radius = np.ones(points)
    for k in range(2, 8):
        radius += rough * rng.normal() / k * np.cos(k * turn + rng.uniform(0, 2 * np.pi))
    radius = np.clip(radius, 0.25, 2.2)
    return np.stack([radius * np.cos(turn) * length / 2, radius * np.sin(turn) * height / 2], -1).astype(np.float64)


def polygon(rng: np.random.Generator, corners: Number) -> Outline:
    """An irregular polygon around zero."""
    turn = np.sort(rng.uniform(0, 2 * np.pi, corners)) + np.linspace(0, 2 * np.pi, corners, endpoint=False)
    radius = rng.uniform(0.2, 0.6, corners)
    return np.stack([radius * np.cos(turn / 2), radius * np.sin(turn / 2)], -1).astype(np.float64)


def limb(length: Number, start: Number, end: Number) -> Outline:
    """A tapered rod with round ends from the origin downwards; `start` and `end` are its widths."""
    turn = np.linspace(0, np.pi, 9)
    top = np.stack([np.cos(turn), -np.sin(turn)], -1) * start / 2
    bottom = np.stack([-np.cos(turn), np.sin(turn)], -1) * end / 2 + (0, length)
    return np.concatenate([top, bottom]).astype(np.float64)


def curve(points: Outline, start: Number, end: Number) -> Outline:
    """A band around a smooth curve through `points`, tapering from width `start` to `end`: necks, tails, ropes."""
    t = np.linspace(0, 1, len(points))
    dense = np.linspace(0, 1, 24)
    line = np.stack([np.polyval(np.polyfit(t, points[:, c], min(3, len(points) - 1)), dense) for c in (0, 1)], -1)
    tangent = np.gradient(line, axis=0)
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], -1) / np.maximum(np.linalg.norm(tangent, axis=1), 1e-6)[:, None]
    width = np.linspace(start, end, 24)[:, None] / 2
    return np.concatenate([line + normal * width, (line - normal * width)[::-1]]).astype(np.float64)


def ring(radius: Number) -> Outline:
    """A circle around zero."""
    turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    return (radius * np.stack([np.cos(turn), np.sin(turn)], -1)).astype(np.float64)


def silhouette(body: Body, size: int = 96) -> UInt8[np.ndarray, "s s"]:
    """The object at rest, 1 unit = size / 2 pixels, centred: to measure its area and extent."""
    mask = np.zeros((size, size), np.uint8)
    for part, matrix in zip(body.parts, part_matrices(body, 0.7, 0.0), strict=True):
        place = scaling(size / 2, size / 2) @ translation(1, 1) @ matrix
        layer = fill(part, place, (size, size))
        np.maximum(mask, layer, out=mask)
    return mask


def fill(part: Part, matrix: Matrix, size: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
    """Rasterise a part under `matrix` with antialiased edges, 255 inside."""
    mask = np.zeros(size, np.uint8)
    for outline, value in [(part.outline, 255), *((hole, 0) for hole in part.holes)]:
        corners = outline @ matrix[:2, :2].T + matrix[:2, 2]
        cv2.fillPoly(mask, [np.round(corners * 16).astype(np.int32)], value, cv2.LINE_AA, 4)
    return mask
