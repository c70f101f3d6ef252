"""Clips by the thousand in a packed folder (`hmhi_jax.data.packing`), a few of them as a picture to look at.

Each clip is a video `clip-<seed>-<index>` of the packed data set: frames as the JPEG files the scene's camera wrote,
flow pictures as JPEG of quality 95 with full colour (on average half a grey level off), masks as PNG.
"""

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from hmhi_jax.data.packing import EncodedVideo, PackedDataset, PackedVideo, write_packed
from hmhi_jax.tools.synthetic.clips import Clip, ClipMaker, decode_jpeg, encode_jpeg
from hmhi_jax.tools.synthetic.pictures import fingerprint
from hmhi_jax.tools.synthetic.settings import DEFAULTS, Settings

FLOW_QUALITY = 95


@dataclasses.dataclass
class ClipEncoder:
    """Picklable: makes and encodes clip `index` of `seed`. One OpenCV thread, since processes share the machine."""

    seed: int
    settings: Settings
    folders: tuple[str, ...] = ()
    _maker: ClipMaker | None = None

    def __call__(self, index: int) -> EncodedVideo:
        if self._maker is None:
            cv2.setNumThreads(1)
            self._maker = ClipMaker(self.settings, self.folders)
        return encode_clip(clip_name(self.seed, index), self._maker(self.seed, index))


def clip_name(seed: int, index: int) -> str:
    """Of a clip in a pack."""
    return f"clip-{seed}-{index:06d}"


def encode_clip(name: str, clip: Clip) -> EncodedVideo:
    """The clip as encoded pictures; its label is the kind of body of the salient object."""
    return EncodedVideo(
        name,
        tuple(f"{number:05d}" for number in range(len(clip.frames))),
        clip.jpegs or tuple(encode_jpeg(frame, 95, full_colour=True) for frame in clip.frames),
        tuple(encode_jpeg(flow, FLOW_QUALITY, full_colour=True) for flow in clip.flows),
        tuple(cv2.imencode(".png", mask * 255, [cv2.IMWRITE_PNG_BILEVEL, 1])[1].tobytes() for mask in clip.masks),
        clip.traits.get("body"),
    )


def read_clip(video: PackedVideo) -> Clip:
    """Decode a packed clip; masks are 0 and 1."""
    masks = [cv2.imdecode(np.frombuffer(m.read_bytes(), np.uint8), cv2.IMREAD_GRAYSCALE) for m in video.masks]
    return Clip(
        np.stack([decode_jpeg(frame.read_bytes()) for frame in video.frames]),
        np.stack([decode_jpeg(flow.read_bytes()) for flow in video.flows]),
        np.stack([(mask > 127).astype(np.uint8) for mask in masks]),
        {"body": video.label},
    )


def write_pack(
    folder: str | Path,
    clips: int,
    seed: int,
    settings: Settings = DEFAULTS,
    *,
    pictures: tuple[str, ...] = (),
    workers: int = 0,
    advance: Callable[[str, int], None] | None = None,
) -> PackedDataset:
    """Fill `folder` with clips 0 .. `clips` - 1 of `seed`; started again, it goes on at the first unfinished shard.

    `pictures` are folders of photographs to use besides the packaged ones. `advance(name, frames)` is called after each
    clip. Shards do not depend on `workers`. Raises `InputError` if the folder holds clips of other settings.
    """
    maker = ClipMaker(settings, pictures)
    plan = [(clip_name(seed, index), maker.length(seed, index)) for index in range(clips)]
    details = {
        "seed": seed,
        "settings": settings.to_json(),
        "flow": settings.recipe.to_json(),
        "pictures": fingerprint(maker.pictures) if maker.pictures else None,
    }
    encode = ClipEncoder(seed, settings, pictures)
    return write_packed(
        folder,
        plan,
        encode,
        dataset="synthetic",
        details=details,
        frames_per_shard=1024,
        workers=workers,
        advance=advance,
    )


def contact_sheet(clips: Iterable[Clip], frames: int = 3) -> UInt8[np.ndarray, "h w 3"]:
    """One row per clip: frames with the object's outline in magenta, each followed by its flow picture."""
    rows = []
    for clip in clips:
        row = []
        for number in np.linspace(0, len(clip.frames) - 1, frames).astype(int):
            frame, flow = clip.frames[number].copy(), clip.flows[number]
            edge = cv2.morphologyEx(clip.masks[number], cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
            frame[edge > 0] = (255, 0, 255)
            if flow.shape != frame.shape:
                flow = cv2.resize(flow, frame.shape[1::-1])
            row += [frame, flow]
        rows.append(np.hstack(row))
    return np.vstack(rows)
