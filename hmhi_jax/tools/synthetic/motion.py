"""How things move: matrices, smooth random functions of time, the camera. Time is in frames, lengths in pixels."""

import dataclasses
from collections.abc import Mapping
from typing import TypeVar

import numpy as np
from jaxtyping import Float

Number = float | int | np.floating | np.integer
Vector = Float[np.ndarray, "2"]
Matrix = Float[np.ndarray, "3 3"]
T = TypeVar("T")


def one_of(rng: np.random.Generator, weights: Mapping[T, float]) -> T:
    """One of the keys, as probable as its weight says."""
    shares = np.array(list(weights.values()))
    return list(weights)[rng.choice(len(weights), p=shares / shares.sum())]


def log_uniform(rng: np.random.Generator, low: Number, high: Number) -> float:
    """A number between the two whose logarithm is uniform."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def translation(x: Number, y: Number) -> Matrix:
    """The matrix that shifts by (x, y)."""
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], np.float64)


def rotation(angle: Number) -> Matrix:
    """The matrix that turns by an angle, in radians."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]], np.float64)


def scaling(x: Number, y: Number) -> Matrix:
    """The matrix that scales along both axes."""
    return np.diag([x, y, 1.0])


def transform(matrix: Matrix, points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
    """Points under a matrix."""
    return points @ matrix[:2, :2].T + matrix[:2, 2]


class Wander:
    """A random sum of sines around zero, one value per coordinate; `strength` is about its standard deviation, periods
    are between `fastest` and `slowest` frames."""

    def __init__(
        self, rng: np.random.Generator, strength: Number, slowest: Number, fastest: Number, coordinates: int = 2
    ) -> None:
        self.rates = 2 * np.pi / np.exp(rng.uniform(np.log(fastest), np.log(slowest), 3))[:, None]
        self.amplitudes = rng.normal(0, strength * 0.8, (3, coordinates))
        self.phases = rng.uniform(0, 2 * np.pi, (3, coordinates))

    def __call__(self, time: float) -> Float[np.ndarray, "c"]:
        return (self.amplitudes * np.sin(self.rates * time + self.phases)).sum(0)


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far along its way an object is: time itself, or time that stands still before or after `moment`."""

    moment: float | None = None
    starts: bool = False
    softness: float = 1.0

    def __call__(self, time: float | int) -> float:
        if self.moment is None:
            return time
        # The integral of a logistic gate: smooth braking within a few frames.
        if self.starts:
            return float(self.softness * np.logaddexp(0, (time - self.moment) / self.softness))
        return float(self.moment - self.softness * np.logaddexp(0, (self.moment - time) / self.softness))


@dataclasses.dataclass(frozen=True)
class ObjectMotion:
    """Where an object is in its plane, how it is turned, how large, and where in its gait."""

    place: Vector  # position at progress 0
    velocity: Vector
    wander: Wander
    turn: float
    turning: float  # radians per frame
    sway: Wander
    growth: float  # logarithm of size per frame
    gait_rate: float  # radians per frame
    gait_start: float
    bounce: float  # pixels, twice per gait cycle
    unit: float  # pixels per object unit
    flip: bool
    squash: float
    progress: Progress

    def position(self, time: float) -> Vector:
        way = self.progress(time)
        return self.place + self.velocity * way + self.wander(way)

    def gait(self, time: float) -> float:
        return self.gait_start + self.gait_rate * self.progress(time)

    def distance(self, time: float) -> float:
        """Distance travelled in object units, for wheels (signed so that they roll forwards)."""
        return float(np.linalg.norm(self.velocity)) * self.progress(time) / self.unit

    def matrix(self, time: float) -> Matrix:
        """Object frame -> the object's plane."""
        way = self.progress(time)
        x, y = self.position(time)
        y += self.bounce * np.sin(2 * self.gait(time))
        size = self.unit * np.exp(self.growth * way)
        angle = self.turn + self.turning * way + float(self.sway(way)[0])
        side = -1 if self.flip else 1
        return translation(x, y) @ rotation(angle) @ scaling(side * size, size * self.squash)


class CameraPath:
    """A random tripod, hand, pan, dolly or follow shot. Speeds scale with the picture's width.

    A plane of disparity d (1 is the backdrop) shifts by d times the camera's travel; roll, zoom and shake move all
    planes alike. At the time `middle` everything is in its reference place. `follows` is the motion, in the plane of
    `disparity`, of what the camera follows.
    """

    def __init__(
        self, rng: np.random.Generator, size: tuple[int, int], middle: float, follows: ObjectMotion | None,
        disparity: float,
    ) -> None:  # fmt: skip
        height, width = size
        unit = width / 288
        kind = rng.choice(["tripod", "hand", "pan", "dolly"], p=[0.12, 0.38, 0.3, 0.2])
        still = kind == "tripod"
        speeds = {"tripod": 0.0, "hand": log_uniform(rng, 0.02, 0.5), "pan": log_uniform(rng, 0.3, 6)}
        speed = speeds.get(kind, 0.5) * unit
        if follows is not None and kind == "pan":
            speed *= 0.2
        angle = rng.choice([0, np.pi]) + rng.normal(0, 0.35)
        shake = 0.0 if still else log_uniform(rng, 0.05, 2.5) * unit
        self.middle, self.follows, self.disparity = middle, follows, disparity
        self.centre = np.array([width / 2, height / 2])
        self.velocity = speed * np.array([np.cos(angle), np.sin(angle)])
        self.wander = Wander(rng, 0 if still else log_uniform(rng, 0.3, 6) * unit, 80, 20)
        self.shake = Wander(rng, shake, 16, 4)
        # Logarithm, and radians, per frame.
        self.zooming = rng.normal(0, 0.006) if kind == "dolly" else rng.normal(0, 0.0008) * (not still)
        self.rolling = rng.normal(0, 0.0015) * (not still)
        self.roll = Wander(rng, 0 if still else log_uniform(rng, 0.0005, 0.008), 30, 5, 1)
        self.follow_share = rng.uniform(0.6, 1.05)

    def travel(self, time: float) -> Vector:
        """Pixels the backdrop has moved by, against the camera, since the middle of the clip."""
        moved = self.velocity * (time - self.middle) + self.wander(time) - self.wander(self.middle)
        if self.follows is not None:
            followed = self.follows.position(time) - self.follows.position(self.middle)
            moved = moved + self.follow_share * followed / self.disparity
        return moved

    def matrix(self, time: float, disparity: float = 1.0) -> Matrix:
        """Plane of that disparity -> picture."""
        shift = -disparity * self.travel(time) + self.shake(time)
        zoom = np.exp(self.zooming * (time - self.middle))
        angle = self.rolling * (time - self.middle) + float(self.roll(time)[0])
        cx, cy = self.centre
        return translation(cx, cy) @ rotation(angle) @ scaling(zoom, zoom) @ translation(shift[0] - cx, shift[1] - cy)
