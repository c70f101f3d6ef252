"""A small made-up data set on disk, in DAVIS layout: soft blobs that move over a drifting texture.

Enough to see a training run work from files to a rising J within a minute, and no more; the other modules here make
clips worth training on.
"""

from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from hmhi_jax.complete_files import completed
from hmhi_jax.data.flow import flow_to_picture


def write_moving_blobs(
    root: str | Path, *, train: int = 8, val: int = 4, frames: int = 8, size: tuple[int, int] = (64, 64), seed: int = 0
) -> Path:
    """Write frames, masks, flow pictures and the lists of the splits "train" and "val"; nothing if `root` exists.

    Args:
        root: folder to make, in the layout of DAVIS-2016.
        train, val: number of videos.
        frames: of every video.
        size: (height, width) in pixels.
        seed: the same seed writes the same files.
    """
    root = Path(root)
    if root.is_dir():
        return root
    with completed(root, advice="give another folder") as partial:
        lists = partial / "ImageSets" / "480p"
        lists.mkdir(parents=True)
        first = 0
        for split, count in (("train", train), ("val", val)):
            names = [f"{split}{number:02}" for number in range(count)]
            for number, name in enumerate(names):
                _write_video(partial, name, np.random.default_rng([seed, first + number]), frames, size)
            places = (f"480p/{name}/{frame:05}" for name in names for frame in range(frames))
            lines = (f"/JPEGImages/{place}.jpg /Annotations/{place}.png\n" for place in places)
            (lists / f"{split}.txt").write_text("".join(lines))
            first += count
    return root


def _write_video(root: Path, name: str, rng: np.random.Generator, frames: int, size: tuple[int, int]) -> None:
    folders = {kind: root / kind / "480p" / name for kind in ("JPEGImages", "Annotations", "Flows")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    height, width = size
    backdrop, skin = (_texture(rng, (2 * height, 2 * width)) for _ in range(2))
    start = rng.uniform(0.3, 0.7, 2) * size
    velocity, drift = rng.uniform(-0.035, 0.035, 2) * height, rng.uniform(-0.01, 0.01, 2) * height
    radii, phase = rng.uniform(0.14, 0.24, 2) * min(size), rng.uniform(0, 2 * np.pi)
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    for t in range(frames):
        y, x = _bounce(start + velocity * t, size)
        angle = np.arctan2(rows - y, columns - x)
        wave = 1 + 0.15 * np.sin(3 * angle + phase)
        inside = ((rows - y) / radii[0]) ** 2 + ((columns - x) / radii[1]) ** 2 < wave**2
        here = _moved(backdrop, height / 2 - drift[0] * t, width / 2 - drift[1] * t, size)
        body = _moved(skin, height - y, width - x, size)
        picture = np.where(inside[..., None], 255 - body // 2, here // 2 + 32)
        Image.fromarray(picture.astype(np.uint8)).save(folders["JPEGImages"] / f"{t:05}.jpg", quality=95)
        Image.fromarray(inside.astype(np.uint8) * 255).save(folders["Annotations"] / f"{t:05}.png")
        step = 1 if t < frames - 1 else -1  # the last frame's flow goes to the one before
        ahead = _bounce(start + velocity * (t + step), size) - np.array([y, x])
        flow = np.where(inside[..., None], ahead[::-1], step * drift[::-1]).astype(np.float32)
        Image.fromarray(flow_to_picture(flow)).save(folders["Flows"] / f"{t:05}.jpg", quality=95)


def _bounce(centre: Float[np.ndarray, "2"], size: tuple[int, int]) -> Float[np.ndarray, "2"]:
    """Reflect a centre at lines a fifth of the picture inside its edges, so that the blob stays in view."""
    low, high = 0.2 * np.asarray(size), 0.8 * np.asarray(size)
    span = high - low
    return high - np.abs((centre - low) % (2 * span) - span)


def _texture(rng: np.random.Generator, size: tuple[int, int]) -> UInt8[np.ndarray, "H W 3"]:
    coarse = rng.uniform(0, 255, (8, 8, 3)).astype(np.float32)
    fine = rng.normal(0, 12, (*size, 1)).astype(np.float32)
    return np.clip(cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC) + fine, 0, 255).astype(np.uint8)


def _moved(
    picture: UInt8[np.ndarray, "h w 3"], y: float, x: float, size: tuple[int, int]
) -> UInt8[np.ndarray, "H W 3"]:
    """The window of `size` whose upper left corner is at (y, x), which may fall between pixels."""
    matrix = np.array([[1, 0, -x], [0, 1, -y]], np.float32)
    return cv2.warpAffine(picture, matrix, size[::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
