"""Videos packed into ArrayRecord shards: one large file instead of thousands of small ones.

A packed folder holds `shard-00000.array_record`, ... and `index.json`. A record is one encoded picture and nothing
else: the bytes of the JPEG or PNG as they lay on disk, so that a clip costs only the records of its frames and a
packed data set gives the same pixels as the folder it came from. The records of a video follow each other frame by
frame, in the order frame, flow picture, mask; what a frame lacks (flow not made, mask not annotated) has no record.

`index.json`:

    {"format": "hmhi-packed", "version": 1, "dataset": str, "details": {...}, "plan": str,
     "shards": [{"file": str, "records": int, "bytes": int}],
     "videos": [{"name": str, "label": str or null, "shard": int, "first": int,
                 "frames": [name without suffix], "flows": "0110...", "masks": "1000..."}]}

`first` is the record of the video's first frame inside its shard; the i-th character of `flows` and `masks` says
whether frame i has one. `details` is what the writer wants to keep (source folder, picture size, flow recipe);
`plan` is a digest of names, lengths and details by which an interrupted packing is recognised and continued.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, SupportsIndex

from hmhi_jax.complete_files import write_text
from hmhi_jax.errors import InputError

INDEX = "index.json"
FORMAT, VERSION = "hmhi-packed", 1
FRAMES_PER_SHARD = 4096  # about 400 MiB of 480p JPEG frames with flow pictures


@dataclass(frozen=True)
class EncodedVideo:
    """One video as encoded pictures, the unit that is packed. All sequences have one entry per frame."""

    name: str
    frame_names: tuple[str, ...]
    frames: tuple[bytes, ...]
    flows: tuple[bytes | None, ...]
    masks: tuple[bytes | None, ...]
    label: str | None = None


@dataclass(frozen=True)
class PackedPicture:
    """One record of a shard; stands where a folder has a `Path`."""

    shard: str
    record: int
    title: str

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
class PackedPictures(Sequence):
    """The frames, flow pictures or masks of one packed video: item i is that of frame i, or None.

    Only numbers are kept, since a large data set has millions of pictures.
    """

    shard: str
    video: str
    kind: str
    frame_names: tuple[str, ...]
    records: tuple[int, ...]  # -1: has none

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, frame: SupportsIndex) -> PackedPicture | None:
        if (record := self.records[frame]) < 0:
            return None
        return PackedPicture(self.shard, record, f"{self.kind} {self.video}/{self.frame_names[frame]}")

    def has(self, frame: SupportsIndex) -> bool:
        """Whether frame i has one."""
        return self.records[frame] >= 0

    def stamps(self) -> Iterator[str]:
        """Name and record of every picture, after the size of the shard they are in; costs no reading."""
        yield str(os.path.getsize(self.shard) if os.path.exists(self.shard) else None)
        for name, record in zip(self.frame_names, self.records, strict=True):
            yield f"{name} {record}"


@dataclass(frozen=True)
class PackedVideo:
    """A video of a packed data set. `frames`, `flows` and `masks` have one entry per frame; None is "has none"."""

    name: str
    label: str | None
    frame_names: tuple[str, ...]
    frames: PackedPictures
    flows: PackedPictures
    masks: PackedPictures


class PackedDataset:
    """A folder written by `write_packed`; reading the index is all that opening costs."""

    def __init__(self, folder: str | Path):
        """Open `folder`. Raises InputError when it has no index, or one of another format or version."""
        self.folder = Path(folder)
        path = self.folder / INDEX
        try:
            index = json.loads(path.read_text())
        except FileNotFoundError:
            raise InputError(
                f"{path}: not found; expected the index of a packed data set (an interrupted `hmhi pack` is finished "
                "by running it again)"
            ) from None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: not readable as JSON ({error}); pack the data set again") from None
        found = (index.get("format"), index.get("version")) if isinstance(index, dict) else None
        if found != (FORMAT, VERSION):
            raise InputError(
                f"{path}: format and version are {found}, expected {(FORMAT, VERSION)}; pack the data set again"
            )
        self.name: str = index["dataset"]
        self.details: dict[str, Any] = index["details"]
        self.plan: str = index["plan"]
        self._shards: list[dict[str, Any]] = index["shards"]
        self._videos: list[dict[str, Any]] = index["videos"]

    def __len__(self) -> int:
        return len(self._videos)

    def __getitem__(self, number: int) -> PackedVideo:
        entry = self._videos[number]
        shard = str(self.folder / self._shards[entry["shard"]]["file"])
        frame_names, record = tuple(entry["frames"]), entry["first"]
        present = {"frame": "1" * len(frame_names), "flow": entry["flows"], "mask": entry["masks"]}
        records: dict[str, list[int]] = {kind: [] for kind in present}
        for frame in range(len(frame_names)):
            for kind, flags in present.items():
                records[kind].append(record if flags[frame] == "1" else -1)
                record += flags[frame] == "1"
        frames, flows, masks = (
            PackedPictures(shard, entry["name"], kind, frame_names, tuple(records[kind])) for kind in present
        )
        return PackedVideo(entry["name"], entry["label"], frame_names, frames, flows, masks)

    def __iter__(self) -> Iterator[PackedVideo]:
        return (self[number] for number in range(len(self)))

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


def write_packed(
    folder: str | Path,
    plan: Sequence[tuple[str, int]],
    encode: Callable[[int], EncodedVideo],
    *,
    dataset: str,
    details: Mapping[str, Any] | None = None,
    frames_per_shard: int = FRAMES_PER_SHARD,
    workers: int = 0,
    advance: Callable[[str, int], None] | None = None,
) -> PackedDataset:
    """Pack videos into shards; a packing that was interrupted goes on at its first unfinished shard.

    Args:
      folder: where `index.json` and the shards go; made when missing.
      plan: name and number of frames of every video, in order. Names are unique.
      encode: makes video `i` of the plan; called in worker processes when `workers` > 0, so it must be picklable.
        Any exception it raises stops the packing; finished shards stay.
      dataset: name kept in the index.
      details: anything JSON can hold, kept in the index.
      frames_per_shard: a shard is closed when the next video would exceed it (a longer video has its own).
      workers: processes that encode; 0 encodes in this one. Shards do not depend on it.
      advance: called with name and number of frames of each video once it is packed or found finished.

    Raises InputError when the folder holds another packing, or when `encode` returns another video than planned.
    """
    folder, details = Path(folder), dict(details or {})
    if len({name for name, _ in plan}) != len(plan):
        raise InputError(f"{folder}: two videos of the data set {dataset!r} have one name; names must be unique")
    text = json.dumps([dataset, list(map(list, plan)), details, frames_per_shard], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    if (folder / INDEX).exists():
        finished = PackedDataset(folder)
        if finished.plan != digest:
            raise InputError(
                f"{folder}: already holds the packed data set {finished.name!r} made from other videos or settings; "
                "choose another folder or remove it"
            )
        for name, frames in plan:
            if advance:
                advance(name, frames)
        return finished
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    parts = []
    with _encoder(encode, workers) as encoded:
        for number, members in enumerate(_shards(plan, frames_per_shard)):
            parts.append(_write_shard(folder, number, members, plan, digest, encoded, advance))
    videos = [entry | {"shard": number} for number, part in enumerate(parts) for entry in part["videos"]]
    index = {"format": FORMAT, "version": VERSION, "dataset": dataset, "details": details, "plan": digest}
    _write_text(folder / INDEX, json.dumps(index | {"shards": [part["shard"] for part in parts], "videos": videos}))
    for number in range(len(parts)):
        (folder / f"shard-{number:05d}.json").unlink()
    return PackedDataset(folder)


def _shards(plan: Sequence[tuple[str, int]], frames_per_shard: int) -> list[range]:
    shards, start, frames = [], 0, 0
    for number, (_, length) in enumerate(plan):
        if number > start and frames + length > frames_per_shard:
            shards.append(range(start, number))
            start, frames = number, 0
        frames += length
    return [*shards, range(start, len(plan))] if plan else []


def _write_shard(folder, number, members, plan, digest, encoded, advance) -> dict[str, Any]:
    """Write one shard and, last of all, its part of the index: that file's presence says the shard is whole."""
    from array_record.python.array_record_module import ArrayRecordWriter

    path, part_path = folder / f"shard-{number:05d}.array_record", folder / f"shard-{number:05d}.json"
    if part_path.exists():
        part = json.loads(part_path.read_text())
        if part["plan"] != digest:
            raise InputError(
                f"{folder}: holds the beginning of a packing with other videos or settings; "
                "choose another folder or remove it"
            )
        if path.exists() and path.stat().st_size == part["shard"]["bytes"]:
            for index in members:
                if advance:
                    advance(*plan[index])
            return part
    entries, record, temporary = [], 0, path.with_suffix(".partial")
    # JPEG and PNG do not compress further; groups of one let a reader fetch one picture alone.
    writer = ArrayRecordWriter(str(temporary), options="group_size:1,uncompressed")
    for index, video in zip(members, encoded(members), strict=True):
        name, length = plan[index]
        lengths = {len(column) for column in (video.frame_names, video.frames, video.flows, video.masks)}
        if video.name != name or lengths != {length}:
            raise InputError(f"{folder}: video {index} came as {video.name!r}, planned was {name!r} of {length} frames")
        entries.append({
            "name": name,
            "label": video.label,
            "first": record,
            "frames": list(video.frame_names),
            "flows": "".join("01"[flow is not None] for flow in video.flows),
            "masks": "".join("01"[mask is not None] for mask in video.masks),
        })  # fmt: skip
        for pictures in zip(video.frames, video.flows, video.masks, strict=True):
            for picture in pictures:
                if picture is not None:
                    with _writing(path):
                        writer.write(picture)
                    record += 1
        if advance:
            advance(name, length)
    with _writing(path):
        writer.close()
        os.replace(temporary, path)
    shard = {"file": path.name, "records": record, "bytes": path.stat().st_size}
    part = {"plan": digest, "shard": shard, "videos": entries}
    _write_text(part_path, json.dumps(part))
    return part


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:  # array_record raises RuntimeError for a full disk
        reason = str(error).split(";")[0]
        raise InputError(
            f"{path}: cannot be written ({reason}); finished shards stay, make room and run it again"
        ) from error


class _encoder:
    """Maps numbers of videos to encoded ones in order, in this process or ahead of time in others."""

    def __init__(self, encode: Callable[[int], EncodedVideo], workers: int):
        self._encode, self._workers, self._pool = encode, workers, None

    def __enter__(self) -> Callable[[Sequence[int]], Iterator[EncodedVideo]]:
        if not self._workers:
            return lambda numbers: map(self._encode, numbers)
        self._pool = ProcessPoolExecutor(self._workers, mp_context=get_context("spawn"))
        return self._ahead

    def __exit__(self, *_: object) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)

    def _ahead(self, numbers: Sequence[int]) -> Iterator[EncodedVideo]:
        # A bounded window: a shard of long videos need not fit into memory.
        waiting: list[Future[EncodedVideo]] = []
        for number in numbers:
            waiting.append(self._pool.submit(self._encode, number))
            if len(waiting) > 2 * self._workers:
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()


def _write_text(path: Path, text: str) -> None:
    with _writing(path):
        write_text(path, text)
