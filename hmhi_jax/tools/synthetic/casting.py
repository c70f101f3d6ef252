"""From outlines and pictures with opacity to painted things: textured and shaded patches of objects."""

import dataclasses
import functools
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from hmhi_jax.tools.synthetic.bodies import Body, Outline, Part, fill, part_matrices, silhouette
from hmhi_jax.tools.synthetic.layers import Patch, Waves
from hmhi_jax.tools.synthetic.motion import Matrix, Number, log_uniform, scaling, transform, translation
from hmhi_jax.tools.synthetic.pictures import load_cut_out
from hmhi_jax.tools.synthetic.textures import (
    Picture,
    TextureMaker,
    jitter_colours,
    noise_field,
    piece_of,
    ramp,
    random_colours,
)

Painted = tuple[tuple[Patch, ...], tuple[Matrix, ...]]  # of each part, and the matrix from its frame to the patch

_ROUND_ABOUT = 0.15  # share of cut-outs that turn freely instead of staying upright

_PLAIN = 12  # a silhouette: no colour varies more than this, of 255


@dataclasses.dataclass(frozen=True)
class Looks:
    """How objects are to look before a backdrop; all but the first two are probabilities.

    textures    makes surfaces
    camouflage  it wears pieces of the backdrop
    blending    it has the backdrop's colours
    markings    of an object made of parts: these carry patches of another colour
    retextured  of a cut-out: it wears any surface, as silhouettes always do
    """

    textures: TextureMaker
    backdrop: Picture
    camouflage: Number = 0.0
    blending: Number = 0.0
    markings: Number = 0.0
    retextured: Number = 0.0


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


def paint_cut_out(rng: np.random.Generator, looks: Looks, body: Body, pixels: Number) -> Painted:
    """The patch of a cut-out at `pixels` per object unit, and the matrix from its frame to the patch.

    Where it wears a surface or a piece of the looks.backdrop, its own light and dark show through.
    """
    source = body.picture
    scale = max(min(1.15 * pixels, max(source.shape[:2])), 6) / max(source.shape[:2])
    height, width = (max(3, round(side * scale)) for side in source.shape[:2])
    patch = cv2.resize(source, (width, height), interpolation=cv2.INTER_AREA)
    colour, opacity = patch[..., :3], patch[..., 3]
    hidden, blends, dressed = rng.random(3) < (looks.camouflage, looks.blending, looks.retextured)
    if hidden or dressed or colour[opacity > 127].std(0).max() < _PLAIN:
        surface = (
            piece_of(rng, looks.backdrop, (height, width)) if hidden else looks.textures.surface(rng, (height, width))
        )
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
        painted = painted + np.float32(0.8) * (looks.backdrop.reshape(-1, 3).mean(0) - painted[inside].mean(0))
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


_LARGEST_PATCH = 420
_PLAIN_COLOURS = ("dark", "light", "any", "vivid", "warm", "dry", "stone")


def object_materials(rng: np.random.Generator, looks: Looks, body: Body, pixels: Number) -> dict[int, Picture]:
    """One texture per material number of a body made of parts, at `pixels` per object unit."""
    size = int(np.clip(1.4 * pixels, 32, _LARGEST_PATCH))
    numbers = sorted({part.material for part in body.parts})
    hidden, blends, marked = rng.random(3) < (looks.camouflage, looks.blending, looks.markings)
    materials = {}
    uniform = rng.random() < 0.3
    for number in numbers:
        if hidden:
            materials[number] = piece_of(rng, looks.backdrop, (size, size))
        elif uniform and materials:
            materials[number] = np.clip(materials[numbers[0]] * rng.uniform(0.6, 1.3), 0, 255).astype(np.uint8)
        elif blends or rng.random() < 0.45:
            # One colour with little pattern: most animals, clothes and cars.
            if blends:
                colour = _mean_colour(rng, looks.backdrop) * rng.uniform(0.8, 1.2)
            else:
                colour = random_colours(rng, 1, rng.choice(_PLAIN_COLOURS))[0]
            materials[number] = np.clip(_mottled(rng, (size, size), colour, 60), 0, 255).astype(np.uint8)
        else:
            materials[number] = looks.textures.surface(rng, (size, size), rng.choice([*_PLAIN_COLOURS, "soil"]))
        if marked and not hidden and rng.random() < 0.7:
            materials[number] = _mark(rng, looks, materials[number])
    return materials


def paint_body(rng: np.random.Generator, looks: Looks, body: Body, pixels: Number) -> Painted:
    """Patches of all parts of any body, and the matrices from part frame to patch; `pixels` per object unit."""
    if body.picture is not None:
        return paint_cut_out(rng, looks, body, pixels)
    return paint_parts(rng, body, object_materials(rng, looks, body, pixels), pixels)


def _mottled(
    rng: np.random.Generator, size: tuple[int, int], colour: Float[np.ndarray, "3"], most: Number
) -> Float[np.ndarray, "h w 3"]:
    """One colour, lighter and darker by up to half of `most`, of 255."""
    pattern = noise_field(rng, size, cell=rng.uniform(3, 30), roughness=0.7) - 0.5
    return colour + rng.uniform(0, most) * pattern[..., None]


def _mean_colour(rng: np.random.Generator, picture: Picture) -> Float[np.ndarray, "3"]:
    return piece_of(rng, picture, (12, 12)).reshape(-1, 3).mean(0)


