"""What can be downloaded of a segmented video."""

import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

from hmhi_jax.data.video import Frame, Video

FramesAndMasks = Iterator[tuple[Frame, np.ndarray]]


def _masks(video: Video, pairs: FramesAndMasks, path: Path) -> Iterator[None]:
    with zipfile.ZipFile(path, "w") as archive:
        for frame, mask in pairs:
            archive.writestr(f"{frame.name}.png", cv2.imencode(".png", mask)[1].tobytes())
            yield


# What a button says: the ending of the file's name, and what writes it.
PRODUCTS: dict[str, tuple[str, Callable[[Video, FramesAndMasks, Path], Iterator[None]]]] = {
    "Masks": ("masks.zip", _masks),
}
