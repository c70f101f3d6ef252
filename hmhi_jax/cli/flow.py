"""`hmhi flow`: flow pictures of a data set."""

from pathlib import Path
from typing import Annotated

import typer

DatasetArgument = Annotated[Path, typer.Argument(help="Folder of the data set.", metavar="DATASET")]
LayoutOption = Annotated[str | None, typer.Option(help="Its layout, by name; recognised if not given.")]
SplitOption = Annotated[str | None, typer.Option(help="One split, such as train; all of them if not given.")]


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
        str | None, typer.Option(help="dis (on the CPU), or raft: a flow network, see docs/flow.md.")
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
        int | None, typer.Option(min=1, help="Of raft: how often the flow is improved. [default: 12]")
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="Of raft: compute in float32, tensorfloat32 (on GPUs) or bfloat16.")
    ] = "float32",
    devices: Annotated[
        int | None, typer.Option(min=1, help="Of raft: devices to spread the work over. Default: all there are.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="ultrafast, fast or medium (DIS).")] = None,
    neighbours: Annotated[str | None, typer.Option(help="next, or both: see docs/data.md.")] = None,
    camera: Annotated[str | None, typer.Option(help="none, or affine: take the camera's motion out.")] = None,
    size: Annotated[tuple[int, int] | None, typer.Option(help="Height and width at which flow is estimated.")] = None,
    normalisation: Annotated[str | None, typer.Option(help="max or robust: what length gets full colour.")] = None,
    format: Annotated[str, typer.Option(help="jpg, as the release expects, or png.")] = "jpg",
    quality: Annotated[int, typer.Option(help="Of jpg, 1 to 100.")] = 95,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; as many as cores if not given.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Make all again, whatever is there.")] = False,
) -> None:
    """Make the flow pictures of a data set, next to its frames.

    What is there already stays: stopped or killed, the same command goes on. A picture shows the flow from its frame to
    the next one, that of a video's last frame the flow back to the one before.
    """
    from hmhi_jax.data.flow_pictures import FlowFormat
    from hmhi_jax.runs.flow import run

    fields = {
        "estimator": estimator, "preset": preset, "neighbours": neighbours, "camera": camera, "size": size,
        "normalisation": normalisation, "iterations": iterations,
    }  # fmt: skip
    run(
        dataset, out, layout=layout, split=split, recipe=recipe, flow_weights=flow_weights, dtype=dtype,
        fields={name: value for name, value in fields.items() if value is not None},
        format=FlowFormat(format, quality), workers=workers, devices=devices, overwrite=overwrite,
    )  # fmt: skip


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("flow")(flow)
