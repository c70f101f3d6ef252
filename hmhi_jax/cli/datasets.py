"""`hmhi flow`, `hmhi inspect`, `hmhi pack`, `hmhi synthesise`: a data set's flow pictures, what it holds and what is
wrong with it, its packed form, and made-up clips with exact masks."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from typer import Argument, Option

from hmhi_jax.cli.options import (
    COMPUTE_DTYPES,
    DatasetArgument,
    FlowIterationsOption,
    FlowsOption,
    FlowWeightsOption,
    LayoutOption,
    SplitOption,
    WorkersOption,
    WorkersOrNoneOption,
    at_least,
    one_of,
)


def flow(
    dataset: DatasetArgument,
    out: Annotated[Path | None, Option(help="Folder for `<video>/<frame>.jpg`, instead of the data set's own.")] = None,
    layout: LayoutOption = None,
    split: SplitOption = None,
    recipe: Annotated[
        str | None,
        Option(
            metavar="WEIGHTS|JSON",
            help="How to draw flow: as these weights want it (a shipped name, a file, the folder of a training run or "
            "an export), or a recipe as JSON, in a file or as it stands; the options below change single fields.",
        ),
    ] = None,
    estimator: Annotated[
        str | None,
        Option(help="dis (on the CPU), or raft: a flow network, see docs/flow.md.", callback=one_of("dis", "raft")),
    ] = None,
    flow_weights: FlowWeightsOption = None,
    iterations: FlowIterationsOption = None,
    dtype: Annotated[
        str,
        Option(
            metavar="TYPE", help=f"Of raft: compute in {', '.join(COMPUTE_DTYPES)}.", callback=one_of(*COMPUTE_DTYPES)
        ),
    ] = "float32",
    devices: Annotated[
        int | None,
        Option(help="Of raft: devices to spread the work over. Default: all there are.", callback=at_least(1)),
    ] = None,
    preset: Annotated[str | None, Option(help="ultrafast, fast or medium (DIS).")] = None,
    neighbours: Annotated[str | None, Option(help="next, or both: see docs/data.md.")] = None,
    camera: Annotated[str | None, Option(help="none, or affine: take the camera's motion out.")] = None,
    size: Annotated[tuple[int, int] | None, Option(help="Height and width at which flow is estimated.")] = None,
    normalisation: Annotated[str | None, Option(help="max or robust: what length gets full colour.")] = None,
    format: Annotated[str, Option(help="jpg, as the release expects, or png.")] = "jpg",
    quality: Annotated[int, Option(help="Of jpg, 1 to 100.")] = 95,
    workers: WorkersOption = None,
    overwrite: Annotated[bool, Option("--overwrite", help="Make all again, whatever is there.")] = False,
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


def inspect(
    dataset: DatasetArgument,
    layout: LayoutOption = None,
    split: SplitOption = None,
    flows: FlowsOption = None,
    quick: Annotated[bool, Option("--quick", help="Sizes and ends of files only; decode nothing.")] = False,
    without_flow: Annotated[bool, Option("--without-flow", help="Missing flow pictures are no problem.")] = False,
    without_masks: Annotated[bool, Option("--without-masks", help="Videos without masks are no problem.")] = False,
    workers: Annotated[int | None, Option(min=1, help="Threads; as many as cores if not given.")] = None,
) -> None:
    """Count videos, frames and sizes of a data set and list every problem.

    Problems are what training refuses: unreadable pictures, missing flow, masks of another size than their frame, empty
    videos, videos without masks. The exit code is 1 when there are any.
    """
    from hmhi_jax.runs import datasets

    fine = datasets.inspect(
        dataset, layout=layout, split=split, flows=flows, quick=quick, without_flow=without_flow,
        without_masks=without_masks, workers=workers,
    )  # fmt: skip
    raise typer.Exit(0 if fine else 1)


def pack(
    dataset: DatasetArgument,
    out: Annotated[Path, Argument(help="Folder for the shards and their index.")],
    layout: LayoutOption = None,
    split: SplitOption = None,
    flows: FlowsOption = None,
    size: Annotated[
        tuple[int, int] | None, Option(help="Height and width: pack at training size, not the files as they are.")
    ] = None,
    quality: Annotated[
        int | None, Option(help="With --size: of JPEG or WebP, 1 to 100 (95); 0 stores PNG, without loss.")
    ] = None,
    codec: Annotated[
        Literal["jpeg", "webp"], Option(help="With --size: webp takes half the space of jpeg, and longer to read.")
    ] = "jpeg",
    frames_per_shard: Annotated[int, Option(min=1, help="A shard is closed at about this many frames.")] = 4096,
    skip_bad: Annotated[bool, Option("--skip-bad", help="Leave out videos with problems.")] = False,
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


def synthesise(
    out: Annotated[Path, Argument(help="Folder for the packed clips; made when missing, continued when begun.")],
    clips: Annotated[int, Option(min=1, help="How many clips.")] = 1000,
    seed: Annotated[int, Option(min=0, help="Clip i of a seed is always the same; use another seed to validate.")] = 0,
    preset: Annotated[
        Literal["default", "photographic"],
        Option(
            help="default: objects made of parts, before textures. photographic: also cut-outs, photographs, smoke and "
            "more, larger and longer clips. Options below change single settings of it."
        ),
    ] = "default",
    height: Annotated[int | None, Option(help="Frame height in pixels.")] = None,
    width: Annotated[int | None, Option(help="Frame width in pixels.")] = None,
    least_frames: Annotated[int | None, Option(help="Frames of the shortest clips.")] = None,
    most_frames: Annotated[int | None, Option(help="Frames of the longest clips.")] = None,
    flow: Annotated[
        str | None, Option(help="Flow recipe as JSON; camera compensated at frame size if not given.")
    ] = None,
    pictures: Annotated[
        list[Path] | None,
        Option(
            help="Folder of photographs (textures, backdrops) and cut-outs (pictures with opacity), or an unpacked "
            "Debian package that hmhi_jax/tools/synthetic/pictures.py knows; repeatable."
        ),
    ] = None,
    without: Annotated[list[str] | None, Option(help="A feature to leave out, such as shadows; repeatable.")] = None,
    workers: WorkersOrNoneOption = None,
    sheet: Annotated[bool, Option(help="Also write sheet.png, the first twelve clips to look at.")] = True,
) -> None:
    """Make video clips of moving things, with exact masks and flow pictures, and pack them for training.

    Nothing is downloaded. Photographs that scikit-image, scikit-learn and Matplotlib carry serve as textures where
    these packages are installed (`pip install "hmhi-jax[synthetic]"`); cut-outs and backdrops come from Debian's
    openclipart-png, tuxpaint-stamps-default and lomiri-wallpapers-16.04, likewise. Stopped or killed, the same command
    goes on.
    """
    from hmhi_jax.runs import datasets

    datasets.synthesise(
        out, clips=clips, seed=seed, preset=preset, height=height, width=width, least_frames=least_frames,
        most_frames=most_frames, flow=flow, pictures=pictures or [], without=without or [], workers=workers,
        sheet=sheet,
    )  # fmt: skip
