"""Data sets made ready: what they hold and what is wrong with it, their packed form; and made-up clips into a packed
folder, with a sheet of the first ones to look at."""

import dataclasses
from itertools import islice
from pathlib import Path
from typing import Literal

import joblib
from PIL import Image
from rich.console import Console
from rich.table import Table

from hmhi_jax.complete_files import completed
from hmhi_jax.data.flow import FlowRecipe
from hmhi_jax.data.inspection import Inspection, check_for_training, inspect_dataset
from hmhi_jax.data.layouts import Dataset, open_dataset
from hmhi_jax.data.packing import PackedForm, pack_dataset
from hmhi_jax.errors import InputError
from hmhi_jax.progress import frame_progress
from hmhi_jax.tools.synthetic.datasets import contact_sheet, read_clip, write_pack
from hmhi_jax.tools.synthetic.settings import FEATURES, PRESETS


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


def synthesise(
    out: Path,
    *,
    clips: int,
    seed: int,
    preset: str,
    height: int | None,
    width: int | None,
    least_frames: int | None,
    most_frames: int | None,
    flow: str | None,
    pictures: list[Path],
    without: list[str],
    workers: int | None,
    sheet: bool,
) -> None:
    """Do what `hmhi synthesise` was asked for; the arguments are its options."""
    start = PRESETS[preset]
    size = (height or start.size[0], width or start.size[1])
    recipe = FlowRecipe.from_json(flow) if flow else dataclasses.replace(start.recipe, size=size)
    for name in without:
        if name not in FEATURES:
            raise InputError(f"--without {name}: no such feature, expected one of {', '.join(FEATURES)}")
    settings = dataclasses.replace(
        start,
        size=size,
        least_frames=least_frames or start.least_frames,
        most_frames=most_frames or start.most_frames,
        recipe=recipe,
        **dict.fromkeys(without, 0.0),
    )
    with frame_progress("synthesise", clips, "clips") as advance:
        processes = joblib.cpu_count() if workers is None else workers
        pack = write_pack(
            out, clips, seed, settings, pictures=tuple(map(str, pictures)), workers=processes,
            advance=lambda name, frames: advance(1),
        )  # fmt: skip
    if sheet:
        picture = contact_sheet(read_clip(video) for video in islice(pack, 12))
        with completed(out / "sheet.png", advice="make room, or take --no-sheet") as partial:
            Image.fromarray(picture).save(partial, format="png")
    print(f"{out}: {len(pack)} clips, {sum(len(video.frame_names) for video in pack)} frames")
