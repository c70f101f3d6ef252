"""Objects as trees of parts: outlines, joints and how they swing; and random ones: animals, people, riders, vehicles,
birds, boats, and things without a name. An object is about 1 unit long; y points down."""

import dataclasses
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from hmhi_jax.tools.synthetic.motion import (
    Matrix,
    Number,
    log_uniform,
    one_of,
    rotation,
    scaling,
    transform,
    translation,
)

Outline = Float[np.ndarray, "_ 2"]


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

    @property
    def painting_order(self) -> list[int]:
        """Indices of the parts, the farthest first."""
        return sorted(range(len(self.parts)), key=lambda index: self.parts[index].depth)


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
    return np.stack([radius * np.cos(turn) * length / 2, radius * np.sin(turn) * height / 2], -1)


def polygon(rng: np.random.Generator, corners: Number) -> Outline:
    """An irregular polygon around zero."""
    turn = np.sort(rng.uniform(0, 2 * np.pi, corners)) + np.linspace(0, 2 * np.pi, corners, endpoint=False)
    radius = rng.uniform(0.2, 0.6, corners)
    return np.stack([radius * np.cos(turn / 2), radius * np.sin(turn / 2)], -1)


def limb(length: Number, start: Number, end: Number) -> Outline:
    """A tapered rod with round ends from the origin downwards; `start` and `end` are its widths."""
    turn = np.linspace(0, np.pi, 9)
    top = np.stack([np.cos(turn), -np.sin(turn)], -1) * start / 2
    bottom = np.stack([-np.cos(turn), np.sin(turn)], -1) * end / 2 + (0, length)
    return np.concatenate([top, bottom])


def curve(points: Outline, start: Number, end: Number) -> Outline:
    """A band around a smooth curve through `points`, tapering from width `start` to `end`: necks, tails, ropes."""
    t = np.linspace(0, 1, len(points))
    dense = np.linspace(0, 1, 24)
    line = np.stack([np.polyval(np.polyfit(t, points[:, c], min(3, len(points) - 1)), dense) for c in (0, 1)], -1)
    tangent = np.gradient(line, axis=0)
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], -1) / np.maximum(np.linalg.norm(tangent, axis=1), 1e-6)[:, None]
    width = np.linspace(start, end, 24)[:, None] / 2
    return np.concatenate([line + normal * width, (line - normal * width)[::-1]])


def ring(radius: Number) -> Outline:
    """A circle around zero."""
    turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    return radius * np.stack([np.cos(turn), np.sin(turn)], -1)


def silhouette(body: Body) -> UInt8[np.ndarray, "96 96"]:
    """The object at rest, 1 unit = 48 pixels, centred: to measure its area and extent."""
    centre = scaling(48, 48) @ translation(1, 1)
    layers = zip(body.parts, part_matrices(body, 0.7, 0.0), strict=True)
    return np.maximum.reduce([fill(part, centre @ matrix, (96, 96)) for part, matrix in layers])


