"""`hmhi segment`: videos in, masks out."""

import os
import re
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from hmhi_jax.cli.options import (
    COMPUTE_DTYPES,
    FlowIterationsOption,
    FlowWeightsOption,
    WeightsOption,
    at_least,
    expected,
    frames_between_looks,
    grouped,
    network_size,
    one_of,
)
from hmhi_jax.errors import InputError
from hmhi_jax.progress import doing

_MOST_MEMORY_FRAMES = 1000


def _few_enough(context: Any, parameter: Any, frames: int | None) -> int | None:
    cost = "each takes up to some megabytes, and every frame reads them all"
    most = expected(f"at most {_MOST_MEMORY_FRAMES}; {cost}", lambda number: number <= _MOST_MEMORY_FRAMES)
    return most(context, parameter, at_least(1)(context, parameter, frames))


def _check_outside(out: Path, inputs: list[str]) -> None:
    """Results inside a folder that is searched would be found there as videos by the next command."""
    for given in inputs:
        folder = Path(given if os.path.lexists(given) else os.path.expanduser(given))
        if given and os.path.isdir(folder) and out.resolve().is_relative_to(folder.resolve()):
            raise InputError(
                f"--out {out}: is inside the input {given}, where results would be taken for videos to segment; "
                "choose a folder beside it"
            )


