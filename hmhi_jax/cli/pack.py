"""`hmhi pack`: a data set into ArrayRecord shards."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from hmhi_jax.cli.flow import DatasetArgument, LayoutOption, SplitOption

Codec = Literal["jpeg", "webp"]


def pack(
    dataset: DatasetArgument,
    out: Annotated[Path, typer.Argument(help="Folder for the shards and their index.")],
    layout: LayoutOption = None,
    split: SplitOption = None,
    flows: Annotated[Path | None, typer.Option(help="Where flow pictures are, if not in the data set.")] = None,
    size: Annotated[
        tuple[int, int] | None, typer.Option(help="Height and width: pack at training size, not the files as they are.")
    ] = None,
    quality: Annotated[
        int | None, typer.Option(help="With --size: of JPEG or WebP, 1 to 100 (95); 0 stores PNG, without loss.")
    ] = None,
    codec: Annotated[
        Codec, typer.Option(help="With --size: webp takes half the space of jpeg, and longer to read.")
    ] = "jpeg",
    frames_per_shard: Annotated[int, typer.Option(min=1, help="A shard is closed at about this many frames.")] = 4096,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out videos with problems.")] = False,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes; as many as cores if not given.")] = None,
) -> None:
    """Pack a data set with its flow pictures into a few large files, for object stores and pods.

    The packed folder is used like any data set and gives the same batches for the same seed (with --size, of the same
    size: nearly). Stopped or killed, the same command goes on.
    """
    import os

    from hmhi_jax.data.dataset_packing import PackedForm, pack_dataset
    from hmhi_jax.data.inspection import check_for_training
    from hmhi_jax.data.layouts import open_dataset
    from hmhi_jax.errors import InputError
    from hmhi_jax.progress import frame_progress

    if size is None and (quality is not None or codec != "jpeg"):
        option = "--quality" if quality is not None else "--codec"
        raise InputError(f"{option}: expected together with --size; without it the files are packed as they are")
    form = PackedForm(size, 95 if quality is None else quality, codec)
    videos = open_dataset(dataset, layout=layout, split=split, flows=flows)
    total = sum(len(video) for video in videos.videos)
    with frame_progress("inspect", total) as advance:
        videos, problems = check_for_training(videos, depth="headers", skip_bad=skip_bad, advance=advance)
    for problem in problems:
        print(f"left out: {problem}")
    with frame_progress("pack", sum(len(video) for video in videos.videos)) as advance:
        packed = pack_dataset(
            videos,
            out,
            form,
            frames_per_shard=frames_per_shard,
            workers=os.cpu_count() or 1 if workers is None else workers,
            advance=lambda name, frames: advance(frames),
        )
    size_mb = sum(path.stat().st_size for path in packed.shards) / 1e6
    print(f"{out}: {len(packed)} videos in {len(packed.shards)} shards, {size_mb:.0f} MB")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("pack")(pack)
