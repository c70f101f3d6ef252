"""`hmhi web`, `hmhi compare`, `hmhi report`, `hmhi plan`: a page in the browser, the authors' release and ours on the
same frames, scores of any method's masks, and what a training run needs on chips this machine does not have."""

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from hmhi_jax.cli.options import FlowRecipeOption, WeightsOption, WorkersOption, at_least, expected, side_of_input


def web(
    weights: WeightsOption = "small",
    port: Annotated[
        int,
        Option(help="Of the page's address; 0 takes any.", callback=expected("0 to 65535", range(65536).__contains__)),
    ] = 7860,
    max_megabytes: Annotated[int, Option(help="Of an upload.", callback=at_least(1))] = 500,
    max_frames: Annotated[int, Option(help="Of a video.", callback=at_least(1))] = 1500,
    browser: Annotated[bool, Option("--browser/--no-browser", help="Open the page in the browser.")] = True,
) -> None:
    """Open a page in the browser: a video in; masks, a matte, a cut-out, an overlay out.

    It is served to this computer alone (127.0.0.1), loads nothing from elsewhere and sends nothing anywhere. What was
    uploaded is deleted when the page is closed.
    """
    from hmhi_jax.runs import web as runs

    runs.web(weights=weights, port=port, max_megabytes=max_megabytes, max_frames=max_frames, browser=browser)


def compare(
    release: Annotated[Path, Option(metavar="CLONE", help="Clone of the authors' release.")],
    input: Annotated[str, Option(metavar="VIDEO", help="A video file or a folder of frames.")],
    checkpoint: Annotated[
        Path | None, Option(metavar="C", help="Weights of both sides; drawn from a seed if not given.")
    ] = None,
    python: Annotated[str, Option(help="A Python with torch and numpy.")] = "python3",
    device: Annotated[str, Option(help="PyTorch's device for the release: cpu or cuda.")] = "cpu",
    backbone: Annotated[str, Option(help="Without a checkpoint: the network's backbone.")] = "mit_b1",
    seed: Annotated[int, Option(help="Without a checkpoint: seed of the weights.")] = 0,
    size: Annotated[int, Option(help="Side of the square both sides work at.", callback=side_of_input)] = 512,
    frames: Annotated[int, Option(min=1, help="How many frames.")] = 8,
    memory_frames: Annotated[int | None, Option(min=1, help="Capacity of the memory (3).")] = None,
    train: Annotated[int, Option(min=0, metavar="N", help="Compare N training steps instead.")] = 0,
    clip_frames: Annotated[int, Option(min=2, help="With --train: frames of a clip.")] = 3,
    tolerance: Annotated[float, Option(min=0, help="Largest deviation, relative to a map's scale.")] = 1e-3,
    flow: FlowRecipeOption = None,
    out: Annotated[Path | None, Option(help="Folder for report.json and report.html.")] = None,
    keep: Annotated[bool, Option("--keep", help="Keep every map of both sides in OUT/arrays.")] = False,
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


def report(
    folders: Annotated[
        list[Path],
        Argument(
            help="Predictions of one or more methods, `<video>/<frame>.png`; the last folder is the ground truth "
            "unless --gt names it.",
            metavar="PRED... [GT]",
        ),
    ],
    gt: Annotated[
        Path | None, Option(help="Ground truth: a data set's folder, or masks as `<video>/<frame>.png`.")
    ] = None,
    out: Annotated[Path, Option(help="Folder for the report.")] = Path("report"),
    protocol: Annotated[
        list[str] | None,
        Option(help="davis16, davis16-inner, fbms, youtube-objects or vsod; repeat for several. Else davis16, vsod."),
    ] = None,
    reading: Annotated[
        list[str] | None,
        Option(
            help="plain: values as they are; release: every frame stretched to full contrast first. Both cut at "
            "128. Repeat for both; plain if not given."
        ),
    ] = None,
    name: Annotated[list[str] | None, Option(help="A method's name, in order; else its folder's.")] = None,
    videos: Annotated[Path | None, Option(help="Text file with the names of the videos to score, one a line.")] = None,
    frames: Annotated[
        Path | None, Option(help="RGB frames, `<video>/<frame>.jpg`, where they are not beside the masks.")
    ] = None,
    title: Annotated[str | None, Option(help="Heading of the page.")] = None,
    void_label: Annotated[
        int | None, Option(help="Value of pixels that do not count; 255 in palette pictures if not given.")
    ] = None,
    extra: Annotated[
        bool, Option("--extra/--no-extra", help="With vsod: also mean and adaptive F and E and weighted F.")
    ] = True,
    strict: Annotated[
        bool, Option("--strict", help="Refuse gaps, other sizes and other names instead of listing them.")
    ] = False,
    workers: WorkersOption = None,
) -> None:
    """Score masks of any method and write scores.json, scores.csv, scores.md and report.html.

    `hmhi report PRED GT` scores one method, `hmhi report A B --gt GT` compares several. Exit code 1: some
    file could not be read; the others are scored.
    """
    from hmhi_jax.tools.report.report import report as run

    whole = run(
        folders, gt=gt, out=out, protocols=protocol or ["davis16", "vsod"], readings=reading or ["plain"],
        names=name or [], videos=videos, frames=frames, title=title, void_label=void_label, extra=extra, strict=strict,
        workers=workers,
    )  # fmt: skip
    raise typer.Exit(0 if whole else 1)


def plan(
    config: Annotated[Path, Option(help="A file of configs/, or FILE.py:ARGUMENT.", show_default=False)],
    topology: Annotated[
        str,
        Option(
            help="CHIP:SHAPE, such as v5e:16x16, v5p:4x4x8, v4:2x2x1, v6e:8x8, or hosts x GPUs: h100:4x8, a100:8.",
            show_default=False,
        ),
    ],
    global_batch: Annotated[
        int | None, Option(min=1, help="Clips of a step over all chips. Default: the config's batch_size.")
    ] = None,
    checkpoint: Annotated[
        str | None,
        Option(help="Plan this policy only (none, read_outs, cheap, step). Default: the config's, then leaner ones."),
    ] = None,
    search: Annotated[bool, Option(help="Look for the largest batch a chip can take.")] = True,
    training: Annotated[bool, Option(help="Plan the training step.")] = True,
    inference: Annotated[bool, Option(help="Plan inference.")] = True,
    lanes: Annotated[int, Option(min=1, help="Videos a chip works on at once in inference.")] = 4,
    chunk: Annotated[int, Option(min=1, help="Frames of a video encoded together in inference.")] = 8,
    json_file: Annotated[Path | None, Option("--json", help="Write all figures there.")] = None,
    changes: Annotated[
        list[str] | None, Option("--set", metavar="FIELD=VALUE", help="Change the config: model.dtype=bfloat16.")
    ] = None,
) -> None:
    """Compile a run's training and inference step for chips that are not there: what fits, FLOPs, collectives.

    Needs the chips' compiler: `pip install "hmhi-jax[plan-tpu]"` or `"hmhi-jax[plan-cuda]"`. Compiling takes minutes
    the first time; what is found is kept.
    """
    from hmhi_jax.runs import plan as runs

    runs.plan(
        config, topology, changes=changes or [], global_batch=global_batch, checkpoint=checkpoint, search=search,
        training=training, inference=inference, lanes=lanes, chunk=chunk, json_file=json_file,
    )  # fmt: skip
