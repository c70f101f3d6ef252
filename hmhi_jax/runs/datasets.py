"""Data sets made ready: what they hold and what is wrong with it, their packed form."""

from pathlib import Path
from typing import Literal

import joblib
from rich.console import Console
from rich.table import Table

from hmhi_jax.data.dataset_packing import PackedForm, pack_dataset
from hmhi_jax.data.inspection import Inspection, check_for_training, inspect_dataset
from hmhi_jax.data.layouts import Dataset, open_dataset
from hmhi_jax.errors import InputError
from hmhi_jax.progress import frame_progress


def inspect(
    folder: Path,
    *,
    layout: str | None,
    split: str | None,
    flows: Path | None,
    quick: bool,
    without_flow: bool,
    without_masks: bool,
    workers: int | None,
) -> bool:
    """Do what `hmhi inspect` was asked for; the arguments are its options. Returns whether nothing is wrong."""
    dataset = open_dataset(folder, layout=layout, split=split, flows=flows)
    with frame_progress("inspect", _frames(dataset)) as advance:
        found = inspect_dataset(
            dataset, depth="headers" if quick else "pictures", flows=not without_flow, masks=not without_masks,
            threads=workers, advance=advance,
        )  # fmt: skip
    Console().print(_table(dataset, found, split))
    for note in found.notes:
        print(f"note: {note}")
    for problem in found.problems:
        print(problem)
    return not found.problems


def _table(dataset: Dataset, found: Inspection, split: str | None) -> Table:
    lengths = sorted(len(video) for video in dataset.videos) or [0]
    table = Table(show_header=False, title=f"{dataset.name} ({dataset.layout}{f', {split}' if split else ''})")
    table.add_row("videos", f"{len(dataset)}, of {lengths[0]} to {lengths[-1]} frames")
    if found.labels:
        table.add_row("classes", ", ".join(f"{label} {count}" for label, count in sorted(found.labels.items())))
    table.add_row("frames", str(found.frames))
    table.add_row("flow pictures", str(found.flows))
    table.add_row("masks", f"{found.masks} ({found.masks / max(found.frames, 1):.0%} of frames)")
    sizes = ", ".join(f"{width} x {height} ({count})" for (height, width), count in found.sizes.most_common(6))
    table.add_row("sizes", sizes + (", ..." if len(found.sizes) > 6 else ""))
    table.add_row("problems", f"{len(found.problems)} in {len(found.bad_videos)} videos" if found.problems else "none")
    return table


def pack(
    folder: Path,
    out: Path,
    *,
    layout: str | None,
    split: str | None,
    flows: Path | None,
    size: tuple[int, int] | None,
    quality: int | None,
    codec: Literal["jpeg", "webp"],
    frames_per_shard: int,
    skip_bad: bool,
    workers: int | None,
) -> None:
    """Do what `hmhi pack` was asked for; the arguments are its options."""
    if size is None and (quality is not None or codec != "jpeg"):
        option = "--quality" if quality is not None else "--codec"
        raise InputError(f"{option}: expected together with --size; without it the files are packed as they are")
    dataset = open_dataset(folder, layout=layout, split=split, flows=flows)
    with frame_progress("inspect", _frames(dataset)) as advance:
        dataset, problems = check_for_training(dataset, depth="headers", skip_bad=skip_bad, advance=advance)
    for problem in problems:
        print(f"left out: {problem}")
    with frame_progress("pack", _frames(dataset)) as advance:
        packed = pack_dataset(
            dataset,
            out,
            PackedForm(size, 95 if quality is None else quality, codec),
            frames_per_shard=frames_per_shard,
            workers=joblib.cpu_count() if workers is None else workers,
            advance=lambda name, frames: advance(frames),
        )
    megabytes = sum(path.stat().st_size for path in packed.shards) / 1e6
    print(f"{out}: {len(packed)} videos in {len(packed.shards)} shards, {megabytes:.0f} MB")


def _frames(dataset: Dataset) -> int:
    return sum(len(video) for video in dataset.videos)
