"""Made-up clips as a data set that is rendered while it is read: nothing lies on disk, and no clip need come twice.

A clip is a function of its seed, number, settings and pictures, so batches stay what they are everywhere: a function of
the run's seed and the clip's position, whatever the number of worker processes. Each of these renders what it loads.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, SupportsIndex

from ml_collections import ConfigDict

from hmhi_jax.data.flow import FlowRecipe
from hmhi_jax.data.layouts import Dataset
from hmhi_jax.data.packing import EncodedVideo
from hmhi_jax.data.records import Pictures, VideoRecord
from hmhi_jax.errors import InputError
from hmhi_jax.tools.synthetic.packs import ClipEncoder
from hmhi_jax.tools.synthetic.settings import PRESETS, Settings

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
    videos = (
        VideoRecord(
            make.name(index),
            names,
            *(RenderedPictures(make, index, kind, numbers) for kind in ("frames", "flows", "masks")),
        )
        for index in range(clips)
    )
    return Dataset(f"rendered-{seed}", Path("rendered"), "rendered", None, tuple(videos))


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
