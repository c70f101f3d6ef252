"""Data sets on disk: which folders hold a video's frames, flow pictures and masks, in every layout people have.

`open_dataset(folder)` recognises a layout (or is told one) and gives a `Dataset` of `VideoRecord`s; what differs
between layouts ends there. The folders of each layout are in `layout_rules.py`, and in a table in docs/data.md.
"""

import dataclasses
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hmhi_jax.data.layout_rules import LAYOUTS, Place, recognise, visible
from hmhi_jax.data.pictures import is_picture, last_number, natural_key
from hmhi_jax.data.records import INDEX, FolderPictures, PackedDataset, VideoRecord, is_plain_name
from hmhi_jax.errors import InputError


@dataclass(frozen=True)
class Dataset:
    """A data set: its name, where it is, layout, split (None: all of it) and videos in order of their names."""

    name: str
    root: Path
    layout: str
    split: str | None
    videos: tuple[VideoRecord, ...]

    def __len__(self) -> int:
        return len(self.videos)

    def with_videos(self, videos: Iterable[VideoRecord]) -> "Dataset":
        """The same data set with other videos."""
        return dataclasses.replace(self, videos=tuple(videos))

    def chosen(self, videos: Sequence[str] | None = None, without: Sequence[str] = ()) -> "Dataset":
        """Only the `videos` of these names, in this order (None: all), `without` those. Raises InputError that names
        what the data set does not have."""
        known = {video.name: video for video in self.videos}
        if missing := [name for name in (*(videos or ()), *without) if name not in known]:
            raise InputError(
                f"{self.root}: has no video {', '.join(missing)}; it has {', '.join(list(known)[:8])}, ..."
            )
        if videos is None and not without:
            return self
        return self.with_videos(known[name] for name in (videos or known) if name not in without)


def open_dataset(
    root: str | Path,
    *,
    layout: str | None = None,
    split: str | None = None,
    flows: str | Path | None = None,
    name: str | None = None,
) -> Dataset:
    """Find the videos of a data set.

    Args:
      root: its folder, in any layout of docs/data.md, or a packed data set.
      layout: a layout's name; recognised when None.
      split: e.g. "train"; all of them when None.
      flows: where flow pictures are when not in the layout's own place: `<flows>/<video>/<frame name>.jpg`.
      name: what to call it; the folder's name when None.

    Raises InputError when the layout is unknown or not recognised, or the split does not exist.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; expected a data set")
    known = {rule.name: rule for rule in LAYOUTS}
    if layout == "packed" or (layout is None and (root / INDEX).exists()):
        packed = PackedDataset(root)
        if split is not None and packed.details.get("split") not in (None, split):
            raise InputError(f"{root}: the split {packed.details['split']!r} was packed, asked for is {split!r}")
        return Dataset(name or packed.name, root, "packed", split, tuple(packed))
    if layout is not None and layout not in known:
        raise InputError(f"layout {layout!r} is not known; expected one of {', '.join([*known, 'packed'])}")
    if layout is not None:
        rule, splits = known[layout], known[layout].videos(root)
    else:
        rule, splits = recognise(root)
    if rule is None:
        found = ", ".join(sorted(path.name for path in visible(root))[:8]) or "nothing"
        trees = "".join(f"\n  {rule.name:16} {rule.tree}" for rule in LAYOUTS)
        raise InputError(f"{root}: holds {found}; expected one of these layouts (or name it):{trees}")
    if split is not None and split not in splits:
        raise InputError(
            f"{root}: has no split {split!r} as {rule.name}; expected one of {', '.join(splits) or 'none'}"
        )
    videos: dict[str, VideoRecord] = {}
    for part in splits if split is None else [split]:
        for place in splits[part]:
            if not is_plain_name(place.name):
                raise InputError(f"{root}: split {part!r} names {place.name[:60]!r}, expected the name of a folder")
            record = _record(place, Path(flows) if flows else None)
            before = videos.get(record.name)
            if before is None:
                videos[record.name] = record
            elif before.frames != record.frames:  # one video listed in several splits is fine
                raise InputError(
                    f"{root}: the video {record.name!r} is there twice, in split {part!r} and before; name a split"
                )
    ordered = sorted(videos.values(), key=lambda record: record.name)
    return Dataset(name or root.resolve().name, root, rule.name, split, tuple(ordered))


def _record(place: Place, flows: Path | None) -> VideoRecord:
    frames = _by_stem(place.frames)
    names = tuple(sorted(frames, key=natural_key))
    candidates = (flows / place.name,) if flows else place.flows
    flow_folder = next((folder for folder in candidates if folder.is_dir()), candidates[0])
    flow_files, flow_strays = _match(names, _by_stem(flow_folder))
    mask_files, mask_strays = _match(names, _by_stem(place.masks))
    strays = [*(str(place.masks / file) for file in mask_strays), *(str(flow_folder / file) for file in flow_strays)]
    return VideoRecord(
        name=place.name,
        frame_names=names,
        frames=FolderPictures(str(place.frames), tuple(frames[name] for name in names)),
        flows=FolderPictures(str(flow_folder), flow_files),
        masks=FolderPictures(str(place.masks), mask_files),
        label=place.label,
        flow_folder=str(flow_folder),
        strays=tuple(strays),
    )


def _match(names: Sequence[str], files: dict[str, str]) -> tuple[tuple[str | None, ...], list[str]]:
    """The file of every frame name (None: none), and the files of no frame.

    Names are equal, or equal but for an ending `_gt`; where no name is (FBMS: `001_gt.png` of `cars1_01.jpg`), the last
    number in the name decides.
    """
    plain = {re.sub(r"_gt$", "", stem): file for stem, file in files.items()}
    if plain and not plain.keys() & set(names):
        numbered = {number: file for stem, file in plain.items() if (number := last_number(stem)) is not None}
        plain = {name: numbered[number] for name in names if (number := last_number(name)) in numbered}
    matched = tuple(plain.get(name) for name in names)
    used = set(matched)
    return matched, [file for file in files.values() if file not in used]


_RANKS = {".ppm": 0, ".jpg": 1}  # of pictures with one name: colour PPM (FBMS), then JPEG


def _by_stem(folder: Path) -> dict[str, str]:
    """Picture files of a folder by name without suffix; FBMS' pictures of probabilities are none."""
    names = sorted(path.name for path in visible(folder) if is_picture(path))
    files: dict[str, str] = {}
    for name in sorted(names, key=lambda name: _RANKS.get(os.path.splitext(name)[1].lower(), 2)):
        if not name.startswith("PROB") and "_PROB" not in name:
            files.setdefault(os.path.splitext(name)[0], name)
    return files


