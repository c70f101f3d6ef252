"""`hmhi compare`: the authors' release and ours on the same frames, map by map, with a verdict."""

from pathlib import Path
from typing import Annotated

import typer

from hmhi_jax.cli.options import FlowRecipeOption, side_of_input


def compare(
    release: Annotated[Path, typer.Option(metavar="CLONE", help="Clone of the authors' release.")],
    input: Annotated[str, typer.Option(metavar="VIDEO", help="A video file or a folder of frames.")],
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="C", help="Weights of both sides; drawn from a seed if not given.")
    ] = None,
    python: Annotated[str, typer.Option(help="A Python with torch and numpy.")] = "python3",
    device: Annotated[str, typer.Option(help="PyTorch's device for the release: cpu or cuda.")] = "cpu",
    backbone: Annotated[str, typer.Option(help="Without a checkpoint: the network's backbone.")] = "mit_b1",
    seed: Annotated[int, typer.Option(help="Without a checkpoint: seed of the weights.")] = 0,
    size: Annotated[int, typer.Option(help="Side of the square both sides work at.", callback=side_of_input)] = 512,
    frames: Annotated[int, typer.Option(min=1, help="How many frames.")] = 8,
    memory_frames: Annotated[int | None, typer.Option(min=1, help="Capacity of the memory (3).")] = None,
    train: Annotated[int, typer.Option(min=0, metavar="N", help="Compare N training steps instead.")] = 0,
    clip_frames: Annotated[int, typer.Option(min=2, help="With --train: frames of a clip.")] = 3,
    tolerance: Annotated[float, typer.Option(min=0, help="Largest deviation, relative to a map's scale.")] = 1e-3,
    flow: FlowRecipeOption = None,
    out: Annotated[Path | None, typer.Option(help="Folder for report.json and report.html.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep every map of both sides in OUT/arrays.")] = False,
) -> None:
    """Run the authors' release and this package on the same frames with the same weights, and say how far they differ.

    The release runs from your clone as it is, in a Python of its own that has torch; what it imports and your machine
    lacks is lent at run time. Exit code 1 if a map leaves the tolerance, naming the first that does.
    """
    from hmhi_jax.tools.compare import compare as tool

    good = tool.compare(
        release, input, checkpoint=checkpoint, python=python, device=device, backbone=backbone, seed=seed, size=size,
        frames=frames, memory_frames=memory_frames, train=train, clip_frames=clip_frames, tolerance=tolerance,
        flow=flow, out=out, keep=keep,
    )  # fmt: skip
    raise typer.Exit(0 if good else 1)
