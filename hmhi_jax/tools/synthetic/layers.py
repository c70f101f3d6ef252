"""Painting: the backdrop, flat sprites, and actors made of parts, from back to front, with masks and exact flow."""

import dataclasses
from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import Float, Shaped, UInt8

from hmhi_jax.tools.synthetic.bodies import Body, part_matrices
from hmhi_jax.tools.synthetic.motion import Matrix, transform

Patch = UInt8[np.ndarray, "_ _ 4"]  # RGB and opacity; the colour goes on beyond the edge, so edges do not darken
Pose = Callable[[float], Matrix]  # time -> patch pixels to picture pixels


class Target:
    """A picture being painted: `colour` [H, W, 3], `mask` [H, W], the salient object's opacity, and, only where `later`
    is given, `flow` [H, W, 2]."""

    def __init__(self, size: tuple[int, int], time: float, later: float | None = None) -> None:
        self.size, self.time, self.later = size, time, later
        self.colour = np.zeros((*size, 3), np.float32)
        self.mask = np.zeros(size, np.float32)
        self.flow = None if later is None else np.zeros((*size, 2), np.float32)


def _pixels(size: tuple[int, int]) -> Float[np.ndarray, "H W 2"]:
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float32)
    return np.stack([x, y], -1)


def _apply(matrix: Matrix, points: Float[np.ndarray, "*b 2"]) -> Float[np.ndarray, "*b 2"]:
    matrix = matrix.astype(np.float32)
    return points @ matrix[:2, :2].T + matrix[:2, 2]


def _placed(patch: Patch, matrix: Matrix, size: tuple[int, int]) -> tuple[tuple[slice, slice], Patch] | None:
    """The window of the picture that a patch under `matrix` can touch, and what it looks like there."""
    height, width = patch.shape[:2]
    corners = transform(matrix, np.array([(0.0, 0.0), (width, 0), (0, height), (width, height)]))
    left, top = np.maximum(np.floor(corners.min(0)).astype(int) - 1, 0)
    right, bottom = np.minimum(np.ceil(corners.max(0)).astype(int) + 2, size[::-1])
    if right - left < 1 or bottom - top < 1:
        return None
    moved = matrix[:2] - [(0, 0, left), (0, 0, top)]
    return (slice(top, bottom), slice(left, right)), cv2.warpAffine(patch, moved, (right - left, bottom - top))


@dataclasses.dataclass(frozen=True)
class Sprite:
    """A flat picture with opacity that moves as a whole: poles, bushes, wakes, puffs of smoke, which `fade`: a factor
    on the opacity at a time, 0 where the sprite is not there."""

    patch: Patch
    pose: Pose
    opacity: float = 1.0
    fade: Callable[[float], float] | None = None

    def paint(self, target: Target) -> None:
        strength = self.opacity * (1.0 if self.fade is None else self.fade(target.time))
        if strength <= 0:
            return
        matrix = self.pose(target.time)
        if (placed := _placed(self.patch, matrix, target.size)) is None:
            return
        window, moved = placed
        opacity = moved[..., 3].astype(np.float32) * np.float32(strength / 255)
        target.colour[window] += (moved[..., :3] - target.colour[window]) * opacity[..., None]
        target.mask[window] *= 1 - opacity
        if target.flow is not None:
            _paint_flow(target, window, opacity, matrix, self.pose(target.later))


def _paint_flow(target: Target, window, opacity, matrix: Matrix, later: Matrix) -> None:
    here = _pixels(target.size)[window]
    there = _apply(later @ np.linalg.inv(matrix), here)
    covered = opacity > 0.5
    target.flow[window][covered] = (there - here)[covered]


