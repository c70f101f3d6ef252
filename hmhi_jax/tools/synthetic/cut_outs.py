"""Objects that are pictures with opacity: their outline, and how they are painted before a backdrop."""

import functools
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float

from hmhi_jax.tools.synthetic.layers import Patch, Waves
from hmhi_jax.tools.synthetic.motion import log_uniform
from hmhi_jax.tools.synthetic.pictures import load_cut_out
from hmhi_jax.tools.synthetic.shapes import Body, Matrix, Number, Part, scaling, translation
from hmhi_jax.tools.synthetic.textures import Looks, Picture, TextureMaker, jitter_colours, noise_field, piece_of, ramp

_ROUND_ABOUT = 0.15  # share of cut-outs that turn freely instead of staying upright

_PLAIN = 12  # a silhouette: no colour varies more than this, of 255


@functools.lru_cache(maxsize=512)
def _outline(path: Path) -> Float[np.ndarray, "n 2"]:
    """The largest outline of what is opaque, in units of the picture's longer side around its middle."""
    opacity = load_cut_out(path)[..., 3]
    outlines, _ = cv2.findContours((opacity > 127).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    largest = cv2.approxPolyDP(max(outlines, key=cv2.contourArea), 0.7, True)[:, 0].astype(np.float64)
    height, width = opacity.shape
    return (largest + 0.5 - np.array([width / 2, height / 2])) / max(height, width)


def cut_out_body(rng: np.random.Generator, path: Path) -> Body:
    """The object of a picture; somewhat longer or shorter than it is there."""
    picture, outline = load_cut_out(path), _outline(path)
    squeeze = np.exp(rng.normal(0, 0.12))
    height, width = picture.shape[:2]
    picture = cv2.resize(picture, (max(8, round(width * squeeze)), height), interpolation=cv2.INTER_AREA)
    longer = max(picture.shape[:2]) / max(height, width)
    outline = outline * np.array([picture.shape[1] / width, 1.0]) / longer
    return Body(path.stem, (Part(outline),), upright=bool(rng.random() >= _ROUND_ABOUT), picture=picture)


def paint_cut_out(
    rng: np.random.Generator,
    textures: TextureMaker,
    body: Body,
    pixels: Number,
    backdrop: Picture,
    looks: Looks,
) -> tuple[tuple[Patch, ...], tuple[Matrix, ...]]:
    """The patch of a cut-out at `pixels` per object unit, and the matrix from its frame to the patch.

    Where it wears a surface or a piece of the backdrop, its own light and dark show through.
    """
    source = body.picture
    scale = max(min(1.15 * pixels, max(source.shape[:2])), 6) / max(source.shape[:2])
    height, width = (max(3, round(side * scale)) for side in source.shape[:2])
    patch = cv2.resize(source, (width, height), interpolation=cv2.INTER_AREA)
    colour, opacity = patch[..., :3], patch[..., 3]
    hidden, blends, dressed = rng.random(3) < (looks.camouflage, looks.blending, looks.retextured)
    if hidden or dressed or colour[opacity > 127].std(0).max() < _PLAIN:
        surface = piece_of(rng, backdrop, (height, width)) if hidden else textures.surface(rng, (height, width))
        own = rng.uniform(0.0, 0.35)
        grey = colour.astype(np.float32).mean(-1)
        light = 1 + rng.uniform(0.3, 0.9) * (grey / max(float(grey[opacity > 127].mean()), 24) - 1)
        shade = np.clip(light, 0.45, 1.6)[..., None]
        painted = surface * shade * np.float32(1 - own) + colour * np.float32(own)
    else:
        turn = 90 if rng.random() < 0.25 else 12
        painted = jitter_colours(rng, colour, turn).astype(np.float32)
    if blends and not hidden:
        inside = opacity > 127
        painted = painted + np.float32(0.8) * (backdrop.reshape(-1, 3).mean(0) - painted[inside].mean(0))
    # Drawn pictures are flat: a surface has some grain, and light from one side.
    grain = noise_field(rng, (height, width), cell=max(2.0, 0.15 * height * log_uniform(rng, 0.15, 1)), roughness=0.7)
    painted = painted + np.float32(rng.uniform(0, 45)) * (grain - 0.5)[..., None]
    light, slope = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.35)
    painted = painted * (1 + slope * ramp((height, width), light))[..., None]
    finished = np.dstack([np.clip(painted, 0, 255).astype(np.uint8), opacity])
    side = max(source.shape[:2])
    middle = translation(source.shape[1] / side / 2, source.shape[0] / side / 2)
    return (finished,), (scaling(width / source.shape[1] * side, height / source.shape[0] * side) @ middle,)


def leg_swing(rng: np.random.Generator) -> Waves:
    """Bending, in object units, that moves what is side by side to and fro in turns, as legs go."""
    apart = rng.uniform(0.25, 0.8)
    return Waves(
        np.ones((1, 1), np.float32),
        np.array([[rng.uniform(0.03, 0.12), rng.uniform(0, 0.02)]]),
        np.array([[2 * np.pi / apart, rng.uniform(-2, 2)]]),
        np.array([1.0]),
        rng.uniform(0, 2 * np.pi, 1),
    )
