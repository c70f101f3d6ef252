"""Videos of a data set: where their frames, flow pictures and masks are, in folders or in the shards of a packed data
set, whose format `packing.py` describes."""

import hashlib
import json
import os
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from types import NoneType
from typing import Any, SupportsIndex

from hmhi_jax.complete_files import readable
from hmhi_jax.data.pictures import Picture
from hmhi_jax.errors import InputError

INDEX = "index.json"  # of a packed data set
FORMAT, VERSION, AS_STORED = "hmhi-packed", 2, 1


class Pictures(Sequence[Picture | None]):
    """The frames, flow pictures or masks of one video: item i is that of frame i, or None.

    Only `keys` are kept, names or numbers, since a large data set has millions of pictures.
    """

    keys: tuple[str | int | None, ...]

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, frame: SupportsIndex) -> Picture | None:
        return self._picture(frame) if self.has(frame) else None

    def has(self, frame: SupportsIndex) -> bool:
        """Whether frame i has one."""
        return self.keys[frame] is not None

    @abstractmethod
    def _picture(self, frame: SupportsIndex) -> Picture:
        """That of a frame that has one."""

    @abstractmethod
    def stamps(self) -> Iterator[str]:
        """What tells these pictures from others of the same names, wherever they are; costs no reading."""


def is_plain_name(value: Any) -> bool:
    """Whether results may be written under a name: in their folder, and nowhere else."""
    return isinstance(value, str) and value not in ("", ".", "..") and not {"/", os.sep, "\0"} & set(value)


@dataclass(frozen=True)
class FolderPictures(Pictures):
    """Files in a folder; the keys are their names."""

    folder: str
    keys: tuple[str | None, ...]

    def _picture(self, frame: SupportsIndex) -> Path:
        return Path(self.folder, self.keys[frame])

    def stamps(self) -> Iterator[str]:
        """Name and size of every file."""
        for name, path in zip(self.keys, self, strict=True):
            yield f"{name} {path.stat().st_size if path and path.exists() else None}"


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
class PackedPicture:
    """One record of a shard; stands where a folder has a `Path`. `as_stored`: EXIF's orientation does not count."""

    shard: str
    record: int
    title: str
    as_stored: bool = False

    def read_bytes(self) -> bytes:
        """The encoded picture. Raises OSError when the shard is missing, truncated or damaged."""
        try:
            return bytes(_reader(self.shard, os.getpid()).read([self.record])[0])
        except (RuntimeError, ValueError, IndexError) as error:  # array_record raises what its C++ status maps to
            raise OSError(f"cannot read {self}: {error}") from error

    def __str__(self) -> str:
        return f"{self.shard}[{self.record}] ({self.title})"


@lru_cache(maxsize=64)
def _reader(shard: str, process: int) -> Any:
    """An open shard. Readers own threads, so a forked child (another `process`) must not inherit one."""
    from array_record.python.array_record_module import ArrayRecordReader

    if not os.path.exists(shard):
        raise OSError(f"{shard} does not exist")
    return ArrayRecordReader(shard, options="readahead_buffer_size:0,max_parallelism:0", file_reader_buffer_size=65536)


@dataclass(frozen=True)
class PackedPictures(Pictures):
    """Records of one shard; the keys are their numbers."""

    shard: str
    video: str
    kind: str
    frame_names: tuple[str, ...]
    keys: tuple[int | None, ...]
    as_stored: bool = False

    def _picture(self, frame: SupportsIndex) -> PackedPicture:
        title = f"{self.kind} {self.video}/{self.frame_names[frame]}"
        return PackedPicture(self.shard, self.keys[frame], title, self.as_stored)

    def stamps(self) -> Iterator[str]:
        """Name and record of every picture, after the size of the shard they are in."""
        yield str(os.path.getsize(self.shard) if os.path.exists(self.shard) else None)
        for name, record in zip(self.frame_names, self.keys, strict=True):
            yield f"{name} {-1 if record is None else record}"