@dataclasses.dataclass(frozen=True)
class Waves:
    """Sines that displace and brighten a region of the backdrop: water, leaves in the wind."""

    region: Float[np.ndarray, "h w"]  # on the backdrop's canvas, 0 to 1
    directions: Float[np.ndarray, "k 2"]  # pixels of displacement
    numbers: Float[np.ndarray, "k 2"]  # radians per pixel
    rates: Float[np.ndarray, "k"]  # radians per frame
    phases: Float[np.ndarray, "k"]
    glitter: float = 0.0  # brightness amplitude

    def displacement(self, at: Float[np.ndarray, "H W 2"], strength: Float[np.ndarray, "H W"], time: float):
        """Displacement `[H, W, 2]` at positions `at`, and the waves' height `[H, W]`, both scaled by `strength`."""
        x, y = np.ascontiguousarray(at[..., 0]), np.ascontiguousarray(at[..., 1])
        turns = zip(self.numbers.astype(np.float32), self.rates, self.phases, strict=True)
        sines = [strength * np.sin(x * i + y * j + np.float32(phase - rate * time)) for (i, j), rate, phase in turns]
        along = self.directions.astype(np.float32).T
        moved = [sum(length * sine for length, sine in zip(lengths, sines, strict=True)) for lengths in along]
        return np.stack(moved, -1), sum(sines)


@dataclasses.dataclass(frozen=True)
class Backdrop:
    """What is behind everything: a canvas larger than the picture, with relief and waves.

    A canvas pixel c shows at q + D(q) = c, with q in the backdrop's plane; D is the parallax of the relief times the
    camera's travel, plus the waves. Reflected at its borders, so that no pan runs out of it.
    """

    canvas: UInt8[np.ndarray, "h w 3"]
    pose: Pose
    travel: Callable[[float], Float[np.ndarray, "2"]]
    relief: Float[np.ndarray, "h w"] | None = None  # disparity in excess of the backdrop's own
    waves: Waves | None = None

    def _sample(
        self, field: Shaped[np.ndarray, "h w *c"], at: Float[np.ndarray, "H W 2"]
    ) -> Shaped[np.ndarray, "H W *c"]:
        return cv2.remap(field, at, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)

    def _displacement(self, at: Float[np.ndarray, "H W 2"], time: float):
        """D and the height of waves, for backdrop coordinates `at`."""
        moved, height = np.zeros_like(at), 0
        if self.relief is not None:
            moved += self._sample(self.relief, at)[..., None] * self.travel(time).astype(np.float32)
        if self.waves is not None:
            waving, height = self.waves.displacement(at, self._sample(self.waves.region, at), time)
            moved += waving
        return moved, height

    def paint(self, target: Target) -> None:
        matrix, here = self.pose(target.time), _pixels(target.size)
        if self.relief is None and self.waves is None:
            target.colour[:] = cv2.warpAffine(
                self.canvas, matrix[:2], target.size[::-1], borderMode=cv2.BORDER_REFLECT_101
            )
            if target.flow is not None:
                target.flow[:] = _apply(self.pose(target.later) @ np.linalg.inv(matrix), here) - here
            return
        flat = _apply(np.linalg.inv(matrix), here)
        moved, height = self._displacement(flat, target.time)
        at = flat + moved
        target.colour[:] = self._sample(self.canvas, at)
        if self.waves is not None and self.waves.glitter:
            target.colour += (height * np.float32(self.waves.glitter))[..., None]
        if target.flow is not None:
            # Where does the canvas point go? Solve q' + D'(q') = c by repetition: D is smooth and small.
            guess = at
            for _ in range(4):
                guess = at - self._displacement(guess, target.later)[0]
            target.flow[:] = _apply(self.pose(target.later), guess) - here


