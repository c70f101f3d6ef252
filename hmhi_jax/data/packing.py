"""Videos packed into ArrayRecord shards: one large file instead of thousands of small ones.

A packed folder holds `shard-00000.array_record`, ... and `index.json`. A record is one encoded picture and nothing
else: the bytes of the JPEG or PNG as they lay on disk, so that a clip costs only the records of its frames and a
packed data set gives the same pixels as the folder it came from. The records of a video follow each other frame by
frame, in the order frame, flow picture, mask; what a frame lacks (flow not made, mask not annotated) has no record.

`index.json`:

    {"format": "hmhi-packed", "version": 2, "dataset": str, "details": {...}, "plan": str,
     "shards": [{"file": str, "records": int, "bytes": int}],
     "videos": [{"name": str, "label": str or null, "shard": int, "first": int,
                 "frames": [name without suffix], "flows": "0110...", "masks": "1000..."}]}

`first` is the record of the video's first frame inside its shard; the i-th character of `flows` and `masks` says
whether frame i has one. `details` is what the writer wants to keep (source folder, picture size, flow recipe);
`plan` is a digest of names, lengths and details by which an interrupted packing is recognised and continued.

Pictures are seen upright, as their EXIF orientation says. Those of version 1, which is read as well, are seen as they
are stored: the flow pictures and masks beside them were made of frames that nobody had turned.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from types import NoneType
from typing import Any, SupportsIndex

from hmhi_jax.complete_files import completed, readable, writable, write_text
from hmhi_jax.data.records import Pictures, VideoRecord, is_plain_name
from hmhi_jax.errors import InputError
from hmhi_jax.ordered_map import ordered_map

INDEX = "index.json"
FORMAT, VERSION, AS_STORED = "hmhi-packed", 2, 1
_ADVICE = "finished shards stay, make room and run it again"
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


class PackedDataset:
    """A folder written by `write_packed`; reading the index is all that opening costs."""

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
        present = {"frame": "1" * len(frame_names), "flow": entry["flows"], "mask": entry["masks"]}
        records: dict[str, list[int | None]] = {kind: [] for kind in present}
        for frame in range(len(frame_names)):
            for kind, flags in present.items():
                records[kind].append(record if flags[frame] == "1" else None)
                record += flags[frame] == "1"
        frames, flows, masks = (
            PackedPictures(shard, entry["name"], kind, frame_names, tuple(records[kind]), self._as_stored)
            for kind in present
        )
        return VideoRecord(entry["name"], frame_names, frames, flows, masks, entry["label"])

    def __iter__(self) -> Iterator[VideoRecord]:
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

    whole = has(index, dataset=str, details=dict, plan=str, shards=list, videos=list) and all(
        has(shard, file=str, records=int, bytes=int) and is_plain_name(shard["file"]) for shard in index["shards"]
    )
    wrong = "" if whole else "the list of shards or videos, or what stands before it"
    for number, entry in enumerate(index["videos"] if whole else ()):
        kinds = {"name": str, "label": (str, NoneType), "shard": int, "first": int, "frames": list}
        if not (has(entry, **kinds, flows=str, masks=str) and counts(entry)):
            wrong = wrong or f"the entry of video {number}"
    if wrong:
        raise InputError(f"{path}: {wrong} is not as the format says, is it damaged? Pack the data set again")


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
    with writable(folder, _ADVICE):
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(".shard-*.partial"):  # by a process that was killed
            left.unlink()
    shards = _shards(plan, frames_per_shard)
    parts = [_finished(folder, number, digest) for number in range(len(shards))]
    to_do = (index for part, members in zip(parts, shards, strict=True) if part is None for index in members)
    with closing(ordered_map(encode, to_do, workers=workers, processes=True)) as encoded:
        for number, members in enumerate(shards):
            if parts[number] is None:
                parts[number] = _write_shard(folder, number, members, plan, digest, encoded, advance)
            elif advance:
                for index in members:
                    advance(*plan[index])
    videos = [entry | {"shard": number} for number, part in enumerate(parts) for entry in part["videos"]]
    index = {"format": FORMAT, "version": VERSION, "dataset": dataset, "details": details, "plan": digest}
    index |= {"shards": [part["shard"] for part in parts], "videos": videos}
    write_text(folder / INDEX, json.dumps(index), advice=_ADVICE)
    for number in range(len(parts)):
        _part_path(folder, number).unlink()
    return PackedDataset(folder)


def _shards(plan: Sequence[tuple[str, int]], frames_per_shard: int) -> list[range]:
    shards, start, frames = [], 0, 0
    for number, (_, length) in enumerate(plan):
        if number > start and frames + length > frames_per_shard:
            shards.append(range(start, number))
            start, frames = number, 0
        frames += length
    return [*shards, range(start, len(plan))] if plan else []


def _finished(folder: Path, number: int, digest: str) -> dict[str, Any] | None:
    """A shard's part of the index, where an earlier run has finished it. Raises InputError for another packing's."""
    path = _part_path(folder, number)
    if not path.exists():
        return None
    try:
        with readable(path):
            part = json.loads(path.read_text())
        found = part["plan"], part.get("version", AS_STORED)
        file, size = part["shard"]["file"], part["shard"]["bytes"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: is damaged ({error}); remove it, and its shard is packed again") from error
    if found != (digest, VERSION):
        raise InputError(
            f"{folder}: holds the beginning of a packing with other videos or settings; "
            "choose another folder or remove it"
        )
    shard = folder / file
    return part if shard.exists() and shard.stat().st_size == size else None


def _part_path(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}.json"


def _write_shard(
    folder: Path,
    number: int,
    members: range,
    plan: Sequence[tuple[str, int]],
    digest: str,
    encoded: Iterable[EncodedVideo],
    advance: Callable[[str, int], None] | None,
) -> dict[str, Any]:
    """Write one shard and, last of all, its part of the index: that file's presence says the shard is whole."""
    from array_record.python.array_record_module import ArrayRecordWriter

    entries, record, path = [], 0, folder / f"shard-{number:05d}.array_record"
    with completed(path, advice=_ADVICE) as partial:
        # JPEG and PNG do not compress further; groups of one let a reader fetch one picture alone.
        writer = ArrayRecordWriter(str(partial), options="group_size:1,uncompressed")
        for index, video in zip(members, encoded):  # noqa: B905 - the next shard's follow
            name, length = plan[index]
            lengths = {len(column) for column in (video.frame_names, video.frames, video.flows, video.masks)}
            if video.name != name or lengths != {length}:
                raise InputError(
                    f"{folder}: video {index} came as {video.name!r}, planned was {name!r} of {length} frames"
                )
            entries.append({
                "name": name,
                "label": video.label,
                "first": record,
                "frames": list(video.frame_names),
                "flows": "".join("01"[flow is not None] for flow in video.flows),
                "masks": "".join("01"[mask is not None] for mask in video.masks),
            })  # fmt: skip
            by_frame = zip(video.frames, video.flows, video.masks, strict=True)
            present = [picture for pictures in by_frame for picture in pictures if picture is not None]
            with writable(path, _ADVICE, (OSError, RuntimeError)):  # array_record raises RuntimeError for a full disk
                for picture in present:
                    writer.write(picture)
            record += len(present)
            if advance:
                advance(name, length)
        with writable(path, _ADVICE, (OSError, RuntimeError)):
            writer.close()
    shard = {"file": path.name, "records": record, "bytes": path.stat().st_size}
    part = {"plan": digest, "version": VERSION, "shard": shard, "videos": entries}
    write_text(_part_path(folder, number), json.dumps(part), advice=_ADVICE)
    return part