class PackedDataset(Sequence[VideoRecord]):
    """A folder written by `packing.write_packed`; reading the index is all that opening costs."""

    def __init__(self, folder: str | Path):
        """Open `folder`. Raises InputError when it has no index, or one of another format or version."""
        self.folder = Path(folder)
        path = self.folder / INDEX
        if not path.exists():
            raise InputError(
                f"{path}: not found; expected the index of a packed data set (an interrupted `hmhi pack` is finished "
                "by running it again)"
            )
        try:
            with readable(path):
                index = json.loads(path.read_text())
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}: not readable as JSON ({error}); pack the data set again") from None
        found = (index.get("format"), index.get("version")) if isinstance(index, dict) else None
        if found not in ((FORMAT, VERSION), (FORMAT, AS_STORED)):
            raise InputError(
                f"{path}: format and version are {found}, expected {(FORMAT, VERSION)}; pack the data set again"
            )
        _check_index(index, path)
        self.name: str = index["dataset"]
        self.details: dict[str, Any] = index["details"]
        self.plan: str = index["plan"]
        self._as_stored = index["version"] == AS_STORED
        self._shards: list[dict[str, Any]] = index["shards"]
        self._videos: list[dict[str, Any]] = index["videos"]

    def __len__(self) -> int:
        return len(self._videos)

    def __getitem__(self, number: int) -> VideoRecord:
        entry = self._videos[number]
        shard = str(self.folder / self._shards[entry["shard"]]["file"])
        frame_names, record = tuple(entry["frames"]), entry["first"]
        kinds = ("frame", "flow", "mask")
        records: list[list[int | None]] = [[], [], []]
        for present in zip("1" * len(frame_names), entry["flows"], entry["masks"], strict=True):
            for keys, flag in zip(records, present, strict=True):
                keys.append(record if flag == "1" else None)
                record += flag == "1"
        pictures = (
            PackedPictures(shard, entry["name"], kind, frame_names, tuple(keys), self._as_stored)
            for kind, keys in zip(kinds, records, strict=True)
        )
        return VideoRecord(entry["name"], frame_names, *pictures, entry["label"])

    @cached_property
    def shards(self) -> tuple[Path, ...]:
        """The shard files, in order."""
        return tuple(self.folder / shard["file"] for shard in self._shards)

    def problems(self) -> list[str]:
        """Shards that are missing or not as long as the index says, one line each (no record is read)."""
        lines = []
        for path, shard in zip(self.shards, self._shards, strict=True):
            if not path.exists():
                lines.append(f"{path}: not found; copy it or pack the data set again")
            elif (size := path.stat().st_size) != shard["bytes"]:
                lines.append(f"{path}: {size} bytes, expected {shard['bytes']}; copy it again")
        return lines


def _check_index(index: dict[str, Any], path: Path) -> None:
    """Refuse an index that does not hold what this version of the format promises."""

    def has(value: Any, **kinds: type | tuple[type, ...]) -> bool:
        return isinstance(value, dict) and all(isinstance(value.get(name), kind) for name, kind in kinds.items())

    taken: Counter[int] = Counter()  # records of each shard; those of its videos follow each other

    def counts(entry: dict[str, Any]) -> bool:
        shard, frames, flags = entry["shard"], entry["frames"], entry["flows"] + entry["masks"]
        lengths = {len(frames), len(entry["flows"]), len(entry["masks"])}
        begins, taken[shard] = entry["first"] == taken[shard], taken[shard] + len(frames) + flags.count("1")
        fits = 0 <= shard < len(index["shards"]) and taken[shard] <= index["shards"][shard]["records"]
        names = all(map(is_plain_name, (entry["name"], *frames))) and len(set(frames)) == len(frames)
        return begins and fits and names and len(lengths) == 1 and set(flags) <= {"0", "1"}

    def require(fits: bool, what: str) -> None:
        if not fits:
            raise InputError(f"{path}: {what} is not as the format says, is it damaged? Pack the data set again")

    whole = has(index, dataset=str, details=dict, plan=str, shards=list, videos=list) and all(
        has(shard, file=str, records=int, bytes=int) and is_plain_name(shard["file"]) for shard in index["shards"]
    )
    require(whole, "the list of shards or videos, or what stands before it")
    kinds = {"name": str, "label": (str, NoneType), "shard": int, "first": int, "frames": list}
    for number, entry in enumerate(index["videos"]):
        require(has(entry, **kinds, flows=str, masks=str) and counts(entry), f"the entry of video {number}")
