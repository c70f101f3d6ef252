"""The small network in a weights file, and small videos, for tests of whatever surrounds it."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image
from small_network import ARGUMENTS as NETWORK
from small_network import random_variables

from hmhi_jax.data.flow import FlowRecipe
from hmhi_jax.data.video import Video
from hmhi_jax.interop.weights import save_weights
from hmhi_jax.models import HMHINet, build_model

ARGUMENTS = {**NETWORK, "memory_frames": 3, "top_k": 8}
SIZE = (64, 64)


def network() -> HMHINet:
    return build_model(**ARGUMENTS)


def save_network(path: Path, recipe: FlowRecipe | None = None) -> Path:
    save_weights(path, random_variables(network()), ARGUMENTS, SIZE, recipe or FlowRecipe())
    return path


def moving_square(frames: int, size: tuple[int, int] = (48, 80), seed: int = 0) -> list[np.ndarray]:
    """A bright textured square that crosses a smooth, noisy ground."""
    rng = np.random.default_rng(seed)
    height, width = size
    ground = rng.integers(40, 120, (height // 8 + 1, width // 8 + 1, 3)).repeat(8, 0).repeat(8, 1)[:height, :width]
    square = rng.integers(150, 255, (16, 16, 3))
    pictures = []
    for t in range(frames):
        picture = ground.copy()
        left = (3 * t) % (width - 16)
        picture[8 : 8 + 16, left : left + 16] = square
        pictures.append(picture.astype(np.uint8))
    return pictures


def save_frames(folder: Path, pictures: list[np.ndarray], suffix: str = ".png", names: list[str] | None = None) -> Path:
    """Pictures as the files of a folder, numbered where no names are given."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, picture in enumerate(pictures):
        name = names[index] if names else f"{index:05d}"
        Image.fromarray(picture).save(folder / f"{name}{suffix}")
    return folder


def pictures_of(video: Video) -> list[np.ndarray]:
    return [frame.picture for frame in video.frames()]


def write_video(
    path: Path,
    pictures: list[np.ndarray],
    *,
    codec: str = "libx264",
    rate: int = 25,
    options: dict | None = None,
    title: str = "",
) -> Path:
    """Encode pictures; what decodes is near to them, not equal."""
    with av.open(str(path), "w", options=options or {}) as container:
        container.metadata["title"] = title
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def write_at(path: Path, times: list[int], codec: str = "libvpx-vp9", rate: int = 25) -> Path:
    """A video whose frames are shown at times given in milliseconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options={"bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 80, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for time, picture in zip(times, moving_square(len(times)), strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
