"""From outlines to painted things: textured and shaded patches for objects, props and wakes."""

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from hmhi_jax.tools.synthetic.cut_outs import paint_cut_out
from hmhi_jax.tools.synthetic.layers import Patch
from hmhi_jax.tools.synthetic.shapes import (
    Body,
    Matrix,
    Number,
    blob,
    curve,
    fill,
    part_matrices,
    scaling,
    silhouette,
    translation,
)
from hmhi_jax.tools.synthetic.textures import Looks, Picture, TextureMaker, noise_field, piece_of, ramp, random_colours

_LARGEST_PATCH = 420
_PLAIN_COLOURS = ("dark", "light", "any", "vivid", "warm", "dry", "stone")
_PROPS = {"pole": 0.22, "trunk": 0.25, "bush": 0.18, "fence": 0.06, "sign": 0.11, "grass": 0.08, "branch": 0.1}


def object_materials(
    rng: np.random.Generator,
    textures: TextureMaker,
    body: Body,
    pixels: Number,
    backdrop: Picture,
    looks: Looks,
) -> dict[int, Picture]:
    """One texture per material number of a body made of parts, at `pixels` per object unit."""
    size = int(np.clip(1.4 * pixels, 32, _LARGEST_PATCH))
    numbers = sorted({part.material for part in body.parts})
    hidden, blends, marked = rng.random(3) < (looks.camouflage, looks.blending, looks.markings)
    materials = {}
    uniform = rng.random() < 0.3
    for number in numbers:
        if hidden:
            materials[number] = piece_of(rng, backdrop, (size, size))
        elif uniform and materials:
            materials[number] = np.clip(materials[numbers[0]] * rng.uniform(0.6, 1.3), 0, 255).astype(np.uint8)
        elif blends or rng.random() < 0.45:
            # One colour with little pattern: most animals, clothes and cars.
            if blends:
                colour = _mean_colour(rng, backdrop) * rng.uniform(0.8, 1.2)
            else:
                colour = random_colours(rng, 1, rng.choice(_PLAIN_COLOURS))[0]
            materials[number] = np.clip(_mottled(rng, (size, size), colour, 60), 0, 255).astype(np.uint8)
        else:
            materials[number] = textures.surface(rng, (size, size), rng.choice([*_PLAIN_COLOURS, "soil"]))
        if marked and not hidden and rng.random() < 0.7:
            materials[number] = _mark(rng, textures, materials[number], backdrop)
    return materials


def paint_body(
    rng: np.random.Generator,
    textures: TextureMaker,
    body: Body,
    pixels: Number,
    backdrop: Picture,
    looks: Looks,
) -> tuple[tuple[Patch, ...], tuple[Matrix, ...]]:
    """Patches of all parts of any body, and the matrices from part frame to patch; `pixels` per object unit."""
    if body.picture is not None:
        return paint_cut_out(rng, textures, body, pixels, backdrop, looks)
    return paint_parts(rng, body, object_materials(rng, textures, body, pixels, backdrop, looks), pixels)


def _mottled(
    rng: np.random.Generator, size: tuple[int, int], colour: Float[np.ndarray, "3"], most: Number
) -> Float[np.ndarray, "h w 3"]:
    """One colour, lighter and darker by up to half of `most`, of 255."""
    pattern = noise_field(rng, size, cell=rng.uniform(3, 30), roughness=0.7) - 0.5
    return colour + rng.uniform(0, most) * pattern[..., None]


def _mean_colour(rng: np.random.Generator, picture: Picture) -> Float[np.ndarray, "3"]:
    return piece_of(rng, picture, (12, 12)).reshape(-1, 3).mean(0)


def _mark(rng: np.random.Generator, textures: TextureMaker, material: Picture, backdrop: Picture) -> Picture:
    """Piebald fur, a white belly, panes and panels: another colour on about a third of a material. Without this a
    network learns that whatever differs in colour is a hole in the object."""
    height, width = material.shape[:2]
    kind = rng.choice(["backdrop", "plain", "surface"], p=[0.35, 0.4, 0.25])
    if kind == "surface":
        other = textures.surface(rng, (height, width)).astype(np.float32)
    else:
        colour = _mean_colour(rng, backdrop) if kind == "backdrop" else random_colours(rng, 1)[0]
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


