"""Data sets on disk: which folders hold a video's frames, flow pictures and masks, in every layout people have.

`open_dataset(folder)` recognises a layout (or is told one) and gives a `Dataset` of `VideoRecord`s; what differs
between layouts ends there. The folders of each layout are in `layout_rules.py`, and in a table in docs/data.md.
"""

import dataclasses
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, SupportsIndex, runtime_checkable

from hmhi_jax.data.layout_rules import FRAME_SUFFIXES, LAYOUTS, MASK_SUFFIXES, Place, visible
from hmhi_jax.data.natural_order import last_number, natural_key
from hmhi_jax.data.packing import INDEX, PackedDataset
from hmhi_jax.errors import InputError


@dataclass(frozen=True)
class FolderPictures(Sequence):
    """The frames, flow pictures or masks of one video in a folder: item i is the file of frame i, or None.

    Only names are kept, since a large data set has millions of pictures.
    """

    folder: str
    files: tuple[str | None, ...]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, frame: SupportsIndex) -> Path | None:
        return Path(self.folder, name) if (name := self.files[frame]) else None

    def has(self, frame: SupportsIndex) -> bool:
        """Whether frame i has one."""
        return self.files[frame] is not None

    def stamps(self) -> Iterator[str]:
        """Name and size of every file, wherever the folder is; costs no reading."""
        for name in self.files:
            path = Path(self.folder, name) if name else None
            yield f"{name} {path.stat().st_size if path and path.exists() else None}"


@runtime_checkable
class Pictures(Protocol):
    """The frames, flow pictures or masks of one video, wherever they are: item i is that of frame i, or None."""

    def __len__(self) -> int: ...

    def __getitem__(self, frame: SupportsIndex) -> Any: ...

    def has(self, frame: SupportsIndex) -> bool:
        """Whether frame i has one."""
        ...

    def stamps(self) -> Iterator[str]:
        """What tells these pictures from others under the same names."""
        ...


@dataclass(frozen=True)
class VideoRecord:
    """One video of a data set.

    name          unique in its data set, without "/": also the name of its folder of predictions
    frame_names   file names without suffix, in order
    frames, flows, masks
                  one entry per frame: where the picture is, or None (flow not made, mask not annotated). A flow picture
                  shows the motion from its frame to the next; that of the last frame the motion to the one before
    label         class (YouTube-Objects), or None
    flow_folder   where flow pictures lie or would be written, as `<frame name>.<suffix>`
    strays        masks and flow pictures that belong to no frame
    """

    name: str
    frame_names: tuple[str, ...]
    frames: Pictures
    flows: Pictures
    masks: Pictures
    label: str | None = None
    flow_folder: str = ""
    strays: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.frame_names)

    @property
    def annotated(self) -> tuple[int, ...]:
        """Numbers of the frames whose mask is known."""
        return tuple(frame for frame in range(len(self)) if self.masks.has(frame))

    def fingerprint(self, *, flows: bool) -> str:
        """What tells these frames (and flow pictures, where they count) from others under the same names: a hash of
        names and sizes of the files. It stays when the data set is moved."""
        digest = hashlib.sha256()
        for kind in (self.frames, self.flows) if flows else (self.frames,):
            for stamp in kind.stamps():
                digest.update(f"{stamp}\n".encode())
        return digest.hexdigest()[:16]


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
        return _open_packed(root, split, name)
    if layout is not None and layout not in known:
        raise InputError(f"layout {layout!r} is not known; expected one of {', '.join([*known, 'packed'])}")
    rule = known[layout] if layout else next((rule for rule in LAYOUTS if rule.recognise(root)), None)
    if rule is None:
        found = ", ".join(sorted(path.name for path in visible(root))[:8]) or "nothing"
        trees = "".join(f"\n  {rule.name:16} {rule.tree}" for rule in LAYOUTS)
        raise InputError(f"{root}: holds {found}; expected one of these layouts (or name it):{trees}")
    splits = list(rule.splits(root))
    if split is not None and split not in splits:
        raise InputError(
            f"{root}: has no split {split!r} as {rule.name}; expected one of {', '.join(splits) or 'none'}"
        )
    videos: dict[str, VideoRecord] = {}
    for part in splits if split is None else [split]:
        for place in rule.places(root, part):
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


def _open_packed(root: Path, split: str | None, name: str | None) -> Dataset:
    packed = PackedDataset(root)
    if split is not None and packed.details.get("split") not in (None, split):
        raise InputError(f"{root}: the split {packed.details['split']!r} was packed, asked for is {split!r}")
    videos = tuple(
        VideoRecord(video.name, video.frame_names, video.frames, video.flows, video.masks, video.label)
        for video in packed
    )
    return Dataset(name or packed.name, root, "packed", split, videos)


def _record(place: Place, flows: Path | None) -> VideoRecord:
    frames = _by_stem(place.frames, FRAME_SUFFIXES)
    names = tuple(sorted(frames, key=natural_key))
    candidates = (flows / place.name,) if flows else place.flows
    flow_folder = next((folder for folder in candidates if folder.is_dir()), candidates[0])
    flow_files, flow_strays = _match(names, _by_stem(flow_folder, FRAME_SUFFIXES))
    mask_files, mask_strays = ((None,) * len(names), [])
    if place.masks is not None:
        mask_files, mask_strays = _match(names, _by_stem(place.masks, MASK_SUFFIXES))
    strays = [*(str(place.masks / file) for file in mask_strays), *(str(flow_folder / file) for file in flow_strays)]
    return VideoRecord(
        name=place.name,
        frame_names=names,
        frames=FolderPictures(str(place.frames), tuple(frames[name] for name in names)),
        flows=FolderPictures(str(flow_folder), flow_files),
        masks=FolderPictures(str(place.masks or ""), mask_files),
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


def _by_stem(folder: Path, suffixes: frozenset[str]) -> dict[str, str]:
    """Picture files of a folder by name without suffix. Of two with one name, colour PPM wins (FBMS), then JPEG."""
    files: dict[str, str] = {}
    for name in _listing(str(folder)):
        stem, dot, suffix = name.rpartition(".")
        if dot + suffix.lower() not in suffixes or name.startswith((".", "PROB")) or "_PROB" in name:
            continue
        if (
            stem not in files
            or suffix.lower() == "ppm"
            or (suffix.lower() == "jpg" and not files[stem].endswith("ppm"))
        ):
            files[stem] = name
    return files


def _listing(folder: str) -> tuple[str, ...]:
    try:
        return tuple(sorted(path.name for path in Path(folder).iterdir()))
    except (FileNotFoundError, NotADirectoryError):
        return ()