@grouped(
    What_is_segmented="start end max_frames cuts shard frame_rate rate timeout",
    How="weights size network_size_ flow flow_weights flow_iterations memory_frames every dtype backbone chunk devices",
    Masks="threshold refine min_area fill_holes grow feather steady objects nothing",
    What_is_written="out soft overlay cutout matte rgba exr palette coco youtube_vis start_number padding prefix",
    Going_on="save_every resume overwrite",
)
def segment(
    inputs: Annotated[
        list[str],
        Argument(
            metavar="INPUT...",
            help="Video files, folders of frames, folders of either, a camera's number, a URL, or `-`.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        Option(
            "--out",
            "-o",
            show_default=False,
            help="Folder for the results; several videos get a folder each in it. Or a .mov or .webm file for the "
            "cut-out of one video; its other results go into a folder beside it. `-`: masks on standard output.",
        ),
    ],
    weights: WeightsOption = "small",
    flow: Annotated[
        str,
        Option(
            help="`dis` (estimate it as the weights want it), `raft` (estimate it by a flow network), or a folder of "
            "flow pictures or .flo files named like the frames."
        ),
    ] = "dis",
    flow_weights: FlowWeightsOption = None,
    flow_iterations: FlowIterationsOption = None,
    size: Annotated[
        str | None,
        Option(
            metavar="HxW",
            help="Size the network runs at, multiples of 32; `auto` keeps the video's shape. "
            "Default: what the weights were trained for.",
        ),
    ] = None,
    threshold: Annotated[
        float,
        Option(
            help="Probability above which a pixel is foreground.",
            callback=expected("a probability between 0 and 1, such as 0.5", lambda value: 0 < value < 1),
        ),
    ] = 0.5,
    refine: Annotated[
        bool | None,
        Option(
            "--refine/--no-refine",
            help="Let masks keep to the edges of the frames and to the colours that the object has had so far. "
            "Default: where frames have at least 1.75 times the network's pixels.",
        ),
    ] = None,
    soft: Annotated[bool, Option("--soft", help="Also write 8-bit probabilities, `soft/<frame>.png`.")] = False,
    overlay: Annotated[
        bool | None, Option("--overlay/--no-overlay", help="Write overlay.mp4. Default: unless --out is a file.")
    ] = None,
    cutout: Annotated[
        str | None,
        Option(
            metavar="mov|webm",
            help="Also write the video with all but the object transparent: `mov` is ProRes 4444, `webm` VP9.",
            callback=one_of("mov", "webm"),
        ),
    ] = None,
    matte: Annotated[bool, Option("--matte", help="Also write matte.mp4, black and white.")] = False,
    rgba: Annotated[bool, Option("--rgba", help="Also write the cut-out as `rgba/<frame>.png`.")] = False,
    exr: Annotated[
        bool, Option("--exr", help="Also write OpenEXR, a channel for each object, `exr/<frame>.exr`.")
    ] = False,
    palette: Annotated[
        bool, Option("--palette", help="Also write object ids as DAVIS does, `objects/<frame>.png`.")
    ] = False,
    coco: Annotated[bool, Option("--coco", help="Also write coco.json: masks as COCO's run lengths.")] = False,
    youtube_vis: Annotated[
        bool, Option("--youtube-vis", help="Also write youtube_vis.json: the same, object by object.")
    ] = False,
    start_number: Annotated[
        int | None,
        Option(
            metavar="N",
            help="Call the first frame so, the next N + 1.",
            callback=expected("a number from 0 on", lambda number: number >= 0),
        ),
    ] = None,
    padding: Annotated[
        int | None,
        Option(
            metavar="DIGITS",
            help="Digits of a frame's number. [default: 5]",
            show_default=False,
            callback=expected("1 to 12 digits", lambda digits: 1 <= digits <= 12),
        ),
    ] = None,
    prefix: Annotated[
        str | None,
        Option(
            help="What stands before a frame's number.",
            callback=expected("a part of a file's name", lambda text: not re.search(r"^\.|[/\\\x00]", text)),
        ),
    ] = None,
    memory_frames: Annotated[
        int | None, Option(help="Frames the memory holds. Default: what the weights say.", callback=_few_enough)
    ] = None,
    every: Annotated[
        int | None,
        Option(
            metavar="N",
            help="Let the network look at every N-th frame only, and at fewer where little changes; masks are carried "
            "along the motion to those between. 1: at all of them. Default: what the weights say (small: 3).",
            callback=frames_between_looks,
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        Option(
            metavar="TYPE",
            help=f"Compute in {', '.join(COMPUTE_DTYPES)}. Default: tensorfloat32, on CPUs the same as float32; or "
            "what an export was made for.",
            callback=one_of(*COMPUTE_DTYPES),
        ),
    ] = None,
    backbone: Annotated[str | None, Option(metavar="NAME", help="Refuse weights of any other backbone.")] = None,
    max_frames: Annotated[
        int | None, Option(help="Stop after so many frames of each video.", callback=at_least(1))
    ] = None,
    frame_rate: Annotated[
        float | None,
        Option(
            help="Frames per second of folders of frames. [default: 24]",
            show_default=False,
            callback=expected("frames per second, 0.01 to 1000", lambda rate: 0.01 <= rate <= 1000),
        ),
    ] = None,
    timeout: Annotated[
        float | None,
        Option(
            metavar="SECONDS",
            help="How long to wait for a camera, pipe or URL to answer, and for its next frame. [default: 10, and 30 "
            "between frames]",
            show_default=False,
            callback=expected("seconds, more than 0", lambda seconds: seconds > 0),
        ),
    ] = None,
    chunk: Annotated[
        int | None,
        Option(
            help="Frames encoded in one batch. Default: 1 on CPU, 8 on accelerators.",
            callback=expected("1 to 1024 frames", lambda frames: 1 <= frames <= 1024),
        ),
    ] = None,
    devices: Annotated[
        int | None, Option(help="Devices to spread several videos over. Default: all there are.", callback=at_least(1))
    ] = None,
    save_every: Annotated[
        int,
        Option(
            help="Save the memory after so many frames, to go on from there; 0: never.",
            callback=expected("a number of frames, or 0 for never", lambda frames: frames >= 0),
        ),
    ] = 100,
    resume: Annotated[
        bool, Option("--resume/--no-resume", help="Go on with unfinished videos from the saved memory.")
    ] = True,
    overwrite: Annotated[
        bool, Option("--overwrite", help="Replace results that were made from other input or otherwise.")
    ] = False,
    min_area: Annotated[int, Option(metavar="PIXELS", help="Remove parts of fewer pixels.", callback=at_least(0))] = 0,
    fill_holes: Annotated[
        int, Option(metavar="PIXELS", help="Fill holes of up to so many pixels.", callback=at_least(0))
    ] = 0,
    grow: Annotated[
        float,
        Option(
            metavar="PIXELS",
            help="Let the object grow on all sides; negative: shrink.",
            callback=expected("pixels, -1000 to 1000", lambda pixels: abs(pixels) <= 1000),
        ),
    ] = 0.0,
    feather: Annotated[
        float,
        Option(
            metavar="PIXELS",
            help="Let the edge fade over so many pixels to either side; masks then have values from 0 to 255.",
            callback=expected("pixels, 0 to 1000", lambda pixels: 0 <= pixels <= 1000),
        ),
    ] = 0.0,
    steady: Annotated[
        float,
        Option(
            metavar="SHARE",
            help="Damp flicker along the motion: what share of the frame before stays, such as 0.6; less than a half "
            "changes nothing but feathered edges.",
            callback=expected("a share from 0 to 0.99", lambda share: 0 <= share <= 0.99),
        ),
    ] = 0.0,
    objects: Annotated[
        int | None,
        Option(
            metavar="N",
            help="Number at most N objects through the video: label pictures, `objects/<frame>.png`.",
            callback=expected("1 to 200 objects", lambda number: 1 <= number <= 200),
        ),
    ] = None,
    nothing: Annotated[
        bool,
        Option(
            "--nothing-here/--no-nothing-here",
            help="Empty and mark the masks of frames in which, by the weights' calibrated confidence, nothing moves by "
            "itself.",
        ),
    ] = True,
    start: Annotated[
        str | None,
        Option(
            metavar="POSITION",
            help="First frame: its number (120), seconds (4.8 or 4s), a time (0:04.8), or a time code (00:00:04:20).",
        ),
    ] = None,
    end: Annotated[
        str | None, Option(metavar="POSITION", help="The frame to stop before, written in the same ways.")
    ] = None,
    cuts: Annotated[
        str,
        Option(
            metavar="auto|off|FILE",
            help="Changes of shot, where the memory is emptied: found, none, or a file with one POSITION a line.",
        ),
    ] = "auto",
    shard: Annotated[
        str | None,
        Option(metavar="I/N", help="Take every N-th video, from the I-th on (0 to N-1): number I of N machines."),
    ] = None,
    rate: Annotated[
        float | None,
        Option(
            help="Raw 8-bit RGB pictures are on standard input (`-`), so many a second; --size is then THEIR size, "
            "WIDTHxHEIGHT.",
            callback=expected("pictures per second, 0.01 to 1000", lambda rate: 0.01 <= rate <= 1000),
        ),
    ] = None,
    network_size_: Annotated[
        str | None, Option("--network-size", metavar="HxW", help="What --size is where no raw pictures come.")
    ] = None,
) -> None:
    """Segment the salient moving object of videos.

    Writes `masks/<frame>.png` (0 and 255, at the video's size), overlay.mp4, sheet.png to look at, and summary.json.
    Started again after an interruption, it skips what is finished and goes on where it stopped. A camera runs
    until Ctrl-C, its masks late by a frame, or with --every by up to 16 (flow needs the next frame).
    """
    doing("starting")
    from hmhi_jax.inference.clean_up import CleanUp
    from hmhi_jax.inference.result_folder import Outputs
    from hmhi_jax.runs.segment import Sources, run

    raw_size = None if rate is None else size
    if rate is None and None not in (size, network_size_):
        raise InputError(f"--size {size} and --network-size {network_size_}: are the same here, expected one of them")
    size = network_size_ if rate is not None else size or network_size_
    sources = Sources(start, end, cuts, shard, raw_size, rate, timeout)
    sides = network_size(size)
    if flow == "none":
        raise InputError(
            "--flow none: the network sees motion through the flow picture, and its weights were trained with one; "
            "without it the masks would be arbitrary. Take 'dis', or a folder of flow pictures"
        )
    if str(out) != "-":
        _check_outside(out, inputs)
    outputs = Outputs(
        cutout=cutout, matte=matte, rgba=rgba, exr=exr, palette=palette, coco=coco, youtube_vis=youtube_vis,
        start_number=start_number, padding=padding, prefix=prefix,
    )  # fmt: skip
    try:
        code = run(
            inputs, out, weights=weights, flow=flow, flow_weights=flow_weights, flow_iterations=flow_iterations,
            size=size, network_size=sides, threshold=threshold, refine=refine, soft=soft, overlay=overlay,
            outputs=outputs, memory_frames=memory_frames, every=every, dtype=dtype, backbone=backbone,
            max_frames=max_frames, frame_rate=frame_rate, chunk=chunk, devices=devices, save_every=save_every,
            resume=resume, overwrite=overwrite, sources=sources,
            clean_up=CleanUp(min_area, fill_holes, grow, feather, steady), objects=objects, nothing=nothing,
        )  # fmt: skip
    except KeyboardInterrupt as error:
        typer.echo(f"stopped; {str(error) or 'the same command goes on with what is unfinished'}", err=True)
        raise typer.Exit(130) from error
    raise typer.Exit(code)