def _mark(rng: np.random.Generator, looks: Looks, material: Picture) -> Picture:
    """Piebald fur, a white belly, panes and panels: another colour on about a third of a material. Without this a
    network learns that whatever differs in colour is a hole in the object."""
    height, width = material.shape[:2]
    kind = rng.choice(["backdrop", "plain", "surface"], p=[0.35, 0.4, 0.25])
    if kind == "surface":
        other = looks.textures.surface(rng, (height, width)).astype(np.float32)
    else:
        colour = _mean_colour(rng, looks.backdrop) if kind == "backdrop" else random_colours(rng, 1)[0]
        other = _mottled(rng, (height, width), colour, 40)
    if rng.random() < 0.6:
        field = noise_field(rng, (height, width), cell=width * rng.uniform(0.1, 0.6), roughness=0.4)
        covered = np.quantile(field[::4, ::4], rng.uniform(0.5, 0.85))
    else:  # a band or, where it reaches the edge, one side
        turn = rng.choice([0, np.pi / 2]) + rng.normal(0, 0.2)
        y, x = np.linspace(-1, 1, height, dtype=np.float32)[:, None], np.linspace(-1, 1, width, dtype=np.float32)[None]
        across = x * np.float32(np.sin(turn)) + y * np.float32(np.cos(turn))
        field, covered = 1 - np.abs(across - np.float32(rng.uniform(-1, 1))), 1 - rng.uniform(0.05, 0.5)
    share = np.clip((field - np.float32(covered)) * np.float32(rng.uniform(15, 80)) + 0.5, 0, 1)[..., None]
    return np.clip(material + (other - material) * share, 0, 255).astype(np.uint8)


def paint_parts(rng: np.random.Generator, body: Body, materials: dict[int, Picture], pixels: Number) -> Painted:
    """Textured, shaded patches of all parts and the matrices from part frame to patch; `pixels` per object unit."""
    light = rng.uniform(0, 2 * np.pi)
    relief, slope = rng.uniform(0, 0.6), rng.uniform(0, 0.35)
    outlined = rng.random() < 0.15
    patches, fits = [], []
    for part in body.parts:
        scale = min(1.15 * pixels, (_LARGEST_PATCH - 6) / max(np.ptp(part.outline, 0).max(), 1e-3))
        fit, (height, width) = _fit(part.outline, scale, 3)
        opacity = fill(part, fit, (height, width))
        texture = materials[part.material]
        if texture.shape[0] < height or texture.shape[1] < width:
            texture = cv2.resize(texture, (max(width, texture.shape[1]), max(height, texture.shape[0])))
        top = rng.integers(texture.shape[0] - height + 1)
        left = rng.integers(texture.shape[1] - width + 1)
        colour = texture[top : top + height, left : left + width].astype(np.float32)
        colour *= _shading(opacity, light, relief, slope)[..., None]
        if outlined:
            rim = cv2.subtract(opacity, cv2.erode(opacity, np.ones((3, 3), np.uint8)))
            colour *= 1 - 0.6 * rim[..., None] / 255
        patches.append(np.dstack([np.clip(colour, 0, 255).astype(np.uint8), opacity]))
        fits.append(fit)
    return tuple(patches), tuple(fits)


def _fit(points: Outline, pixels: Number, margin: int) -> tuple[Matrix, tuple[int, int]]:
    """The matrix that brings points to a patch at `pixels` per unit, and the patch's (height, width)."""
    low, high = points.min(0), points.max(0)
    width, height = (np.ceil((high - low) * pixels).astype(int) + 2 * margin).tolist()
    return translation(margin, margin) @ scaling(pixels, pixels) @ translation(-low[0], -low[1]), (height, width)


def _shading(
    opacity: UInt8[np.ndarray, "h w"], light: Number, relief: Number, slope: Number
) -> Float[np.ndarray, "h w"]:
    """Round bodies are darker at their edges and on the side away from the light."""
    inside = cv2.distanceTransform((opacity > 127).astype(np.uint8), cv2.DIST_L2, 3)
    dome = np.sqrt(np.minimum(inside / max(float(inside.max()), 1), 1))
    return (1 - relief * (1 - dome)) * (1 + slope * ramp(opacity.shape, light))


def body_extent(body: Body) -> tuple[float, float, float]:
    """Area in square units, and y of the highest and lowest points of the silhouette."""
    mask = silhouette(body)
    rows, _ = np.nonzero(mask > 127)
    if len(rows) == 0:
        return 0.01, -0.1, 0.1
    half = mask.shape[0] / 2
    return len(rows) / half**2, float(rows.min() / half - 1), float(rows.max() / half - 1)


def flatten_body(
    body: Body, patches: tuple[Patch, ...], fits: tuple[Matrix, ...], pixels: Number, gait: Number
) -> Patch:
    """The whole object in one pose as one patch: for things that stand."""
    matrices = part_matrices(body, gait, 0.0)
    corners = np.concatenate(
        [transform(matrix, part.outline) for part, matrix in zip(body.parts, matrices, strict=True)]
    )
    fit, (height, width) = _fit(corners, pixels, 2)
    whole = np.zeros((height, width, 4), np.float32)
    for index in body.painting_order:
        place = fit @ matrices[index] @ np.linalg.inv(fits[index])
        moved = cv2.warpAffine(patches[index], place[:2], (width, height), flags=cv2.INTER_AREA).astype(np.float32)
        share = moved[..., 3:] / 255
        whole[..., :3] += (moved[..., :3] - whole[..., :3]) * share
        whole[..., 3:] += (255 - whole[..., 3:]) * share
    # Where nothing was painted the colour must not be black: edges would darken.
    empty = whole[..., 3] < 1
    if not empty.all():
        whole[..., :3][empty] = whole[..., :3][~empty].mean(0)
    return whole.astype(np.uint8)