def fill(part: Part, matrix: Matrix, size: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
    """Rasterise a part under `matrix` with antialiased edges, 255 inside."""
    mask = np.zeros(size, np.uint8)
    for outline, value in [(part.outline, 255), *((hole, 0) for hole in part.holes)]:
        corners = transform(matrix, outline)
        cv2.fillPoly(mask, [np.round(corners * 16).astype(np.int32)], value, cv2.LINE_AA, 4)
    return mask


# --- random objects --------------------------------------------------------------------------------------------------


class _Parts(list[Part]):
    def add(self, *arguments: Any, **settings: Any) -> None:
        self.append(Part(*arguments, **settings))


def _blob_body(rng: np.random.Generator) -> Body:
    outline = blob(rng, rng.choice([0.05, 0.2, 0.5]), 1, log_uniform(rng, 0.25, 1))
    holes = ()
    if rng.random() < 0.15:
        holes = (blob(rng, 0.2, 0.3, 0.25, 24) + rng.uniform(-0.12, 0.12, 2),)
    soft = rng.choice([0, 0, rng.uniform(0.01, 0.06)])
    return Body("blob", (Part(outline, holes=holes),), soft=soft, upright=False)


def _polygon_body(rng: np.random.Generator) -> Body:
    parts = _Parts([Part(polygon(rng, rng.integers(3, 9)))])
    for _ in range(rng.integers(0, 3)):
        other = polygon(rng, rng.integers(3, 7)) * rng.uniform(0.3, 0.9)
        parts.add(other, 0, tuple(rng.uniform(-0.3, 0.3, 2)), material=int(rng.integers(3)))
    return Body("polygon", tuple(parts), upright=False)


def _chain_body(rng: np.random.Generator) -> Body:
    """Blobs on joints: caterpillars, robots, anything that bends."""
    parts = _Parts([Part(blob(rng, 0.2, 0.6, rng.uniform(0.2, 0.5)))])
    for _ in range(rng.integers(1, 6)):
        parent = int(rng.integers(len(parts)))
        place = parts[parent].outline[rng.integers(len(parts[parent].outline))] * 0.85
        length, turn = rng.uniform(0.2, 0.5), rng.uniform(-np.pi, np.pi)
        wide = length * rng.uniform(0.15, 0.7)
        outline = (
            limb(length, wide, wide * rng.uniform(0.4, 1.2)) if rng.random() < 0.6 else blob(rng, 0.2, length, wide)
        )
        swing = rng.uniform(0, 0.7), rng.uniform(0, 6), rng.choice([1, 1, 2])
        material, depth = int(rng.integers(3)), float(rng.choice([-1, 1]))
        parts.add(outline, parent, tuple(place.tolist()), turn, *swing, material=material, depth=depth)
    return Body("chain", tuple(parts), upright=False)


def _add_leg(parts: _Parts, parent, joint, length, width, phase, depth, swing, material) -> None:
    upper = limb(length * 0.55, width, width * 0.75)
    lower = limb(length * 0.5, width * 0.75, width * 0.55)
    parts.add(upper, parent, joint, 0.0, swing, phase, depth=depth, material=material)
    knee = {"parent": len(parts) - 1, "joint": (0.0, length * 0.5), "rest": 0.15}
    parts.add(lower, **knee, swing=swing * 0.8, phase=phase - 1.2, depth=depth, material=material)


def _quadruped(rng: np.random.Generator) -> Body:
    length, girth, leg = 0.62, rng.uniform(0.18, 0.36), rng.uniform(0.22, 0.5)
    width, swing = rng.uniform(0.04, 0.1), rng.uniform(0.15, 0.7)
    parts = _Parts([Part(blob(rng, 0.08, length, girth))])
    socks = int(rng.integers(2))
    for x, depth, phase in ((0.22, -2, 0), (-0.22, -2, np.pi), (0.25, 2, np.pi), (-0.2, 2, 0)):
        _add_leg(parts, 0, (x, girth * 0.2), leg, width, phase + rng.normal(0, 0.2), depth, swing, socks)
    neck_length, neck_up = rng.uniform(0.08, 0.35), rng.uniform(0.3, 1.3)
    tip = neck_length * np.array([np.cos(neck_up), -np.sin(neck_up)])
    neck = curve(np.array([(-0.06, 0.02), tip * 0.5, tip]), girth * 0.6, girth * 0.35)
    parts.add(neck, 0, (length * 0.42, -girth * 0.2), 0, 0.1, rng.uniform(0, 6), 1, depth=1)
    head = blob(rng, 0.1, rng.uniform(0.2, 0.28), rng.uniform(0.12, 0.18))
    parts.add(np.add(head, (0.04, 0)), len(parts) - 1, tuple(tip), rng.uniform(-0.3, 0.6), 0.15, 1, 1, depth=1.5)
    ear = np.array([(-0.03, 0), (0.03, 0), (0.0, -0.1 * rng.uniform(0.4, 1.5))])
    parts.add(ear, len(parts) - 1, (-0.04, -0.05), rng.uniform(-0.5, 0.5), 0.1, depth=1.6, material=1)
    if rng.random() < 0.8:
        bend = rng.uniform(-0.2, 0.2)
        tail = curve(np.array([(0, 0), (-0.15, bend), (-0.3, -bend)]) * rng.uniform(0.5, 1.2), 0.05, 0.02)
        parts.add(tail, 0, (-length * 0.46, -girth * 0.15), rng.uniform(-0.8, 0.8), 0.4, 0, 2, depth=-1)
    return Body("quadruped", tuple(parts))


def _biped(rng: np.random.Generator, seated: bool = False) -> Body:
    torso, leg, width = rng.uniform(0.28, 0.36), rng.uniform(0.4, 0.5), rng.uniform(0.07, 0.12)
    broad, swing = rng.uniform(0.14, 0.26), rng.uniform(0.1, 0.8)
    lean = rng.normal(0.5, 0.15) if seated else rng.normal(0, 0.1)
    parts = _Parts([Part(blob(rng, 0.06, broad, torso), -1, (0.0, -0.15), lean, 0.05, 0, 2, material=0)])
    spread = 0.0 if rng.random() < 0.6 else broad * 0.25  # seen from the side, or from the front
    for side, depth, phase in ((-1, -2, 0), (1, 2 - 3 * (spread > 0), np.pi)):
        start = len(parts)
        _add_leg(parts, 0, (side * spread, torso * 0.42), leg, width, phase, depth, swing, 1)
        if seated:
            parts[start] = dataclasses.replace(parts[start], rest=-1.1 - lean, swing=0.25)
            parts[start + 1] = dataclasses.replace(parts[start + 1], rest=1.2, swing=0.25)
    for side, depth, phase in ((-1, -2.5, np.pi), (1, 2.5, 0)):
        start = len(parts)
        _add_leg(parts, 0, (side * (spread + 0.02), -torso * 0.36), 0.34, width * 0.65, phase, depth, swing * 0.8, 2)
        if seated or rng.random() < 0.2:
            parts[start] = dataclasses.replace(parts[start], rest=-1.0, swing=0.1)
    head = blob(rng, 0.04, rng.uniform(0.1, 0.14), rng.uniform(0.13, 0.17))
    parts.add(head, 0, (0.0, -torso * 0.5 - 0.06), -lean / 2, 0.06, 0, 2, depth=0.5, material=2)
    if rng.random() < 0.25:
        load = blob(rng, 0.2, 0.16, 0.22)
        parts.add(load, 0, (-broad * 0.6, -0.05), depth=-0.5, material=3)
    return Body("biped", tuple(parts))


def _wheel(parent: int, joint: tuple[Number, Number], radius: Number, solid: bool, depth: Number = 1) -> Part:
    holes = () if solid else (ring(radius * 0.8),)
    return Part(ring(radius), parent, joint, spin=1 / radius, holes=holes, material=3, depth=depth)


def _bar(start: tuple[Number, Number], end: tuple[Number, Number], width: Number) -> Outline:
    return curve(np.array([start, ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2), end]), width, width)