@dataclass(frozen=True)
class Source:
    """A data set of a mixture: arguments of `layouts.open_dataset`, how often an epoch goes through it, and which of
    its videos are used: only those of `videos` (None: all), but not those of `without`."""

    path: str | Path
    repeats: int = 1
    split: str | None = None
    layout: str | None = None
    flows: str | Path | None = None
    name: str | None = None
    videos: tuple[str, ...] | None = None
    without: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """One clip of an epoch: a video, and the name of the data set it is from."""

    dataset: str
    video: VideoRecord

    @property
    def name(self) -> str:
        """`<data set>/<video>`, for error reports."""
        return f"{self.dataset}/{self.video.name}"


def open_sources(sources: Iterable[Source]) -> list[tuple[Dataset, int]]:
    """Open the data sets of a mixture; each with its repeats. Raises InputError."""
    return [
        (
            open_dataset(
                source.path, layout=source.layout, split=source.split, flows=source.flows, name=source.name
            ).chosen(source.videos, source.without),
            source.repeats,
        )
        for source in sources
    ]  # fmt: skip


def entries_of(datasets: Sequence[tuple[Dataset, int]]) -> tuple[Entry, ...]:
    """The clips of one epoch, before shuffling: every video as often as its data set is repeated.

    Raises InputError when a number of repeats is negative, or nothing remains.
    """
    entries: list[Entry] = []
    for dataset, repeats in datasets:
        if repeats < 0:
            raise InputError(f"{dataset.root}: repeats is {repeats}, expected 0 or more")
        entries += repeats * [Entry(dataset.name, video) for video in dataset.videos]
    if not entries:
        where = ", ".join(str(dataset.root) for dataset, _ in datasets) or "no data set"
        raise InputError(f"{where}: no video to train on")
    return tuple(entries)
