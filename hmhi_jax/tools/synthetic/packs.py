"""Clips by the thousand in a packed folder (`hmhi_jax.data.packing`), a few of them as a picture to look at.

Each clip is a video `clip-<seed>-<index>` of the packed data set: frames as the JPEG files the scene's camera wrote,
flow pictures as JPEG of quality 95 with full colour (on average half a grey level off), masks as PNG.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from hmhi_jax.data.masks import encode_mask, read_mask
from hmhi_jax.data.packing import EncodedVideo, PackedDataset, write_packed
from hmhi_jax.data.pictures import encode_picture, read_picture
from hmhi_jax.data.records import VideoRecord
from hmhi_jax.tools.synthetic.clips import Clip, ClipMaker
from hmhi_jax.tools.synthetic.pictures import fingerprint
from hmhi_jax.tools.synthetic.settings import DEFAULTS, Settings

FLOW_QUALITY = 95


@dataclasses.dataclass(frozen=True)
class ClipEncoder:
    """Makes and encodes clip `index` of `seed`, in any process: picklable, with the list of pictures once it is made.

    Takes OpenCV to one thread, since clips that are made side by side share the machine.
    """

    seed: int
    settings: Settings
    folders: tuple[str, ...] = ()

    @functools.cached_property
    def maker(self) -> ClipMaker:
        """Looks for the pictures of `folders`. Raises `InputError` for a folder without any."""
        cv2.setNumThreads(1)
        return ClipMaker(self.settings, self.folders)

    def name(self, index: int) -> str:
        """What a clip is called, in a pack and in messages."""
        return f"clip-{self.seed}-{index:06d}"

    def __call__(self, index: int) -> EncodedVideo:
        """The clip as encoded pictures; its label is the kind of body of the salient object."""
        clip = self.maker(self.seed, index)
        return EncodedVideo(
            self.name(index),
            tuple(f"{number:05d}" for number in range(len(clip.frames))),
            clip.jpegs,
            tuple(encode_picture(flow, FLOW_QUALITY) for flow in clip.flows),
            tuple(encode_mask(mask) for mask in clip.masks),
            clip.traits["body"],
        )


def read_clip(video: VideoRecord) -> Clip:
    """Decode a packed clip; masks are 0 and 1."""
    return Clip(
        np.stack([read_picture(frame) for frame in video.frames]),
        np.stack([read_picture(flow) for flow in video.flows]),
        np.stack([read_mask(mask)[..., 0] for mask in video.masks]),
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
    encode = ClipEncoder(seed, settings, pictures)
    plan = [(encode.name(index), encode.maker.length(seed, index)) for index in range(clips)]
    details = {
        "seed": seed,
        "settings": settings.to_json(),
        "flow": settings.recipe.to_json(),
        "pictures": fingerprint(encode.maker.pictures) if encode.maker.pictures else None,
    }
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