def _rider(rng: np.random.Generator) -> Body:
    """A person on a bicycle, a board, a scooter or an animal."""
    person = _biped(rng, seated=rng.random() < 0.75)
    parts, place = _Parts(person.parts), (0.0, 0.0)
    if rng.random() < 0.65:
        radius, bar = rng.uniform(0.11, 0.19), rng.uniform(0.015, 0.04)
        solid = bool(rng.random() < 0.3)
        frame = _bar((-0.28, 0.32), (0.0, 0.12), bar)
        for start, end in (((-0.28, 0.32), (0.0, 0.32)), ((0.0, 0.32), (0.22, 0.08)), ((0.22, 0.02), (0.3, 0.32))):
            parts.add(_bar(start, end, bar), -1, place, material=3, depth=0.2)
        parts.add(frame, -1, place, material=3, depth=0.2)
        parts += [_wheel(-1, (x, 0.32), radius, solid, 0.1) for x in (-0.28, 0.3)]
    else:
        board = np.add(blob(rng, 0.05, rng.uniform(0.4, 0.8), 0.05), (0, 0.42))
        parts.add(board, -1, place, material=3, depth=-3)
    return Body("rider", tuple(parts))


def _vehicle(rng: np.random.Generator) -> Body:
    height, nose, tail = rng.uniform(0.14, 0.28), rng.uniform(-0.05, 0.12), rng.uniform(-0.02, 0.1)
    half = height / 2
    hull = np.array([(-0.5, tail - half), (0.5 - nose, nose * 0.5 - half), (0.5, 0), (0.48, half), (-0.5, half)])
    roof = rng.uniform(0.1, 0.26)
    back, front = rng.uniform(-0.5, -0.25), rng.uniform(0.1, 0.4)
    upper = [(back, 0.0), (back + 0.08, -roof), (front - 0.14, -roof), (front, 0.0)]
    cabin = np.array([(back, 0.05), *upper, (front, 0.05)])
    base = 0.04 - half
    windows = []
    posts = np.sort(rng.uniform(back + 0.1, front - 0.1, rng.integers(1, 4)))
    for left, right in zip([back + 0.07, *posts], [*posts, front - 0.1], strict=True):
        if right - left > 0.06:
            top = [(left + 0.02, 0.03 - roof), (right - 0.03, 0.03 - roof)]
            windows.append(np.array([(left, -0.05), *top, (right - 0.01, -0.05)]))
    parts = _Parts([Part(hull)])
    through = rng.random() < 0.1
    parts.add(cabin, 0, (0.0, base), holes=tuple(windows) if through else (), depth=0.3)
    if not through:
        parts += [Part(window, 0, (0.0, base), material=2, depth=0.5) for window in windows]
    radius = rng.uniform(0.07, 0.12)
    parts += [_wheel(0, (x, height / 2), radius, True) for x in (-rng.uniform(0.26, 0.36), rng.uniform(0.26, 0.36))]
    for x in (-0.47, 0.45):
        parts.add(blob(rng, 0, 0.06, 0.05, 16), 0, (x, -0.02), material=1, depth=1)
    return Body("vehicle", tuple(parts))


