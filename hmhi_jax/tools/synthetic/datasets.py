"""Data sets that are made up: clips by the thousand in a packed folder (`hmhi_jax.data.packing`), or rendered while
they are read; and a small one of soft blobs, in DAVIS layout.

In a pack each clip is a video `clip-<seed>-<index>`: frames as the JPEG files the scene's camera wrote, flow pictures
as JPEG of quality 95 with full colour (on average half a grey level off), masks as PNG.

A clip is a function of its seed, number, settings and pictures. So where it is rendered while training nothing lies on
disk, no clip need come twice, and batches stay what they are everywhere: a function of the run's seed and the clip's
position, whatever the number of worker processes. Each of these renders what it loads.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, SupportsIndex

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from ml_collections import ConfigDict
from PIL import Image

from hmhi_jax.complete_files import completed
from hmhi_jax.data.flow import FlowRecipe, flow_to_picture
from hmhi_jax.data.layouts import Dataset
from hmhi_jax.data.masks import encode_mask, read_mask
from hmhi_jax.data.packing import EncodedVideo, write_packed
from hmhi_jax.data.pictures import encode_picture, read_picture
from hmhi_jax.data.records import PackedDataset, Pictures, VideoRecord
from hmhi_jax.errors import InputError
from hmhi_jax.tools.synthetic.clips import Clip, ClipMaker
from hmhi_jax.tools.synthetic.pictures import fingerprint
from hmhi_jax.tools.synthetic.settings import DEFAULTS, PRESETS, Settings

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
        folder, plan, encode, dataset="synthetic", details=details, frames_per_shard=1024, workers=workers,
        advance=advance,
    )  # fmt: skip


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


_FIELDS = {"clips", "repeats", "seed", "preset", "pictures", "settings"}


@functools.lru_cache(maxsize=16)
def _encoded(make: ClipEncoder, index: int) -> EncodedVideo:
    """The last few clips are remembered, for the pictures of a clip are read one by one."""
    return make(index)


@dataclasses.dataclass(frozen=True)
class RenderedPicture:
    """One picture of a clip; stands where a folder has a `Path`. `kind` is "frames", "flows" or "masks"."""

    make: ClipEncoder
    clip: int
    kind: str
    frame: int

    def read_bytes(self) -> bytes:
        """The encoded picture; the first of a clip renders all of it."""
        return getattr(_encoded(self.make, self.clip), self.kind)[self.frame]

    def __str__(self) -> str:
        return f"{self.make.name(self.clip)} ({self.kind}, frame {self.frame})"


@dataclasses.dataclass(frozen=True)
class RenderedPictures(Pictures):
    """The frames, flow pictures or masks of one clip; the keys are their numbers."""

    make: ClipEncoder
    clip: int
    kind: str
    keys: tuple[int, ...]

    def _picture(self, frame: SupportsIndex) -> RenderedPicture:
        return RenderedPicture(self.make, self.clip, self.kind, self.keys[frame])

    def stamps(self) -> Iterator[str]:
        """What the clip is made from."""
        yield f"{self.make} {self.clip}"


def rendered_dataset(settings: Settings, clips: int, seed: int, folders: tuple[str, ...] = ()) -> Dataset:
    """Clips 0 .. `clips` - 1 of `seed`. Raises `InputError` for a folder without pictures, or other than one length."""
    if settings.least_frames != settings.most_frames:
        raise InputError(
            f"rendered clips: {settings.least_frames} to {settings.most_frames} frames, expected one length for all"
        )
    if clips < 1:
        raise InputError(f"rendered clips: clips is {clips}, expected 1 or more")
    make = ClipEncoder(seed, settings, folders)
    # Pictures are looked for here, so that a folder without any is told before training begins.
    numbers = tuple(range(make.maker.length(seed, 0)))
    names = tuple(f"{number:05d}" for number in numbers)

    def video(index: int) -> VideoRecord:
        pictures = (RenderedPictures(make, index, kind, numbers) for kind in ("frames", "flows", "masks"))
        return VideoRecord(make.name(index), names, *pictures)

    return Dataset(f"rendered-{seed}", Path("rendered"), "rendered", None, tuple(map(video, range(clips))))


def rendered_sources(config: ConfigDict) -> list[tuple[Dataset, int, FlowRecipe]]:
    """The data sets of `config.data.rendered`, with their repeats and how their flow pictures are drawn.

    Each entry has "clips", how many; and may have "repeats" (1), "seed" (0), "preset" ("photographic"), "pictures",
    folders besides the installed packages, and "settings", fields of `Settings` to change. Clips have as many frames as
    those of the batches (`config.data.frames`, at least 2), unless the settings say otherwise.
    """
    sources = []
    for number, entry in enumerate(config.data.rendered):
        where = f"config.data.rendered[{number}]"
        if not isinstance(entry, Mapping) or "clips" not in entry or set(entry) - _FIELDS:
            raise InputError(
                f"{where} is {entry}, expected 'clips' and perhaps {', '.join(sorted(_FIELDS - {'clips'}))}"
            )
        settings = _settings(entry, where, max(2, config.data.frames))
        root = Path(config.data.root).expanduser()
        folders = tuple(str(root / Path(folder).expanduser()) for folder in entry.get("pictures", ()))
        dataset = rendered_dataset(settings, entry["clips"], entry.get("seed", 0), folders)
        sources.append((dataset, entry.get("repeats", 1), settings.recipe))
    return sources


def _settings(entry: Mapping[str, Any], where: str, frames: int) -> Settings:
    preset = entry.get("preset", "photographic")
    if preset not in PRESETS:
        raise InputError(f"{where}: preset is {preset!r}, expected one of {', '.join(PRESETS)}")
    changes = {"least_frames": frames, "most_frames": frames} | dict(entry.get("settings", {}))
    if "size" in changes:
        changes["size"] = tuple(changes["size"])
        changes.setdefault("recipe", dataclasses.replace(PRESETS[preset].recipe, size=changes["size"]))
    try:
        return dataclasses.replace(PRESETS[preset], **changes)
    except TypeError as error:
        raise InputError(f"{where}.settings: {error}") from error


# --- a small data set of blobs ---------------------------------------------------------------------------------------


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
