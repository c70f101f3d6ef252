"""A random scene: backdrop, camera, the salient object, and what distracts from it."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hmhi_jax.tools.synthetic.bodies import Body, random_body
from hmhi_jax.tools.synthetic.casting import Looks, body_extent, cut_out_body, flatten_body, leg_swing, paint_body
from hmhi_jax.tools.synthetic.layers import Actor, Backdrop, Pose, Reflection, Shadow, Sprite, Target, Waves
from hmhi_jax.tools.synthetic.motion import (
    CameraPath,
    ObjectMotion,
    Progress,
    Wander,
    log_uniform,
    translation,
)
from hmhi_jax.tools.synthetic.settings import Settings
from hmhi_jax.tools.synthetic.surroundings import draw_puffs, draw_wake, prop_patch
from hmhi_jax.tools.synthetic.textures import Picture, TextureMaker, noise_field

_MARGIN = 0.25  # the backdrop's canvas reaches this far beyond the picture, as a fraction of its size


@dataclasses.dataclass(frozen=True)
class Scene:
    """Layers from back to front. `render` paints them at any moment."""

    size: tuple[int, int]
    layers: tuple[Backdrop | Sprite | Actor, ...]
    traits: dict[str, str | float | bool]  # what was drawn, kept with the clip for analysis
    moment: float | None = None  # at which it stands still

    def render(self, time: float, later: float | None = None) -> Target:
        """Paint the scene at `time`; with `later`, also the exact flow from `time` to `later`."""
        if self.moment is not None:
            time, later = self.moment, None if later is None else self.moment
        target = Target(self.size, time, later)
        for layer in self.layers:
            layer.paint(target)
        return target

    def without_motion(self, moment: float | None) -> "Scene":
        """The same scene in which nothing moves by itself: standing still at `moment`, or (None) without its actors and
        whatever else changes, seen by a camera that moves. Nothing is salient then."""
        if moment is None:
            kept = [
                layer for layer in self.layers if not isinstance(layer, Actor) and getattr(layer, "fade", None) is None
            ]
            layers = tuple(dataclasses.replace(x, waves=None) if isinstance(x, Backdrop) else x for x in kept)
            return dataclasses.replace(self, layers=layers, traits=self.traits | {"nothing": "camera"})
        layers = tuple(dataclasses.replace(x, salient=False) if isinstance(x, Actor) else x for x in self.layers)
        return Scene(self.size, layers, self.traits | {"nothing": "still"}, moment)


class SceneMaker:
    """Draws scenes for `settings`; `first` and `last` are the earliest and latest moments that will be looked at.
    `cut_outs` are the pictures that objects are taken from; without any, all objects are made of parts."""

    def __init__(self, settings: Settings, textures: TextureMaker, cut_outs: Sequence[Path] = ()) -> None:
        self.settings = settings
        self.textures = textures
        self.cut_outs = list(cut_outs)

    def draw(self, rng: np.random.Generator, first: float, last: float) -> Scene:
        s = self.settings
        height, width = s.size
        middle, duration = (first + last) / 2, max(last - first, 1.0)
        horizon = rng.uniform(0.05, 0.65) if rng.random() < 0.6 else None
        canvas_size = (int(height * (1 + 2 * _MARGIN)), int(width * (1 + 2 * _MARGIN)))
        lifted = None if horizon is None else (horizon + _MARGIN) / (1 + 2 * _MARGIN)
        if self.textures.backdrops and _happens(rng, s.scenes):
            canvas = self.textures.scene(rng, canvas_size)
        else:
            canvas = self.textures.background(rng, canvas_size, lifted)
        plain = canvas.copy()  # what the objects' colours are taken from: before any is pasted into it
        camouflaged = rng.random() < s.same_texture
        if rng.random() < s.static_distractors:
            for _ in range(rng.integers(1, 5)):
                self._paste_distractor(rng, canvas)

        body = self._body(rng, articulated=rng.random() < s.articulated)
        close = rng.random() < s.close
        share = float(rng.uniform(0.25, 0.55)) if close else log_uniform(rng, 0.015, 0.32)
        slowest = 1.0
        fills, small = _happens(rng, s.fills), _happens(rng, s.small_fast)
        if fills:
            share = float(rng.uniform(0.45, 0.8))
        elif small:
            share, slowest = log_uniform(rng, 0.0015, 0.01), 4.0
        motion = self._object_motion(rng, body, share, middle, duration, horizon, slowest)
        depth = rng.uniform(1.0, 1.5)
        tracked = rng.random() < s.tracking
        camera = CameraPath(rng, s.size, middle, motion if tracked else None, depth)
        plane = functools.partial(camera.matrix, disparity=depth)  # the one the object moves in
        watery = rng.random() < 0.5
        relief = rng.random() < s.relief
        waves = rng.random() < s.waves
        backdrop = Backdrop(
            canvas,
            lambda time: camera.matrix(time) @ translation(-_MARGIN * width, -_MARGIN * height),
            camera.travel,
            self._relief(rng, canvas_size, lifted, camera, first, last) if relief else None,
            self._waves(rng, canvas_size, lifted, watery) if waves else None,
        )

        layers: list[Backdrop | Sprite | Actor] = [backdrop]
        before: list[Sprite] = []

        def add_props(count: int, in_front: float, kind: str | None = None) -> None:
            for _ in range(count):
                front = rng.random() < in_front
                disparity = rng.uniform(depth, 2.5) if front else rng.uniform(1.02, max(depth, 1.05))
                (before if front else layers).append(self._prop(rng, camera, disparity, kind))

        if rng.random() < s.props:
            add_props(int(rng.integers(1, 4)), 0.35)
        if rng.random() < s.avenue:
            kind = str(rng.choice(["pole", "trunk"]))
            add_props(int(rng.integers(3, 8)), 0.5, kind)
        looks = Looks(self.textures, plain, float(camouflaged), s.blending, s.markings, s.retextured)
        if rng.random() < s.moving_distractors:
            for _ in range(rng.integers(1, 4)):
                layers.append(self._small_mover(rng, camera.matrix, share, middle, duration, looks))
        actors = [self._actor(rng, body, motion, plane, looks)]
        if rng.random() < s.several_objects:
            for _ in range(rng.integers(1, 3)):
                actors.append(self._companion(rng, motion, plane, looks))
        smoke: tuple[Sprite, ...] = ()
        if _happens(rng, s.smoke):
            smoke = draw_puffs(rng, motion, plane, actors[0].base, plain, first, last)
        in_front = bool(smoke) and rng.random() < 0.5
        layers += actors if in_front else [*smoke, *actors]
        layers += [*smoke, *before] if in_front else before
        traits = {
            "body": body.kind, "area": share, "speed": float(np.linalg.norm(motion.velocity)), "tracked": bool(tracked),
            "camouflage": bool(camouflaged), "relief": bool(relief), "waves": bool(waves),
            "occluders": len(before), "objects": len(actors), "close": bool(close),
            "stops": motion.progress.moment is not None, "fills": fills, "small": small and not fills,
            "smoke": bool(smoke),
        }  # fmt: skip
        return Scene(s.size, tuple(layers), traits)

    def _body(self, rng: np.random.Generator, articulated: bool = True) -> Body:
        if self.cut_outs and _happens(rng, self.settings.cut_outs):
            return cut_out_body(rng, self.cut_outs[rng.integers(len(self.cut_outs))])
        return random_body(rng, articulated=articulated)

    # --- the object ---------------------------------------------------------------------------------------------

    def _object_motion(
        self, rng: np.random.Generator, body: Body, share: float, middle: float, duration: float,
        horizon: float | None, slowest: float = 1.0,
    ) -> ObjectMotion:  # fmt: skip
        s = self.settings
        height, width = s.size
        scale = width / 288
        area, top, base = body_extent(body)
        squash = 1.0 if body.upright else float(rng.uniform(0.6, 1))
        unit = float(np.sqrt(share * height * width / (area * squash)))
        speed = min(log_uniform(rng, slowest, 10) * scale, 0.8 * width / duration)
        sideways = rng.choice([0.0, np.pi])
        heading = sideways + rng.normal(0, 0.3) if body.upright or rng.random() < 0.4 else rng.uniform(0, 2 * np.pi)
        velocity = speed * np.array([np.cos(heading), np.sin(heading)])
        place = np.array([rng.normal(0.5, 0.15) * width, rng.normal(0.52, 0.14) * height])
        if body.upright and horizon is not None:  # feet on the ground
            place[1] = rng.uniform(min(horizon + 0.05, 0.9), 0.98) * height - base * unit
        place = np.clip(place, (0.08 * width, 0.12 * height), (0.92 * width, 0.88 * height))
        if rng.random() < 0.75:  # mostly all of it is in the picture, if it fits
            highest, lowest = -top * unit + 2, height - base * unit - 2
            place[1] = np.clip(place[1], highest, lowest) if highest < lowest else (highest + lowest) / 2
        if rng.random() < s.edge:
            place[0] = rng.choice([rng.uniform(-0.05, 0.15), rng.uniform(0.85, 1.05)]) * width
        progress = Progress()
        if rng.random() < s.stops:
            moment = middle + rng.uniform(-0.35, 0.35) * duration
            progress = Progress(moment, bool(rng.random() < 0.4), float(rng.uniform(0.3, 3)))
        wander = Wander(rng, log_uniform(rng, 0.05, 4) * scale, 60, 12)
        way = progress(middle)
        free = not body.upright
        return ObjectMotion(
            place=place - velocity * way - wander(way),
            velocity=velocity,
            wander=wander,
            turn=float(rng.uniform(0, 2 * np.pi)) if free else float(rng.normal(0, 0.08)),
            turning=float(rng.choice([-1, 1])) * log_uniform(rng, 0.001, 0.12) if free else float(rng.normal(0, 0.002)),
            sway=Wander(rng, log_uniform(rng, 0.005, 0.08), 40, 8, 1),
            growth=float(rng.normal(0, 0.012)) if rng.random() < 0.4 else 0.0,
            gait_rate=log_uniform(rng, 0.06, 0.9),
            gait_start=float(rng.uniform(0, 2 * np.pi)),
            bounce=float(rng.choice([0, rng.uniform(0, 0.03)])) * unit,
            unit=unit,
            flip=bool(velocity[0] < 0) ^ bool(rng.random() < 0.08),
            squash=squash,
            progress=progress,
        )  # fmt: skip

    def _actor(self, rng: np.random.Generator, body: Body, motion: ObjectMotion, plane: Pose, looks: Looks) -> Actor:
        s = self.settings
        patches, fits = paint_body(rng, looks, body, motion.unit)
        *_, base = body_extent(body)
        wake = bend = hip = None
        effects = [
            effect(rng) for effect, share in ((Shadow, s.shadows), (Reflection, s.reflections)) if rng.random() < share
        ]
        if rng.random() < s.wakes:
            wake = draw_wake(rng, motion, plane, base)
        if rng.random() < s.soft or body.soft:
            bend = Waves(
                np.ones((1, 1), np.float32), rng.normal(0, max(body.soft, log_uniform(rng, 0.005, 0.04)), (2, 2)),
                rng.normal(0, 4, (2, 2)), rng.uniform(0.3, 1.5, 2), rng.uniform(0, 6, 2),
            )  # fmt: skip
        if body.picture is not None and body.upright and rng.random() < s.limbs:
            bend, hip = leg_swing(rng), float(base * rng.uniform(-0.1, 0.5))
        return Actor(
            body, patches, fits, lambda time: plane(time) @ motion.matrix(time), motion.gait, motion.distance, base,
            tuple(effects), wake, bend, hip,
        )  # fmt: skip

    def _companion(self, rng: np.random.Generator, motion: ObjectMotion, plane: Pose, looks: Looks) -> Actor:
        """Another salient object that goes the same way."""
        body = self._body(rng)
        area, _, _ = body_extent(body)
        mine = motion.unit**2 * area
        unit = motion.unit * float(np.sqrt(rng.uniform(0.3, 1.1) * motion.unit**2 * 0.25 / mine))
        aside = np.array([rng.choice([-1, 1]) * rng.uniform(0.4, 1.2), rng.normal(0, 0.15)]) * motion.unit
        partner = dataclasses.replace(
            motion, place=motion.place + aside, unit=unit, gait_start=float(rng.uniform(0, 6)),
            velocity=motion.velocity * rng.uniform(0.8, 1.2),
        )  # fmt: skip
        return self._actor(rng, body, partner, plane, looks)

    # --- what is not the object ---------------------------------------------------------------------------------

    def _paste_distractor(self, rng: np.random.Generator, canvas: Picture) -> None:
        """Paint an object that stands still onto the backdrop itself."""
        s = self.settings
        body = self._body(rng)
        area, _, _ = body_extent(body)
        share = log_uniform(rng, 0.002, 0.12)
        pixels = float(np.sqrt(share * s.size[0] * s.size[1] / area))
        looks = Looks(self.textures, canvas, markings=s.markings, retextured=s.retextured)
        patches, fits = paint_body(rng, looks, body, pixels)
        patch = flatten_body(body, patches, fits, pixels, float(rng.uniform(0, 6)))
        if rng.random() < 0.5:
            patch = patch[:, ::-1]
        height, width = canvas.shape[:2]
        h, w = min(patch.shape[0], height), min(patch.shape[1], width)
        patch = patch[:h, :w].astype(np.float32)
        top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
        below = canvas[top : top + h, left : left + w]
        below[:] = (below + (patch[..., :3] - below) * (patch[..., 3:] / 255)).astype(np.uint8)

    def _small_mover(self, rng, plane: Pose, share: float, middle: float, duration: float, looks: Looks) -> Actor:
        body = self._body(rng)
        small = min(share * rng.uniform(0.01, 0.12), 0.006)
        motion = self._object_motion(rng, body, small, middle, duration, None)
        height, width = self.settings.size
        place = rng.uniform((0, 0), (width, height))
        motion = dataclasses.replace(motion, place=place - motion.velocity * motion.progress(middle))
        actor = self._actor(rng, body, motion, plane, dataclasses.replace(looks, camouflage=0.0))
        return dataclasses.replace(actor, salient=False)

    def _prop(self, rng: np.random.Generator, camera: CameraPath, disparity: float, kind: str | None = None) -> Sprite:
        height, width = self.settings.size
        patch = prop_patch(rng, self.textures, self.settings.size, kind)
        x = rng.uniform(-0.1, 1.1) * width - patch.shape[1] / 2
        y = height * rng.uniform(0.9, 1.15) - patch.shape[0]
        place = translation(x, y)
        return Sprite(patch, lambda time: camera.matrix(time, disparity) @ place)

    def _relief(self, rng, size: tuple[int, int], horizon: float | None, camera: CameraPath, first: float, last: float):
        """Excess disparity over the canvas: ground that comes nearer below the horizon, or hills and hollows."""
        height = size[0]
        if horizon is not None and rng.random() < 0.7:
            below = np.clip((np.arange(height, dtype=np.float32) / height - horizon) / (1 - horizon), 0, 1)
            return np.ascontiguousarray(np.broadcast_to((below * np.float32(rng.uniform(0.1, 1)))[:, None], size))
        # Displacement may not fold: its slope, strength times travel over the size of a hill, stays below a half.
        farthest = max(float(np.abs(camera.travel(time)).max()) for time in np.linspace(first, last, 9))
        cell = rng.uniform(50, 140)
        strength = min(rng.uniform(0.1, 0.8), 0.25 * cell / max(farthest, 1e-3))
        return noise_field(rng, size, cell=cell, roughness=0.2) * np.float32(strength)

    def _waves(self, rng, size: tuple[int, int], horizon: float | None, watery: bool) -> Waves:
        height, width = size
        rows = np.arange(height, dtype=np.float32)[:, None] / height
        edge = horizon if horizon is not None else rng.uniform(0.3, 0.7)
        region = np.clip(((rows - edge) if watery else (edge - rows)) * 12, 0, 1) * np.ones((1, width), np.float32)
        patchy = noise_field(rng, size, cell=rng.uniform(30, 120), roughness=0.3)
        region = region * np.clip((patchy - rng.uniform(0, 0.6)) * 4, 0, 1)
        count = 4
        waves = 2 * np.pi / np.exp(rng.uniform(np.log(8 if watery else 14), np.log(60), count))
        turn = rng.normal(np.pi / 2, 0.4, count) if watery else rng.uniform(0, 2 * np.pi, count)
        return Waves(
            region.astype(np.float32),
            rng.normal(0, log_uniform(rng, 0.1, 0.8), (count, 2)),
            waves[:, None] * np.stack([np.cos(turn), np.sin(turn)], -1),
            rng.uniform(0.05, 0.7, count),
            rng.uniform(0, 2 * np.pi, count),
            float(rng.uniform(0, 14)) if watery else 0.0,
        )


def _happens(rng: np.random.Generator, probability: float) -> bool:
    """A draw for what is off by default: at 0 nothing is drawn, so that older seeds keep their clips."""
    return probability > 0 and bool(rng.random() < probability)