def _bird(rng: np.random.Generator) -> Body:
    """Swans, ducks, herons; on some, wings that beat."""
    girth = rng.uniform(0.2, 0.42)
    parts = _Parts([Part(blob(rng, 0.1, 0.7, girth))])
    up, ahead = rng.uniform(0.08, 0.6), rng.uniform(0.02, 0.2)
    neck = np.array([(0, 0), (ahead * 1.3, -up * 0.3), (ahead * 0.4, -up * 0.75), (ahead, -up)])
    parts.add(curve(neck, 0.14 * rng.uniform(0.5, 1), 0.06), 0, (0.26, -girth * 0.15), 0, 0.08, 0, 1, depth=0.5)
    parts.add(blob(rng, 0.05, 0.13, 0.09), 1, (ahead + 0.02, -up), 0, 0.1, 1, 1, depth=0.6)
    parts.add(np.array([(0, -0.025), (0.1, 0.01), (0, 0.03)]), 2, (0.05, 0.0), depth=0.7, material=1)
    if rng.random() < 0.5:
        wing = np.add(blob(rng, 0.2, rng.uniform(0.3, 0.5), 0.2), (-0.12, 0))
        flaps = rng.choice([0, rng.uniform(0.2, 0.8)])
        parts.add(wing, 0, (0.05, -girth * 0.2), rng.uniform(-0.2, 0.5), flaps, 0, 2, depth=1, material=2)
    if rng.random() < 0.3:
        for phase, depth in ((0, -1), (np.pi, 1.1)):
            _add_leg(parts, 0, (0.0, girth * 0.4), rng.uniform(0.2, 0.5), 0.025, phase, depth, 0.5, 1)
    return Body("bird", tuple(parts))


def _boat(rng: np.random.Generator) -> Body:
    hull = np.array([(-0.5, -0.05), (0.5, -0.08), (0.38, 0.1), (-0.42, 0.1)])
    parts = _Parts([Part(hull, swing=0.05)])
    if rng.random() < 0.6:
        sail = np.array([(0, 0), (rng.uniform(0.2, 0.4), -0.05), (0, -rng.uniform(0.4, 0.8))])
        parts.add(sail, 0, (0.02, -0.06), material=1)
        parts.add(_bar((0, 0), (0, -0.8), 0.015), 0, material=2, depth=0.5)
    parts.add(polygon(rng, 4) * 0.3, 0, (-0.15, -0.12), material=2, depth=-1)
    return Body("boat", tuple(parts))


_BODIES: dict[Callable[[np.random.Generator], Body], float] = {
    _blob_body: 0.13, _polygon_body: 0.07, _chain_body: 0.12, _quadruped: 0.2, _biped: 0.16, _rider: 0.12,
    _vehicle: 0.1, _bird: 0.07, _boat: 0.03,
}  # fmt: skip
_PLAIN = {_blob_body: 0.6, _polygon_body: 0.4}


def random_body(rng: np.random.Generator, *, articulated: bool = True) -> Body:
    """A random object; without `articulated`, only blobs and polygons (used to measure what joints are worth)."""
    return one_of(rng, _BODIES if articulated else _PLAIN)(rng)