def paint_parts(
    rng: np.random.Generator, body: Body, materials: dict[int, Picture], pixels: Number
) -> tuple[tuple[Patch, ...], tuple[Matrix, ...]]:
    """Textured, shaded patches of all parts and the matrices from part frame to patch; `pixels` per object unit."""
    light = rng.uniform(0, 2 * np.pi)
    relief, slope = rng.uniform(0, 0.6), rng.uniform(0, 0.35)
    outlined = rng.random() < 0.15
    patches, fits = [], []
    for part in body.parts:
        low, high = part.outline.min(0), part.outline.max(0)
        scale = min(1.15 * pixels, (_LARGEST_PATCH - 6) / max(float((high - low).max()), 1e-3))
        width, height = (np.ceil((high - low) * scale).astype(int) + 6).tolist()
        fit = translation(3, 3) @ scaling(scale, scale) @ translation(-low[0], -low[1])
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
) -> tuple[Patch, Matrix]:
    """The whole object in one pose as one patch, and the matrix from object frame to patch: for things that stand."""
    matrices = part_matrices(body, gait, 0.0)
    corners = np.concatenate(
        [part.outline @ matrix[:2, :2].T + matrix[:2, 2] for part, matrix in zip(body.parts, matrices, strict=True)]
    )
    low, high = corners.min(0), corners.max(0)
    width, height = (np.ceil((high - low) * pixels).astype(int) + 4).tolist()
    fit = translation(2, 2) @ scaling(pixels, pixels) @ translation(-low[0], -low[1])
    whole = np.zeros((height, width, 4), np.float32)
    for index in np.argsort([part.depth for part in body.parts], kind="stable"):
        place = fit @ matrices[index] @ np.linalg.inv(fits[index])
        moved = cv2.warpAffine(patches[index], place[:2], (width, height), flags=cv2.INTER_AREA).astype(np.float32)
        share = moved[..., 3:] / 255
        whole[..., :3] += (moved[..., :3] - whole[..., :3]) * share
        whole[..., 3:] += (255 - whole[..., 3:]) * share
    # Where nothing was painted the colour must not be black: edges would darken.
    empty = whole[..., 3] < 1
    if not empty.all():
        whole[..., :3][empty] = whole[..., :3][~empty].mean(0)
    return whole.astype(np.uint8), fit


def prop_patch(
    rng: np.random.Generator, textures: TextureMaker, size: tuple[int, int], kind: str | None = None
) -> Patch:
    """A standing or hanging thing, about as high as the picture; of a random kind if none is given."""
    height, width = int(size[0] * rng.uniform(0.7, 1.6)), size[1]
    kind = kind or rng.choice(list(_PROPS), p=list(_PROPS.values()))
    if kind in ("fence", "grass", "branch"):  # these go on beyond the picture
        width *= 2
    opacity = np.zeros((height, width), np.uint8)
    middle = width / 2

    def draw(outline) -> None:
        cv2.fillPoly(opacity, [np.round(outline * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)

    palette = {"bush": "leaves", "grass": "leaves", "branch": "leaves", "trunk": "soil"}.get(kind)
    if kind in ("pole", "trunk"):
        thick = width * np.exp(rng.uniform(np.log(0.012), np.log(0.09)))
        lean = rng.normal(0, 0.04) * height
        draw(
            curve(
                np.array([(middle, -5.0), (middle + lean * 0.3, height * 0.5), (middle + lean, height + 5.0)]),
                thick * rng.uniform(0.7, 1),
                thick,
            )
        )
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
            draw(curve(np.array([start, (start + end) / 2 + rng.normal(0, 8, 2), end]), 5, 1.5))
            for _ in range(25):
                draw(
                    blob(rng, 0.1, rng.uniform(4, 14), rng.uniform(3, 8), 10)
                    + start
                    + rng.random() * (end - start)
                    + rng.normal(0, 7, 2)
                )
    if kind == "fence":
        step, thick = rng.uniform(10, 60), rng.uniform(1.2, 5)
        for x in np.arange(0, width, step):
            draw(curve(np.array([(x, height * 0.3), (x, height * 0.6), (x, float(height))]), thick, thick))
        for y in height * np.array([0.4, 0.6, 0.8]):
            draw(curve(np.array([(0.0, y), (middle, y), (float(width), y)]), thick, thick))
    if kind == "sign":
        w, h = rng.uniform(0.05, 0.2) * width, rng.uniform(0.08, 0.3) * height
        draw(np.array([(-w, -h), (w, -h), (w, h), (-w, h)]) / 2 + (middle, height * 0.45))
        draw(curve(np.array([(middle, height * 0.45), (middle, height * 0.7), (middle, float(height))]), 4, 4))
    if kind == "grass":
        for _ in range(int(rng.integers(60, 200))):
            x, tall = rng.uniform(0, width), rng.uniform(0.05, 0.3) * height
            draw(np.array([(x - 2, height), (x + rng.normal(0, 8), height - tall), (x + 2, height)]))
    surface = textures.surface(rng, (height, width), palette)
    shade = rng.uniform(0.55, 1.2)
    return np.dstack([np.clip(surface * shade, 0, 255).astype(np.uint8), opacity])


def wake_patch(rng: np.random.Generator, pixels: Number) -> Patch:
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
