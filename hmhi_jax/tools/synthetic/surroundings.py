"""What is around an object: props that stand, wakes, and smoke, dust and spray: soft puffs that rise where the object
was, grow, drift and fade."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float

from hmhi_jax.tools.synthetic.bodies import blob, curve
from hmhi_jax.tools.synthetic.layers import Patch, Pose, Sprite
from hmhi_jax.tools.synthetic.motion import (
    Matrix,
    Number,
    ObjectMotion,
    Wander,
    log_uniform,
    one_of,
    rotation,
    scaling,
    translation,
)
from hmhi_jax.tools.synthetic.textures import Picture, TextureMaker, noise_field

_PROPS = {"pole": 0.22, "trunk": 0.25, "bush": 0.18, "fence": 0.06, "sign": 0.11, "grass": 0.08, "branch": 0.1}
_SMOKE = ("smoke", "dust", "spray")


def draw_puffs(
    rng: np.random.Generator, motion: ObjectMotion, plane: Pose, base: float, backdrop: Picture, first: float,
    last: float,
) -> tuple[Sprite, ...]:  # fmt: skip
    """Puffs that begin at the object's foot (`base`, y in its frame) at moments between `first` and `last`."""
    kind = str(rng.choice(_SMOKE))
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

    def sprite(patch: Patch, moment: float) -> Sprite:
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
            return plane(time) @ translation(x, y) @ around

        def fade(time: float) -> float:
            return float(np.clip(6 * age(time), 0, 1) * np.clip(1.2 * (1 - age(time)), 0, 1))

        return Sprite(patch, pose, strength, fade)

    return tuple(sprite(patches[rng.integers(4)], float(moment)) for moment in moments)


def _puff(rng: np.random.Generator, colour: Float[np.ndarray, "3"], size: float, *, sharp: bool) -> Patch:
    side = max(8, int(size))
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j].astype(np.float32)
    field = noise_field(rng, (side, side), cell=max(2.0, side * (0.08 if sharp else 0.35)), roughness=0.6)
    round_about = np.clip(1.15 - np.hypot(x, y) * (1.0 + 0.6 * (field - 0.5)), 0, 1)
    opacity = np.clip((field - 0.45) * 5, 0, 1) * round_about if sharp else round_about**1.5 * (0.4 + 0.6 * field)
    opacity = cv2.GaussianBlur(opacity, (0, 0), 0.6)
    tint = colour * (0.8 + 0.35 * field[..., None])
    return np.dstack([np.clip(tint, 0, 255), 255 * np.clip(opacity, 0, 1)]).astype(np.uint8)


