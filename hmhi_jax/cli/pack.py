"""`hmhi pack`: a data set into ArrayRecord shards."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from hmhi_jax.cli.options import DatasetArgument, FlowsOption, LayoutOption, SplitOption, WorkersOrNoneOption

Codec = Literal["jpeg", "webp"]


def pack(
    dataset: DatasetArgument,
    out: Annotated[Path, typer.Argument(help="Folder for the shards and their index.")],
    layout: LayoutOption = None,
    split: SplitOption = None,
    flows: FlowsOption = None,
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
    workers: WorkersOrNoneOption = None,
) -> None:
    """Pack a data set with its flow pictures into a few large files, for object stores and pods.

    The packed folder is used like any data set and gives the same batches for the same seed (with --size, of the same
    size: nearly). Stopped or killed, the same command goes on.
    """
    from hmhi_jax.runs import datasets

    datasets.pack(
        dataset, out, layout=layout, split=split, flows=flows, size=size, quality=quality, codec=codec,
        frames_per_shard=frames_per_shard, skip_bad=skip_bad, workers=workers,
    )  # fmt: skip
