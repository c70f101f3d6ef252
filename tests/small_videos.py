"""The small network in a weights file, and small videos, for tests of whatever surrounds it."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image
from small_network import ARGUMENTS as NETWORK
from small_network import random_variables

from hmhi_jax.data.flow import FlowRecipe
from hmhi_jax.data.video import Colours, Video
from hmhi_jax.interop.weights import save_weights
from hmhi_jax.models import HMHINet, build_model

ARGUMENTS = {**NETWORK, "memory_frames": 3, "top_k": 8}
SIZE = (64, 64)


def network(dtype: str = "float32") -> HMHINet:
    return build_model(**ARGUMENTS, dtype=dtype)


def save_network(path: Path, recipe: FlowRecipe | None = None, every: int = 1) -> Path:
    save_weights(path, random_variables(network()), ARGUMENTS, SIZE, recipe or FlowRecipe(), every=every)
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


def write_at(
    path: Path,
    times: list[int],
    codec: str = "libvpx-vp9",
    rate: int = 25,
    *,
    sound: str = "",
    colours: Colours | None = None,
    size: tuple[int, int] = (48, 80),
) -> Path:
    """A video whose frames are shown at times given in milliseconds; with `sound`, a rising tone as long, in a
    codec of that name."""
    colours = colours or Colours(2, 2, 2, 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options={"bf": "0"})
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p10le" if colours.matrix == 9 else "yuv420p"
        context = stream.codec_context
        context.time_base = Fraction(1, 1000)
        context.colorspace, context.color_primaries = colours.matrix, colours.primaries
        context.color_trc, context.color_range = colours.transfer, colours.range
        track = container.add_stream(sound, rate=48_000, layout="stereo") if sound else None
        for time, picture in zip(times, moving_square(len(times), size), strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame = frame.reformat(
                format=stream.pix_fmt, dst_colorspace={9: 9, 1: 1}.get(colours.matrix, 5), dst_color_range=colours.range
            )
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if track:
            seconds = np.arange(48 * (times[-1] + 40)) / 48_000
            tone = np.sin(2 * np.pi * (300 + 200 * seconds) * seconds).astype(np.float32) / 2
            whole = av.AudioFrame.from_ndarray(np.stack([tone, tone]), "fltp", "stereo")
            whole.rate, whole.pts = 48_000, 0
            coded = track.codec_context
            pieces = av.AudioResampler(coded.format, "stereo", 48_000, coded.frame_size or 1024)
            for piece in (*pieces.resample(whole), *pieces.resample(None), None):
                container.mux(track.encode(piece))
    return path


def write_matrix(path, a, b, c, d):
    """Put a display matrix into the header of an MP4's track."""
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 4 + 40
    matrix = (a, b, 0, c, d, 0, 0, 0, 1 << 30)
    data[place : place + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in matrix)
    path.write_bytes(data)
