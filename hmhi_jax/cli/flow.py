"""`hmhi flow`: flow pictures of a data set."""

from pathlib import Path
from typing import Annotated

import typer

from hmhi_jax.cli.options import (
    COMPUTE_DTYPES,
    DatasetArgument,
    LayoutOption,
    SplitOption,
    WorkersOption,
    at_least,
    one_of,
)


def flow(
    dataset: DatasetArgument,
    out: Annotated[
        Path | None, typer.Option(help="Folder for `<video>/<frame>.jpg`, instead of the data set's own.")
    ] = None,
    layout: LayoutOption = None,
    split: SplitOption = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="WEIGHTS|JSON",
            help="How to draw flow: as these weights want it (a shipped name, a file, the folder of a training run or "
            "an export), or a recipe as JSON, in a file or as it stands; the options below change single fields.",
        ),
    ] = None,
    estimator: Annotated[
        str | None,
        typer.Option(
            help="dis (on the CPU), or raft: a flow network, see docs/flow.md.", callback=one_of("dis", "raft")
        ),
    ] = None,
    flow_weights: Annotated[
        str | None,
        typer.Option(
            metavar="WEIGHTS",
            help="Of raft: torchvision's file, its authors', one of `hmhi convert`, or the beginning of a name in "
            "PyTorch's hub cache. [default: raft_large]",
            show_default=False,
        ),
    ] = None,
    iterations: Annotated[
        int | None,
        typer.Option(
            help="Of raft: how often the flow is improved. [default: 12]", show_default=False, callback=at_least(1)
        ),
    ] = None,
    dtype: Annotated[
        str,
        typer.Option(
            metavar="TYPE", help=f"Of raft: compute in {', '.join(COMPUTE_DTYPES)}.", callback=one_of(*COMPUTE_DTYPES)
        ),
    ] = "float32",
    devices: Annotated[
        int | None,
        typer.Option(help="Of raft: devices to spread the work over. Default: all there are.", callback=at_least(1)),
    ] = None,
    preset: Annotated[str | None, typer.Option(help="ultrafast, fast or medium (DIS).")] = None,
    neighbours: Annotated[str | None, typer.Option(help="next, or both: see docs/data.md.")] = None,
    camera: Annotated[str | None, typer.Option(help="none, or affine: take the camera's motion out.")] = None,
    size: Annotated[tuple[int, int] | None, typer.Option(help="Height and width at which flow is estimated.")] = None,
    normalisation: Annotated[str | None, typer.Option(help="max or robust: what length gets full colour.")] = None,
    format: Annotated[str, typer.Option(help="jpg, as the release expects, or png.")] = "jpg",
    quality: Annotated[int, typer.Option(help="Of jpg, 1 to 100.")] = 95,
    workers: WorkersOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Make all again, whatever is there.")] = False,
) -> None:
    """Make the flow pictures of a data set, next to its frames.

    What is there already stays: stopped or killed, the same command goes on. A picture shows the flow from its frame to
    the next one, that of a video's last frame the flow back to the one before. Exit code 1: some could not be made.
    """
    from hmhi_jax.runs.flow import make_flow

    changes = {
        "estimator": estimator, "preset": preset, "neighbours": neighbours, "camera": camera, "size": size,
        "normalisation": normalisation, "iterations": iterations,
    }  # fmt: skip
    whole = make_flow(
        dataset, out=out, layout=layout, split=split, recipe=recipe, changes=changes, flow_weights=flow_weights,
        dtype=dtype, format=format, quality=quality, workers=workers, devices=devices, overwrite=overwrite,
    )  # fmt: skip
    raise typer.Exit(0 if whole else 1)
