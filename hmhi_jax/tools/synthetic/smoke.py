"""Smoke, dust and spray: soft puffs that rise where the object was, grow, drift and fade."""

import cv2
import numpy as np
from jaxtyping import Float

from hmhi_jax.tools.synthetic.layers import Patch, Sprite
from hmhi_jax.tools.synthetic.motion import Camera, ObjectMotion
from hmhi_jax.tools.synthetic.shapes import rotation, scaling, translation
from hmhi_jax.tools.synthetic.textures import Picture, noise_field

_KINDS = ("smoke", "dust", "spray")


def draw_puffs(
    rng: np.random.Generator,
    motion: ObjectMotion,
    camera: Camera,
    depth: float,
    base: float,
    backdrop: Picture,
    first: float,
    last: float,
) -> tuple[Sprite, ...]:
    """Puffs that begin at the object's foot (`base`, y in its frame) at moments between `first` and `last`."""
    kind = str(rng.choice(_KINDS))
    colour = {
        "smoke": np.full(3, rng.uniform(60, 235)),
        "dust": backdrop[-backdrop.shape[0] // 4 :].reshape(-1, 3).mean(0) * rng.uniform(0.9, 1.4),
        "spray": np.full(3, rng.uniform(190, 255)),
    }[kind]
    largest = float(np.clip(motion.unit * rng.uniform(0.4, 1.3), 12, 200))
    patches = [_puff(rng, colour, largest, sharp=kind == "spray") for _ in range(4)]
    life = float(rng.uniform(5, 25))
    count = int(rng.uniform(5, 12) * (last - first + life) / life)  # so that 5 to 12 are there at any time
    strength = float(rng.uniform(0.4, 1.0))
    wind = (rng.normal(0, 0.012, 2) - np.array([0, rng.uniform(0, 0.02)])) * motion.unit
    moments = np.sort(rng.uniform(first - life, last, count))
    return tuple(
        _sprite(rng, patches[rng.integers(4)], motion, camera, depth, base, wind, float(moment), life, strength)
        for moment in moments
    )


def _puff(rng: np.random.Generator, colour: Float[np.ndarray, "3"], size: float, *, sharp: bool) -> Patch:
    side = max(8, int(size))
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j].astype(np.float32)
    field = noise_field(rng, (side, side), cell=max(2.0, side * (0.08 if sharp else 0.35)), roughness=0.6)
    round_about = np.clip(1.15 - np.hypot(x, y) * (1.0 + 0.6 * (field - 0.5)), 0, 1)
    opacity = np.clip((field - 0.45) * 5, 0, 1) * round_about if sharp else round_about**1.5 * (0.4 + 0.6 * field)
    opacity = cv2.GaussianBlur(opacity, (0, 0), 0.6)
    tint = colour * (0.8 + 0.35 * field[..., None])
    return np.dstack([np.clip(tint, 0, 255), 255 * np.clip(opacity, 0, 1)]).astype(np.uint8)


def _sprite(
    rng: np.random.Generator, patch: Patch, motion: ObjectMotion, camera: Camera, depth: float, base: float,
    wind: Float[np.ndarray, "2"], moment: float, life: float, strength: float,
) -> Sprite:  # fmt: skip
    behind = -np.sign(motion.velocity[0] or 1.0) * rng.uniform(0.1, 0.5) * motion.unit
    foot = motion.position(moment) + np.array([behind, base * motion.unit * rng.uniform(0.5, 1.0)])
    drift = wind + rng.normal(0, 0.006, 2) * motion.unit
    turn, half = rng.uniform(0, 2 * np.pi), patch.shape[0] / 2

    def age(time: float) -> float:
        return (time - moment) / life

    def pose(time: float):
        x, y = foot + drift * (time - moment)
        size = 0.4 + 0.8 * max(age(time), 0.0) ** 0.6
        around = rotation(turn + 0.3 * age(time)) @ scaling(size, size) @ translation(-half, -half)
        return camera.matrix(time, depth) @ translation(x, y) @ around

    def fade(time: float) -> float:
        return float(np.clip(6 * age(time), 0, 1) * np.clip(1.2 * (1 - age(time)), 0, 1))

    return Sprite(patch, pose, strength, fade)