def prop_patch(
    rng: np.random.Generator, textures: TextureMaker, size: tuple[int, int], kind: str | None = None
) -> Patch:
    """A standing or hanging thing, about as high as the picture; of a random kind if none is given."""
    height, width = int(size[0] * rng.uniform(0.7, 1.6)), size[1]
    kind = kind or one_of(rng, _PROPS)
    if kind in ("fence", "grass", "branch"):  # these go on beyond the picture
        width *= 2
    opacity = np.zeros((height, width), np.uint8)
    middle = width / 2

    def draw(outline) -> None:
        cv2.fillPoly(opacity, [np.round(outline * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)

    def line(*points: Sequence[Number] | np.ndarray, start: Number, end: Number) -> None:
        draw(curve(np.array(points), start, end))

    palette = {"bush": "leaves", "grass": "leaves", "branch": "leaves", "trunk": "soil"}.get(kind)
    if kind in ("pole", "trunk"):
        thick = width * log_uniform(rng, 0.012, 0.09)
        lean = rng.normal(0, 0.04) * height
        knee, foot = (middle + lean * 0.3, height * 0.5), (middle + lean, height + 5.0)
        line((middle, -5.0), knee, foot, start=thick * rng.uniform(0.7, 1), end=thick)
    if kind == "bush" or (kind == "trunk" and rng.random() < 0.4):
        centre = height * rng.uniform(0.1, 0.5) if kind == "trunk" else height * 0.6
        spread = width * rng.uniform(0.08, 0.3)
        for _ in range(int(rng.integers(30, 160))):
            leaf = blob(rng, 0.1, rng.uniform(0.04, 0.2) * spread * 2, rng.uniform(0.03, 0.12) * spread * 2, 10)
            draw(np.add(leaf, (middle + rng.normal(0, spread * 0.5), centre + rng.normal(0, spread * 0.4))))
    if kind == "branch":
        for _ in range(int(rng.integers(2, 8))):
            start = np.array([rng.uniform(0, width), 0.0])
            end = np.add(start, (rng.normal(0, 60), rng.uniform(10, height * 0.5)))
            line(start, (start + end) / 2 + rng.normal(0, 8, 2), end, start=5, end=1.5)
            for _ in range(25):
                leaf = blob(rng, 0.1, rng.uniform(4, 14), rng.uniform(3, 8), 10)
                draw(leaf + start + rng.random() * (end - start) + rng.normal(0, 7, 2))
    if kind == "fence":
        step, thick = rng.uniform(10, 60), rng.uniform(1.2, 5)
        for x in np.arange(0, width, step):
            line((x, height * 0.3), (x, height * 0.6), (x, height), start=thick, end=thick)
        for y in height * np.array([0.4, 0.6, 0.8]):
            line((0, y), (middle, y), (width, y), start=thick, end=thick)
    if kind == "sign":
        w, h = rng.uniform(0.05, 0.2) * width, rng.uniform(0.08, 0.3) * height
        draw(np.array([(-w, -h), (w, -h), (w, h), (-w, h)]) / 2 + (middle, height * 0.45))
        line((middle, height * 0.45), (middle, height * 0.7), (middle, height), start=4, end=4)
    if kind == "grass":
        for _ in range(int(rng.integers(60, 200))):
            x, tall = rng.uniform(0, width), rng.uniform(0.05, 0.3) * height
            draw(np.array([(x - 2, height), (x + rng.normal(0, 8), height - tall), (x + 2, height)]))
    surface = textures.surface(rng, (height, width), palette)
    shade = rng.uniform(0.55, 1.2)
    return np.dstack([np.clip(surface * shade, 0, 255).astype(np.uint8), opacity])


def draw_wake(rng: np.random.Generator, motion: ObjectMotion, plane: Pose, base: float) -> Sprite:
    """Ripples behind an object, at its foot; they may stay behind more and more."""
    patch = _wake_patch(rng, motion.unit)
    side = -1 if motion.velocity[0] < 0 else 1
    offset = (-patch.shape[1] * rng.uniform(0.75, 1.0), base * motion.unit - patch.shape[0] * rng.uniform(0.3, 0.7))
    lag, sway = rng.uniform(0.5, 1.0), Wander(rng, rng.uniform(0, 1.5), 20, 5)

    def pose(time: float) -> Matrix:
        here = motion.position(time)
        slipping = motion.place + (here - motion.place) * lag if lag < 0.9 else here
        x, y = slipping + sway(time)
        return plane(time) @ translation(x, y) @ scaling(side, 1) @ translation(*offset)

    return Sprite(patch, pose, rng.uniform(0.4, 1))


def _wake_patch(rng: np.random.Generator, pixels: Number) -> Patch:
    """Light and dark ripples in a wedge that opens to the left."""
    length, width = int(max(24, pixels * rng.uniform(0.6, 1.6))), int(max(12, pixels * rng.uniform(0.25, 0.7)))
    field = noise_field(rng, (width, length), cell=rng.uniform(4, 12), roughness=0.7)
    field = cv2.GaussianBlur(field, (0, 0), sigmaX=2.5, sigmaY=0.6)
    x = np.linspace(0, 1, length, dtype=np.float32)[None]
    y = np.abs(np.linspace(-1, 1, width, dtype=np.float32))[:, None]
    wedge = np.clip((1.05 - x - y) * 3, 0, 1) * np.clip(x * 4, 0, 1) * rng.uniform(0.3, 0.95)
    tone = rng.uniform(120, 255)
    grey = np.clip(tone + (field - 0.5) * 160, 0, 255)
    tint = np.clip(grey[..., None] * rng.uniform(0.8, 1.1, 3).astype(np.float32), 0, 255)
    return np.dstack([tint, wedge * np.clip(field * 2.2 - 0.5, 0, 1) * 255]).astype(np.uint8)
