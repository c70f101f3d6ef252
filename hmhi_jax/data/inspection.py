"""What a data set holds and everything that is wrong with it, as one list; training refuses a set with such a list."""

import functools
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hmhi_jax.data.layout_rules import visible
from hmhi_jax.data.layouts import Dataset
from hmhi_jax.data.masks import EVERYWHERE, read_truth
from hmhi_jax.data.pictures import Picture, PictureError, is_picture, natural_key, picture_size, read_picture
from hmhi_jax.data.records import PackedDataset, VideoRecord
from hmhi_jax.errors import InputError, first_of
from hmhi_jax.ordered_map import ordered_map

Depth = Literal["names", "headers", "pictures"]
"""How far pictures are looked into: only whether files are there; size and end of every file; every picture decoded."""

Kind = Literal["empty video", "missing flow", "no mask", "unreadable picture", "mask size", "missing shard"]
_SHOWN = 20


@dataclass(frozen=True)
class Problem:
    """One thing that keeps a video (`video` is "": the whole data set) from being trained on."""

    kind: Kind
    video: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


@dataclass
class Inspection:
    """Counts of a data set, and its problems.

    sizes   how many frames have which (height, width); of the first frame of each video where depth is "names"
    labels  videos of each class
    notes   what is unusual but does no harm
    """

    frames: int = 0
    flows: int = 0
    masks: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def bad_videos(self) -> set[str]:
        """Names of videos with a problem."""
        return {problem.video for problem in self.problems if problem.video}


def inspect_dataset(
    dataset: Dataset,
    *,
    depth: Depth = "pictures",
    flows: bool = True,
    masks: bool = True,
    threads: int | None = None,
    advance: Callable[[int], None] | None = None,
) -> Inspection:
    """Look at every video.

    Args:
      depth: see `Depth`. Of a packed data set, whose shards have checksums of their own, "headers" reads only each
        video's first frame and mask.
      flows: whether a frame without a flow picture is a problem.
      masks: whether a video without any mask is.
      threads: that read and decode (as many as cores when None).
      advance: called with a number of frames as they are done.
    """
    result = Inspection()
    if not dataset.videos:
        result.problems.append(Problem("empty video", "", f"{dataset.root}: no videos ({dataset.layout})"))
    if dataset.layout == "packed":
        for line in PackedDataset(dataset.root).problems():
            result.problems.append(Problem("missing shard", "", line))
        if result.problems:
            return result
    look = functools.partial(_inspect, depth=depth, flows=flows, masks=masks)
    findings = ordered_map(look, dataset.videos, workers=threads or os.cpu_count() or 1)
    for video, (sizes, problems, notes) in zip(dataset.videos, findings, strict=True):
        result.frames += len(video)
        result.flows += sum(video.flows.has(number) for number in range(len(video)))
        result.masks += len(video.annotated)
        result.labels.update([video.label] if video.label else [])
        result.sizes.update(sizes)
        result.problems += problems
        result.notes += notes
        if advance:
            advance(len(video))
    return result


def check_for_training(
    dataset: Dataset,
    *,
    depth: Depth = "headers",
    skip_bad: bool = False,
    advance: Callable[[int], None] | None = None,
) -> tuple[Dataset, list[Problem]]:
    """The data set as it can be trained on, and the problems of the videos that were left out for it.

    Raises InputError with the list of problems when there are any and `skip_bad` is not set, when one concerns all of
    it, or when no video is left.
    """
    found = inspect_dataset(dataset, depth=depth, advance=advance)
    if not found.problems:
        return dataset, []
    if not skip_bad:
        begin = (
            f"{dataset.root}: {len(found.problems)} problems in {len(found.bad_videos)} of {len(dataset)} videos; "
            "mend them, or go on without these videos (--skip-bad)"
        )
        raise InputError(listed(begin, found.problems))
    if whole := [problem for problem in found.problems if not problem.video]:  # they concern all of it
        raise InputError(listed(f"{dataset.root}: cannot be used", whole))
    bad = found.bad_videos
    kept = dataset.with_videos(video for video in dataset.videos if video.name not in bad)
    if not kept.videos:
        raise InputError(listed(f"{dataset.root}: no video is without problems", found.problems))
    return kept, found.problems


def listed(begin: str, problems: Sequence[Problem]) -> str:
    """A sentence and the first problems, one a line."""
    lines = [f"  {problem}" for problem in problems[:_SHOWN]]
    if len(problems) > _SHOWN:
        lines.append(f"  ... and {len(problems) - _SHOWN} more; `hmhi inspect` lists all")
    return "\n".join([begin + ":", *lines])


def _inspect(
    video: VideoRecord, depth: Depth, flows: bool, masks: bool
) -> tuple[Counter[tuple[int, int]], list[Problem], list[str]]:
    """Sizes, problems and notes."""
    sizes: Counter[tuple[int, int]] = Counter()
    problems, notes = [], []

    def problem(kind: Kind, text: str) -> None:
        problems.append(Problem(kind, video.name, text))

    if video.strays:
        notes.append(f"{video.name}: {len(video.strays)} files belong to no frame ({first_of(video.strays)})")
    folder = getattr(video.frames, "folder", "")
    inside = visible(Path(folder)) if folder else []
    others = sorted((path.name for path in inside if not is_picture(path) and path.is_file()), key=natural_key)
    passed_over = f"{len(others)} files are no pictures by their suffix ({first_of(others)})"
    if not len(video):
        problem("empty video", f"{folder or video.name}: no frames" + (f"; {passed_over}" if others else ""))
        return sizes, problems, notes
    if others:
        notes.append(f"{video.name}: {passed_over}")
    missing = [name for number, name in enumerate(video.frame_names) if not video.flows.has(number)]
    if flows and missing:
        where = video.flow_folder or video.name
        some = f"{len(missing)} of {len(video)} frames ({first_of(missing)})"
        problem("missing flow", f"{where}: none for {some}; make them with `hmhi flow`")
    if masks and not video.annotated:
        problem("no mask", f"{getattr(video.masks, 'folder', '') or video.name}: no frame has a mask")

    doubts: Counter[str] = Counter()

    def size(picture: Picture | None, mask: bool = False) -> tuple[int, int] | None:
        """Size of a picture; None when it is not there or cannot be read."""
        if picture is None:
            return None
        try:
            if depth == "pictures" and mask:
                truth = read_truth(picture)
                doubts.update([truth.doubt] if truth.doubt else [])
                return truth.grey.shape
            if depth == "pictures":
                return read_picture(picture).shape[:2]
            return picture_size(picture, mask=mask)
        except PictureError as error:
            problem("unreadable picture", str(error))
            return None

    first_only = depth == "names" or (depth == "headers" and not hasattr(video.frames, "folder"))
    for number in sorted({0, *video.annotated[:1]}) if first_only else range(len(video)):
        frame = size(video.frames[number])
        if frame is not None:
            sizes[frame] += 1
        if not first_only:
            size(video.flows[number])
        mask = size(video.masks[number], mask=True)
        if frame and mask and mask != frame:
            problem("mask size", f"{video.masks[number]}: {_text(mask)}, its frame is {_text(frame)}; resize it")
    for doubt, count in doubts.items():
        if doubt != EVERYWHERE or 2 * count > len(video.annotated):
            notes.append(f"{video.name}: {count} masks are {doubt}")
    if len(sizes) > 1:
        notes.append(f"{video.name}: frames of several sizes ({', '.join(map(_text, sizes))})")
    return sizes, problems, notes


def _text(size: tuple[int, int]) -> str:
    return f"{size[1]} x {size[0]}"