class Shadow:
    """A random darkened, flattened and sheared copy of an actor on the ground."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.strength, self.shear = rng.uniform(0.2, 0.75), rng.normal(0, 1)
        self.flatten = rng.choice([-1, 1], p=[0.75, 0.25]) * rng.uniform(0.08, 0.5)  # negative: towards the viewer
        self.blur = rng.uniform(0, 3)

    def paint(self, target: Target, colour, opacity, ground: float) -> None:
        """Of an actor of that colour and opacity, who stands at the row `ground`."""
        del colour
        cast = np.array([[1, -self.shear, self.shear * ground], [0, self.flatten, ground * (1 - self.flatten)]])
        shade = cv2.warpAffine(opacity, cast, target.size[::-1])
        if self.blur > 0.3:
            shade = cv2.GaussianBlur(shade, (0, 0), self.blur)
        target.colour *= 1 - (shade * np.float32(self.strength))[..., None]


class Reflection:
    """An actor upside down in water that ripples at random."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.strength, self.ripple, self.length = rng.uniform(0.15, 0.7), rng.uniform(0, 2.5), rng.uniform(0.5, 1.1)

    def paint(self, target: Target, colour, opacity, ground: float) -> None:
        """As `Shadow.paint` does."""
        here = _pixels(target.size)
        depth = here[..., 1] - np.float32(ground)
        wave = np.sin(depth * np.float32(0.8) + np.float32(0.9 * target.time)) * np.float32(self.ripple)
        at = np.stack([here[..., 0] + wave, np.float32(ground) - depth / np.float32(self.length)], -1)
        fade = np.where(depth > 0, np.float32(self.strength), np.float32(0))
        mirrored = cv2.remap(colour, at, None, cv2.INTER_LINEAR)
        seen = cv2.remap(opacity, at, None, cv2.INTER_LINEAR) * fade
        target.colour *= (1 - seen)[..., None]
        target.colour += mirrored * fade[..., None]


@dataclasses.dataclass(frozen=True)
class Actor:
    """A body with painted parts. `plane` maps the object's frame to the picture at a time.

    `patches` and `fits` (part frame to patch pixels) are one per part.
    """

    body: Body
    patches: tuple[Patch, ...]
    fits: tuple[Matrix, ...]
    plane: Pose
    gait: Callable[[float], float]
    distance: Callable[[float], float]
    base: float  # y of the ground contact in the object's frame
    effects: tuple[Shadow | Reflection, ...] = ()  # on the ground
    wake: Sprite | None = None
    bend: Waves | None = None  # in object units
    hip: float | None = None  # y in the object's frame: only what is below bends, the feet most; None: all of it
    salient: bool = True

    def _places(self, time: float) -> list[Matrix]:
        plane = self.plane(time)
        joints = part_matrices(self.body, self.gait(time), self.distance(time))
        return [plane @ joint @ np.linalg.inv(fit) for joint, fit in zip(joints, self.fits, strict=True)]

    def paint(self, target: Target) -> None:
        if self.wake is not None:
            self.wake.paint(target)
        own = Target(target.size, target.time, target.later)
        opacity = np.zeros(target.size, np.float32)
        places = self._places(target.time)
        later = self._places(target.later) if target.later is not None else None
        for index in self.body.painting_order:
            if (placed := _placed(self.patches[index], places[index], target.size)) is None:
                continue
            window, moved = placed
            part = moved[..., 3].astype(np.float32) / 255
            # Colours are premultiplied while parts pile up.
            own.colour[window] *= (1 - part)[..., None]
            own.colour[window] += moved[..., :3] * part[..., None]
            opacity[window] += (1 - opacity[window]) * part
            if later is not None:
                _paint_flow(own, window, part, places[index], later[index])
        if self.bend is not None:
            own.colour, opacity = self._bent(own.colour, opacity, target.time)
        ground = float((self.plane(target.time) @ (0, self.base, 1))[1])
        for effect in self.effects:
            effect.paint(target, own.colour, opacity, ground)
        target.colour *= (1 - opacity)[..., None]
        target.colour += own.colour
        if self.salient:
            target.mask += (1 - target.mask) * opacity
        else:
            target.mask *= 1 - opacity
        if target.flow is not None:
            covered = opacity > 0.5
            target.flow[covered] = own.flow[covered]

    def _bent(self, colour, opacity, time: float):
        """Bend the painted object with slow sines in its own frame."""
        plane = self.plane(time)
        here = _pixels(opacity.shape)
        inside = _apply(np.linalg.inv(plane), here)
        strength = np.ones(opacity.shape, np.float32)
        if self.hip is not None:
            strength = np.clip((inside[..., 1] - np.float32(self.hip)) / np.float32(self.base - self.hip), 0, 1)
        shifted, _ = self.bend.displacement(inside, strength, self.gait(time))
        at = _apply(plane, inside + shifted)
        return tuple(cv2.remap(picture, at, None, cv2.INTER_LINEAR) for picture in (colour, opacity))
