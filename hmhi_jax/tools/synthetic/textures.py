"""Textures: procedural patterns, crops of photographs, and backgrounds that resemble outdoor and indoor scenes."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from hmhi_jax.tools.synthetic.motion import Number, log_uniform, one_of, scaling, translation
from hmhi_jax.tools.synthetic.pictures import load_picture

Picture = UInt8[np.ndarray, "_ _ 3"]
Field = Float[np.ndarray, "_ _"]


# Palettes as (hue range in degrees, saturation range, value range): what outdoor scenes are made of.
_PALETTES = {
    "leaves": ((70, 140), (0.25, 0.8), (0.08, 0.7)),
    "dry": ((28, 60), (0.15, 0.6), (0.25, 0.85)),
    "soil": ((15, 40), (0.2, 0.6), (0.1, 0.6)),
    "stone": ((0, 360), (0.0, 0.12), (0.15, 0.9)),
    "water": ((150, 230), (0.15, 0.6), (0.1, 0.6)),
    "sky": ((190, 225), (0.05, 0.6), (0.6, 1.0)),
    "warm": ((0, 45), (0.4, 0.95), (0.3, 0.95)),
    "dark": ((0, 360), (0.0, 0.4), (0.02, 0.25)),
    "light": ((0, 360), (0.0, 0.2), (0.7, 1.0)),
    "any": ((0, 360), (0.0, 1.0), (0.05, 1.0)),
    "vivid": ((0, 360), (0.6, 1.0), (0.4, 1.0)),
}
_GROUND = ("leaves", "dry", "soil", "stone", "water")


def noise_field(rng: np.random.Generator, size: tuple[int, int], *, cell: Number, roughness: Number = 0.5) -> Field:
    """Fractal noise in [0, 1]: octaves from `cell` pixels down to 2, each `roughness` times as strong as the last."""
    height, width = size
    total = np.zeros(size, np.float32)
    strength = 1.0
    while cell >= 1.5:
        grid = (max(2, int(height / cell) + 2), max(2, int(width / cell) + 2))
        coarse = rng.standard_normal(grid, np.float32) * np.float32(strength)
        total += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        strength *= roughness
        cell /= 2
        if strength < 0.02:
            break
    low, high = np.percentile(total[::4, ::4], (1, 99))
    return np.clip((total - low) / max(high - low, 1e-6), 0, 1)


def ramp(size: tuple[int, int], direction: Number) -> Field:
    """Grows evenly across a picture of `size` = (height, width) along a direction in radians, as light from one side
    does: by 2 along its height or width, 0 in the middle."""
    y, x = (np.linspace(-1, 1, side, dtype=np.float32) for side in size)
    return np.float32(np.cos(direction)) * x[None] + np.float32(np.sin(direction)) * y[:, None]


def random_colours(rng: np.random.Generator, count: int, palette: str | None = None) -> Float[np.ndarray, "n 3"]:
    """`count` RGB colours in [0, 255] from a named palette, or from a random one."""
    hues, saturations, values = _PALETTES[palette or rng.choice(list(_PALETTES))]
    centre, spread = rng.uniform(*hues), rng.uniform(5, 40)
    hue = np.clip(rng.normal(centre, spread, count), *hues) % 360
    hsv = np.stack([hue, rng.uniform(*saturations, count), rng.uniform(*values, count)], -1).astype(np.float32)
    return cv2.cvtColor(hsv[None], cv2.COLOR_HSV2RGB)[0] * 255


def _colour_map(field: Field, colours: Float[np.ndarray, "n 3"]) -> Picture:
    stops = np.linspace(0, 255, len(colours))
    table = np.stack([np.interp(np.arange(256), stops, colours[:, c]) for c in range(3)], -1).astype(np.uint8)
    return table[(field * 255).astype(np.uint8)]


def _grain(rng: np.random.Generator, picture: Picture, amount: Number) -> Picture:
    """Fine grey noise, so that a surface has something to track."""
    grain = rng.normal(0, amount, picture.shape[:2]).astype(np.float32)
    if rng.random() < 0.6:
        grain = cv2.GaussianBlur(grain, (0, 0), rng.uniform(0.5, 1.2)) * 1.6
    return np.clip(picture + grain[..., None], 0, 255).astype(np.uint8)


def clouds(rng: np.random.Generator, size: tuple[int, int], palette: str | None) -> Picture:
    field = noise_field(rng, size, cell=log_uniform(rng, 6, 120), roughness=rng.uniform(0.35, 0.85))
    return _colour_map(field, random_colours(rng, int(rng.integers(2, 6)), palette))


def dead_leaves(rng: np.random.Generator, size: tuple[int, int], palette: str | None) -> Picture:
    """Overlapping discs and polygons with power-law sizes: the occlusion statistics of natural pictures."""
    height, width = size
    colours = random_colours(rng, 24, palette)
    picture = np.empty((*size, 3), np.uint8)
    picture[:] = colours[0]
    smallest, largest = rng.uniform(1.5, 5), rng.uniform(12, 70)
    count = int(np.clip(height * width / (smallest * largest), 80, 900))
    # Inverse-cubic density of radii, drawn through its inverse cumulative distribution, large ones first.
    draws = rng.random(count)
    radii = np.sort(1 / np.sqrt(draws / smallest**2 + (1 - draws) / largest**2))[::-1]
    centres = rng.uniform((0, 0), (width, height), (count, 2))
    angles, ratios = rng.uniform(0, 180, count), rng.uniform(0.3, 1, count)
    pointed = rng.random() < 0.4
    shades = colours[rng.integers(len(colours), size=count)] * rng.uniform(0.75, 1.2, (count, 1))
    shades = np.clip(shades, 0, 255).tolist()
    for centre, radius, angle, ratio, shade in zip(centres, radii, angles, ratios, shades, strict=True):
        if pointed:
            turns = np.deg2rad(angle) + np.arange(3) * 2.1
            corners = centre + radius * np.stack([np.cos(turns), ratio * np.sin(turns)], -1)
            cv2.fillConvexPoly(picture, (corners * 8).astype(np.int32), shade, cv2.LINE_AA, 3)
        else:
            at, axes = (centre * 8).astype(int).tolist(), (int(radius * 8), int(radius * ratio * 8))
            cv2.ellipse(picture, at, axes, angle, 0, 360, shade, -1, cv2.LINE_AA, 3)
    return picture


def strokes(rng: np.random.Generator, size: tuple[int, int], palette: str | None) -> Picture:
    """Short strokes in one main direction: grass, straw, fur, hatching."""
    height, width = size
    picture = clouds(rng, size, palette)
    colours = random_colours(rng, 6, palette)
    direction, spread, length = rng.uniform(0, np.pi), rng.uniform(0.05, 0.6), rng.uniform(4, 16)
    for colour in colours:
        starts = rng.uniform((0, 0), (width, height), (int(height * width / 500), 2))
        turns = rng.normal(direction, spread, len(starts))
        ends = starts + length * rng.uniform(0.5, 1.5, (len(starts), 1)) * np.stack([np.cos(turns), np.sin(turns)], -1)
        lines = (np.stack([starts, ends], 1) * 8).astype(np.int32)
        cv2.polylines(picture, list(lines), False, colour.tolist(), 1, cv2.LINE_AA, 3)
    return picture


def stripes(rng: np.random.Generator, size: tuple[int, int], palette: str | None) -> Picture:
    height, width = size
    turn, period = rng.uniform(0, np.pi), rng.uniform(4, 40)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    bend = (noise_field(rng, size, cell=60) - 0.5) * rng.choice([0, period, 4 * period])
    field = 0.5 + 0.5 * np.sin((x * np.cos(turn) + y * np.sin(turn) + bend) * (2 * np.pi / period))
    if rng.random() < 0.5:
        field = np.clip((field - 0.5) * 6 + 0.5, 0, 1)
    return _colour_map(field.astype(np.float32), random_colours(rng, int(rng.integers(2, 4)), palette))


def tiles(rng: np.random.Generator, size: tuple[int, int], palette: str | None) -> Picture:
    """Bricks, windows, fences and checks: rectangles on a grid with joints."""
    height, width = size
    cell_w, cell_h = rng.uniform(8, 60), rng.uniform(6, 45)
    colours = random_colours(rng, 5, palette)
    picture = np.empty((*size, 3), np.uint8)
    picture[:] = random_colours(rng, 1, palette)[0]
    joint_x, joint_y = rng.uniform(0.03, 0.5, 2)
    shift = rng.choice([0, 0.5])
    for row in range(-1, int(height / cell_h) + 2):
        for column in range(-1, int(width / cell_w) + 2):
            left = (column + shift * (row % 2)) * cell_w
            top = row * cell_h
            colour = colours[rng.integers(len(colours))] * rng.uniform(0.85, 1.1)
            corner = (int(left + cell_w * (1 - joint_x)), int(top + cell_h * (1 - joint_y)))
            cv2.rectangle(picture, (int(left), int(top)), corner, np.clip(colour, 0, 255).tolist(), -1)
    return picture


def gradient(rng: np.random.Generator, size: tuple[int, int], palette: str | None) -> Picture:
    """Nearly plain: sky, walls, asphalt, still water. Optical flow has little to hold on to here."""
    height, width = size
    turn = rng.uniform(0, np.pi)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    field = (x / width) * np.cos(turn) + (y / height) * np.sin(turn)
    field = (field - field.min()) / np.ptp(field)
    first = random_colours(rng, 1, palette)[0]
    second = np.clip(first * rng.uniform(0.7, 1.3) + rng.normal(0, 8, 3), 0, 255)
    return _colour_map(field, np.stack([first, second]))


_PROCEDURAL = {clouds: 0.25, dead_leaves: 0.3, strokes: 0.17, stripes: 0.08, tiles: 0.1, gradient: 0.1}


class TextureMaker:
    """Draws textures of any size. `pictures` are photograph files; `picture_share` of textures are crops of them.
    `backdrops` are those that `scene` takes."""

    def __init__(self, pictures: list[Path], picture_share: Number = 0.35, backdrops: Sequence[Path] = ()) -> None:
        self.pictures = pictures
        self.backdrops = list(backdrops)
        self.picture_share = picture_share if pictures else 0.0

    def surface(self, rng: np.random.Generator, size: tuple[int, int], palette: str | None = None) -> Picture:
        """One material, `size` = (height, width)."""
        if rng.random() < self.picture_share:
            return self.photograph(rng, size)
        kind = one_of(rng, _PROCEDURAL)
        picture = kind(rng, size, palette)
        if rng.random() < 0.5:  # large-scale variation of light, as on any real surface
            light = 0.65 + 0.7 * noise_field(rng, size, cell=max(size) / 2, roughness=0.3)
            picture = np.clip(picture * light[..., None], 0, 255).astype(np.uint8)
        if kind is gradient and rng.random() < 0.5:
            return _grain(rng, picture, rng.uniform(0.3, 3))
        if rng.random() < 0.75:
            picture = _grain(rng, picture, log_uniform(rng, 1, 25))
        return picture

    def photograph(self, rng: np.random.Generator, size: tuple[int, int]) -> Picture:
        """A turned, mirrored and recoloured crop of a photograph."""
        source = load_picture(self.pictures[rng.integers(len(self.pictures))])
        height, width = size
        fits = min(source.shape[0] / height, source.shape[1] / width)
        scale = log_uniform(rng, 0.35, 1.0) * fits  # source pixels per texture pixel
        turn = rng.choice([0, 0, 90, 180]) + rng.normal(0, 8)
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), turn, 1.0)
        half = np.array([width * scale / 2, height * scale / 2])
        centre = rng.uniform(half, np.maximum(source.shape[1::-1] - half, 1))
        into = translation(*(centre - half)) @ scaling(scale, scale)
        if scale > 1.5:  # shrink first: warps do not average
            source = cv2.resize(source, None, fx=1 / scale, fy=1 / scale, interpolation=cv2.INTER_AREA)
            into[:2] /= scale
        picture = cv2.warpAffine(
            source, (into @ np.vstack([matrix, (0, 0, 1)]))[:2], (width, height),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT_101,
        )  # fmt: skip
        if rng.random() < 0.5:
            picture = picture[:, ::-1]
        return recolour(rng, np.ascontiguousarray(picture))

    def scene(self, rng: np.random.Generator, size: tuple[int, int]) -> Picture:
        """The larger part of a photograph, upright, mirrored or not, its colours and light changed a little."""
        source = load_picture(self.backdrops[rng.integers(len(self.backdrops))])
        height, width = size
        fits = min(source.shape[0] / height, source.shape[1] / width) * log_uniform(rng, 0.55, 1)
        rows, columns = int(height * fits), int(width * fits)
        top, left = rng.integers(source.shape[0] - rows + 1), rng.integers(source.shape[1] - columns + 1)
        cut = source[top : top + rows, left : left + columns]
        picture = cv2.resize(cut, (width, height), interpolation=cv2.INTER_AREA if fits > 1 else cv2.INTER_CUBIC)
        if rng.random() < 0.5:
            picture = np.ascontiguousarray(picture[:, ::-1])
        return jitter_colours(rng, picture)

    def background(self, rng: np.random.Generator, size: tuple[int, int], horizon: float | None) -> Picture:
        """A whole backdrop. With a `horizon` (fraction of the height), bands of sky, a far border and ground."""
        if horizon is None:
            return self.surface(rng, size)
        height, width = size
        picture = self._ground(rng, size, horizon)
        sky_palette = rng.choice(["sky", "sky", "light", "leaves", "stone", "any"])
        sky = self.surface(rng, size, sky_palette) if rng.random() < 0.5 else gradient(rng, size, sky_palette)
        hills = noise_field(rng, (8, width), cell=rng.uniform(8, 120))[0] - 0.5
        edge = horizon * height + hills * rng.uniform(0, 0.15) * height
        above = np.arange(height, dtype=np.float32)[:, None] < edge
        picture[above] = sky[above]
        if rng.random() < 0.75:  # hedges, houses, a far shore: a strip that straddles the horizon
            strip = self.surface(rng, size, rng.choice(["leaves", "leaves", "stone", "any"]))
            thick = rng.uniform(0.05, 0.35) * height
            rugged = noise_field(rng, (8, width), cell=log_uniform(rng, 5, 80), roughness=0.6)[0]
            if rng.random() < 0.3:
                rugged = np.round(rugged * 4) / 4  # roofs
            y = np.arange(height, dtype=np.float32)[:, None]
            inside = (y > edge - thick * (0.3 + 0.9 * rugged)) & (y < edge + 0.02 * height + 2)
            picture[inside] = strip[inside]
        return picture

    def _ground(self, rng: np.random.Generator, size: tuple[int, int], horizon: Number) -> Picture:
        """A surface seen at a slant: rows get denser towards the horizon."""
        height, width = size
        flat = self.surface(rng, (int(1.3 * height), int(1.3 * width)), rng.choice(_GROUND))
        below = np.linspace(0, 1, max(2, int(height * (1 - horizon)))).astype(np.float32)
        depth = 1 / (0.25 + below)  # 4 at the horizon, .8 at the feet
        rows = (depth - depth.min()) / np.ptp(depth)
        y = np.zeros(height, np.float32)
        y[height - len(below) :] = (1 - rows) * (flat.shape[0] - 1)
        zoom = np.ones(height, np.float32)
        zoom[height - len(below) :] = np.clip(depth / depth.max() * 1.0 + 0.15, 0.3, 1.15)
        x = (np.arange(width, dtype=np.float32) - width / 2)[None] * zoom[:, None] + flat.shape[1] / 2
        rows_map = np.ascontiguousarray(np.broadcast_to(y[:, None], size))
        return cv2.remap(flat, x, rows_map, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


def piece_of(rng: np.random.Generator, picture: Picture, size: tuple[int, int]) -> Picture:
    """A random window of `size` = (height, width) of a picture, which is enlarged if it has no such window."""
    height, width = size
    factor = max(height / picture.shape[0], width / picture.shape[1])
    if factor > 1:
        picture = cv2.resize(picture, None, fx=factor + 0.01, fy=factor + 0.01)
    top, left = rng.integers(picture.shape[0] - height + 1), rng.integers(picture.shape[1] - width + 1)
    return picture[top : top + height, left : left + width]


def _turned_hue(picture: Picture, turn: Number, saturation: Number) -> Picture:
    """Hue turned by `turn` of 180, and saturation times a factor."""
    hsv = cv2.cvtColor(picture, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0].astype(np.int16) + int(turn)) % 180
    hsv[..., 1] = np.clip(hsv[..., 1] * saturation, 0, 255).astype(np.uint8)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def jitter_colours(rng: np.random.Generator, picture: Picture, turn: Number = 12) -> Picture:
    """Other light: hue turned by up to `turn` of 180, more or less saturated, brighter or darker, warmer or colder."""
    picture = _turned_hue(picture, rng.integers(-turn, turn + 1), rng.uniform(0.5, 1.3))
    gain, lift = rng.uniform(0.6, 1.25) * (1 + rng.normal(0, 0.05, 3)), rng.uniform(-15, 25)
    return np.clip(picture * gain.astype(np.float32) + np.float32(lift), 0, 255).astype(np.uint8)


def recolour(rng: np.random.Generator, picture: Picture) -> Picture:
    """Shift hue, saturation and contrast, so that one photograph serves as many."""
    if rng.random() < 0.5:
        picture = _turned_hue(picture, rng.integers(180), rng.uniform(0.2, 1.4))
    if (picture[..., 0] == picture[..., 2]).all():  # grey photographs get two colours
        tones = np.sort(random_colours(rng, 3), axis=0)
        return _colour_map(picture[..., 0].astype(np.float32) / 255, tones)
    gain, lift = rng.uniform(0.6, 1.3), rng.uniform(-30, 30)
    return np.clip(picture * np.float32(gain) + np.float32(lift), 0, 255).astype(np.uint8)
