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

import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hmhi_jax.complete_files import completed, readable, writable, write_text
from hmhi_jax.data.flow_folder import flow_recipe_of
from hmhi_jax.data.layouts import Dataset
from hmhi_jax.data.masks import encode_mask, read_mask
from hmhi_jax.data.pictures import Picture, encode_picture, read_bytes, read_picture
from hmhi_jax.data.records import AS_STORED, FORMAT, INDEX, VERSION, PackedDataset
from hmhi_jax.errors import InputError
from hmhi_jax.ordered_map import ordered_map

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
class PackedForm:
    """What is packed.

    size     None: the bytes of the files, untouched, so that batches are those of the folder. (height, width): pictures
             resized to it, so that nothing is decoded that training at that size does not need
    quality  of frames and flow pictures at `size`: 1 to 100 is JPEG, whose batches differ a little from the folder's;
             0 is PNG, whose batches are equal (unless clips are cropped: a window is then cut from the small picture)
    codec    "jpeg", or "webp", which takes about half the space at the same quality and twice the time to read
    """

    size: tuple[int, int] | None = None
    quality: int = 95
    codec: str = "jpeg"

    def __post_init__(self) -> None:
        if not 0 <= self.quality <= 100:
            raise InputError(f"packing: quality is {self.quality}, expected 0 (lossless) to 100")
        if self.codec not in ("jpeg", "webp"):
            raise InputError(f"packing: codec is {self.codec!r}, expected 'jpeg' or 'webp'")
        if self.size is not None and min(self.size) < 32:
            raise InputError(f"packing: size is {self.size}, expected (height, width) of at least 32")

    def encode_picture(self, picture: Picture) -> bytes:
        """A frame or a flow picture."""
        if self.size is None:
            return read_bytes(picture)
        return encode_picture(read_picture(picture, self.size), self.quality, self.codec)

    def encode_mask(self, picture: Picture) -> bytes:
        """A mask; at `size` it is merged to one foreground and stored with one bit a pixel."""
        return read_bytes(picture) if self.size is None else encode_mask(read_mask(picture, self.size))


def pack_dataset(
    dataset: Dataset,
    out: str | Path,
    form: PackedForm = PackedForm(),
    *,
    frames_per_shard: int = FRAMES_PER_SHARD,
    workers: int = 0,
    advance: Callable[[str, int], None] | None = None,
) -> PackedDataset:
    """Pack a data set into the folder `out`; an interrupted packing goes on. See `write_packed`.

    Raises InputError when a picture cannot be read (inspect first), or `out` holds another packing.
    """
    recipe = flow_recipe_of(dataset)
    details = {
        "layout": dataset.layout,
        "split": dataset.split,
        "size": form.size and list(form.size),
        "quality": form.quality if form.size else None,
        **({"codec": form.codec} if form.codec != "jpeg" else {}),
        "flow": recipe and recipe.to_json(),
        "flow_pictures": sum(video.flows.has(number) for video in dataset.videos for number in range(len(video))),
    }
    plan = [(video.name, len(video)) for video in dataset.videos]
    encode = functools.partial(_encoded, dataset, form)
    return write_packed(
        out, plan, encode, dataset=dataset.name, details=details, frames_per_shard=frames_per_shard,
        workers=workers, advance=advance,
    )  # fmt: skip


def _encoded(dataset: Dataset, form: PackedForm, number: int) -> EncodedVideo:
    video = dataset.videos[number]
    return EncodedVideo(
        name=video.name,
        frame_names=video.frame_names,
        frames=tuple(form.encode_picture(picture) for picture in video.frames),
        flows=tuple(picture and form.encode_picture(picture) for picture in video.flows),
        masks=tuple(picture and form.encode_mask(picture) for picture in video.masks),
        label=video.label,
    )


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
    folder, details, advance = Path(folder), dict(details or {}), advance or (lambda name, frames: None)
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
            advance(name, frames)
        return finished
    with writable(folder, _ADVICE):
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(".shard-*.partial"):  # by a process that was killed
            left.unlink()
    ranges = enumerate(_ranges(plan, frames_per_shard))
    shards = {folder / f"shard-{number:05d}.array_record": members for number, members in ranges}
    parts = {path: _finished(path, digest) for path in shards}
    to_do = (index for path, members in shards.items() if parts[path] is None for index in members)
    with closing(ordered_map(encode, to_do, workers=workers, processes=True)) as encoded:
        for path, members in shards.items():
            if parts[path] is None:
                planned = ((index, *plan[index]) for index in members)
                part = {"plan": digest, "version": VERSION, **_write_shard(path, planned, encoded, advance)}
                # Written last of all: its presence says that the shard is whole.
                write_text(path.with_suffix(".json"), json.dumps(part), advice=_ADVICE)
                parts[path] = part
            else:
                for index in members:
                    advance(*plan[index])
    videos = [entry | {"shard": number} for number, part in enumerate(parts.values()) for entry in part["videos"]]
    index = {"format": FORMAT, "version": VERSION, "dataset": dataset, "details": details, "plan": digest}
    index |= {"shards": [part["shard"] for part in parts.values()], "videos": videos}
    write_text(folder / INDEX, json.dumps(index), advice=_ADVICE)
    for path in shards:
        path.with_suffix(".json").unlink()
    return PackedDataset(folder)


def _ranges(plan: Sequence[tuple[str, int]], frames_per_shard: int) -> Iterator[range]:
    """Which videos make a shard."""
    start, frames = 0, 0
    for number, (_, length) in enumerate(plan):
        if number > start and frames + length > frames_per_shard:
            yield range(start, number)
            start, frames = number, 0
        frames += length
    if plan:
        yield range(start, len(plan))


def _finished(path: Path, digest: str) -> dict[str, Any] | None:
    """A shard's part of the index, where an earlier run has finished it. Raises InputError for another packing's."""
    kept = path.with_suffix(".json")
    if not kept.exists():
        return None
    try:
        with readable(kept):
            part = json.loads(kept.read_text())
        found, size = (part["plan"], part.get("version", AS_STORED)), part["shard"]["bytes"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{kept}: is damaged ({error}); remove it, and its shard is packed again") from error
    if found != (digest, VERSION):
        raise InputError(
            f"{path.parent}: holds the beginning of a packing with other videos or settings; "
            "choose another folder or remove it"
        )
    return part if path.exists() and path.stat().st_size == size else None


def _write_shard(
    path: Path,
    planned: Iterable[tuple[int, str, int]],
    encoded: Iterator[EncodedVideo],
    advance: Callable[[str, int], None],
) -> dict[str, Any]:
    """Write a shard; returns what the index says of it and of its videos."""
    from array_record.python.array_record_module import ArrayRecordWriter

    entries, record = [], 0
    with completed(path, advice=_ADVICE) as partial:
        # JPEG and PNG do not compress further; groups of one let a reader fetch one picture alone.
        writer = ArrayRecordWriter(str(partial), options="group_size:1,uncompressed")
        for (index, name, length), video in zip(planned, encoded):  # noqa: B905 - the next shard's follow
            lengths = {len(column) for column in (video.frame_names, video.frames, video.flows, video.masks)}
            if video.name != name or lengths != {length}:
                raise InputError(
                    f"{path.parent}: video {index} came as {video.name!r}, planned was {name!r} of {length} frames"
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
            advance(name, length)
        with writable(path, _ADVICE, (OSError, RuntimeError)):
            writer.close()
    return {"shard": {"file": path.name, "records": record, "bytes": path.stat().st_size}, "videos": entries}
