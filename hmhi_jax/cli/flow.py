"""`hmhi flow`: flow pictures of a data set."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from hmhi_jax.data.flow import FlowRecipe

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
    import dataclasses
    import os

    from hmhi_jax.data.flow import FlowRecipe
    from hmhi_jax.data.flow_pictures import FlowFormat, make_flow_pictures, missing_flows
    from hmhi_jax.data.layouts import open_dataset
    from hmhi_jax.errors import InputError
    from hmhi_jax.progress import frame_progress

    given = {"preset": preset, "neighbours": neighbours, "camera": camera, "size": size, "normalisation": normalisation}
    fields = {name: value for name, value in given.items() if value is not None}
    chosen = dataclasses.replace(_recipe(recipe) if recipe else FlowRecipe(), **fields)
    videos = open_dataset(dataset, layout=layout, split=split, flows=out)
    missing = missing_flows(videos, overwrite)
    frames = sum(len(video) for video in videos.videos)
    print(f"{dataset}: {videos.layout}, {len(videos)} videos, {frames} frames, {missing} flow pictures to make")
    with frame_progress("flow", missing) as advance:
        problems = make_flow_pictures(
            videos,
            chosen,
            format=FlowFormat(format, quality),
            workers=workers or os.cpu_count() or 1,
            overwrite=overwrite,
            advance=advance,
        )
    if problems:
        raise InputError(
            f"{dataset}: {len(problems)} of {missing} flow pictures could not be made:\n" + "\n".join(problems)
        )


def _recipe(text: str) -> "FlowRecipe":
    """A recipe from what was given as `--recipe`."""
    from hmhi_jax.data.flow import FlowRecipe
    from hmhi_jax.data.flow_pictures import read_recipe
    from hmhi_jax.inference.export import ExportedNetwork, is_export
    from hmhi_jax.interop.weights import load_weights

    if text.lstrip().startswith("{"):
        return FlowRecipe.from_json(text)
    if text.endswith(".json"):
        return read_recipe(Path(text).expanduser())
    return ExportedNetwork(text).flow_recipe if is_export(text) else load_weights(text).flow_recipe


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("flow")(flow)
