"""`hmhi inspect`: what a data set holds, and everything that is wrong with it."""

from pathlib import Path
from typing import Annotated

import typer

from hmhi_jax.cli.flow import DatasetArgument, LayoutOption, SplitOption


def inspect(
    dataset: DatasetArgument,
    layout: LayoutOption = None,
    split: SplitOption = None,
    flows: Annotated[Path | None, typer.Option(help="Where flow pictures are, if not in the data set.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Sizes and ends of files only; decode nothing.")] = False,
    without_flow: Annotated[bool, typer.Option("--without-flow", help="Missing flow pictures are no problem.")] = False,
    without_masks: Annotated[
        bool, typer.Option("--without-masks", help="Videos without masks are no problem.")
    ] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Threads; as many as cores if not given.")] = None,
) -> None:
    """Count videos, frames and sizes of a data set and list every problem.

    Problems are what training refuses: unreadable pictures, missing flow, masks of another size than their frame, empty
    videos, videos without masks. The exit code is 1 when there are any.
    """
    from rich.console import Console
    from rich.table import Table

    from hmhi_jax.data.inspection import inspect_dataset
    from hmhi_jax.data.layouts import open_dataset
    from hmhi_jax.progress import frame_progress

    videos = open_dataset(dataset, layout=layout, split=split, flows=flows)
    total = sum(len(video) for video in videos.videos)
    with frame_progress("inspect", total) as advance:
        found = inspect_dataset(
            videos,
            depth="headers" if quick else "pictures",
            flows=not without_flow,
            masks=not without_masks,
            threads=workers,
            advance=advance,
        )
    lengths = sorted(len(video) for video in videos.videos) or [0]
    table = Table(show_header=False, title=f"{videos.name} ({videos.layout}{f', {split}' if split else ''})")
    table.add_row("videos", f"{len(videos)}, of {lengths[0]} to {lengths[-1]} frames")
    if found.labels:
        table.add_row("classes", ", ".join(f"{label} {count}" for label, count in sorted(found.labels.items())))
    table.add_row("frames", str(found.frames))
    table.add_row("flow pictures", str(found.flows))
    table.add_row("masks", f"{found.masks} ({found.masks / max(found.frames, 1):.0%} of frames)")
    sizes = ", ".join(f"{width} x {height} ({count})" for (height, width), count in found.sizes.most_common(6))
    table.add_row("sizes", sizes + (", ..." if len(found.sizes) > 6 else ""))
    table.add_row("problems", f"{len(found.problems)} in {len(found.bad_videos)} videos" if found.problems else "none")
    Console().print(table)
    for note in found.notes:
        print(f"note: {note}")
    for problem in found.problems:
        print(problem)
    if found.problems:
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("inspect")(inspect)
