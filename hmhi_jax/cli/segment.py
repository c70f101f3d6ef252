"""`hmhi segment`: videos in, masks out."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from hmhi_jax.cli.options import COMPUTE_DTYPES, at_least, expected, network_size, one_of
from hmhi_jax.errors import InputError

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


def segment(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="Video files, folders of frames, folders of either, a camera's number, a URL, or `-`.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="Folder for the results; several videos get a folder each in it. `-`: masks on standard output.",
            show_default=False,
        ),
    ],
    weights: Annotated[
        str,
        typer.Option(help="A shipped name, a .safetensors file, a folder of training or converted, or an export."),
    ] = "small",
    flow: Annotated[
        str,
        typer.Option(
            help="`dis` (estimate it as the weights want it), `raft` (estimate it by a flow network), or a folder of "
            "flow pictures or .flo files named like the frames."
        ),
    ] = "dis",
    flow_weights: Annotated[
        str | None,
        typer.Option(
            metavar="WEIGHTS",
            help="Of `raft`: torchvision's file, its authors', one of `hmhi convert`, or the beginning of a name in "
            "PyTorch's hub cache. [default: raft_large]",
            show_default=False,
        ),
    ] = None,
    flow_iterations: Annotated[
        int | None,
        typer.Option(
            help="Of `raft`: how often the flow is improved. [default: 12]", show_default=False, callback=at_least(1)
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="HxW",
            help="Size the network runs at, multiples of 32; `auto` keeps the video's shape. "
            "Default: what the weights were trained for.",
        ),
    ] = None,
    threshold: Annotated[
        float,
        typer.Option(
            help="Probability above which a pixel is foreground.",
            callback=expected("a probability between 0 and 1, such as 0.5", lambda value: 0 < value < 1),
        ),
    ] = 0.5,
    soft: Annotated[bool, typer.Option("--soft", help="Also write 8-bit probabilities, `soft/<frame>.png`.")] = False,
    overlay: Annotated[bool, typer.Option("--overlay/--no-overlay", help="Write overlay.mp4.")] = True,
    memory_frames: Annotated[
        int | None,
        typer.Option(help="Frames the memory holds. Default: what the weights say.", callback=_few_enough),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            metavar="TYPE",
            help=f"Compute in {', '.join(COMPUTE_DTYPES)}. Default: float32, or what an export was made for.",
            callback=one_of(*COMPUTE_DTYPES),
        ),
    ] = None,
    backbone: Annotated[str | None, typer.Option(metavar="NAME", help="Refuse weights of any other backbone.")] = None,
    max_frames: Annotated[
        int | None, typer.Option(help="Stop after so many frames of each video.", callback=at_least(1))
    ] = None,
    frame_rate: Annotated[
        float | None,
        typer.Option(
            help="Frames per second of folders of frames. [default: 24]",
            show_default=False,
            callback=expected("frames per second, 0.01 to 1000", lambda rate: 0.01 <= rate <= 1000),
        ),
    ] = None,
    chunk: Annotated[
        int | None,
        typer.Option(help="Frames encoded in one batch. Default: 1 on CPU, 8 on accelerators.", callback=at_least(1)),
    ] = None,
    devices: Annotated[
        int | None,
        typer.Option(help="Devices to spread several videos over. Default: all there are.", callback=at_least(1)),
    ] = None,
    save_every: Annotated[
        int,
        typer.Option(
            help="Save the memory after so many frames, to go on from there; 0: never.",
            callback=expected("a number of frames, or 0 for never", lambda frames: frames >= 0),
        ),
    ] = 100,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Go on with unfinished videos from the saved memory.")
    ] = True,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace results that were made from other input or otherwise.")
    ] = False,
    start: Annotated[
        str | None,
        typer.Option(
            metavar="POSITION",
            help="First frame: its number (120), seconds (4.8 or 4s), a time (0:04.8), or a time code (00:00:04:20).",
        ),
    ] = None,
    end: Annotated[
        str | None, typer.Option(metavar="POSITION", help="The frame to stop before, written in the same ways.")
    ] = None,
    cuts: Annotated[
        str,
        typer.Option(
            metavar="auto|off|FILE",
            help="Changes of shot, where the memory is emptied: found, none, or a file with one POSITION a line.",
        ),
    ] = "auto",
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Take every N-th video, from the I-th on (0 to N-1): number I of N machines."),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            help="Raw 8-bit RGB pictures are on standard input (`-`), so many a second; --size is then THEIR size, "
            "WIDTHxHEIGHT.",
            callback=expected("pictures per second, 0.01 to 1000", lambda rate: 0.01 <= rate <= 1000),
        ),
    ] = None,
    network_size_: Annotated[
        str | None,
        typer.Option("--network-size", metavar="HxW", help="What --size is where no raw pictures come."),
    ] = None,
) -> None:
    """Segment the salient moving object of videos.

    Writes `masks/<frame>.png` (0 and 255, at the video's size), overlay.mp4, sheet.png to look at, and summary.json.
    Started again after an interruption, it skips what is finished and goes on where it stopped. A camera (one frame
    late, since flow needs the next frame) runs until Ctrl-C.
    """
    from hmhi_jax.runs.segment import Sources, run

    raw_size = None if rate is None else size
    if rate is None and None not in (size, network_size_):
        raise InputError(f"--size {size} and --network-size {network_size_}: are the same here, expected one of them")
    size = network_size_ if rate is not None else size or network_size_
    sources = Sources(start, end, cuts, shard, raw_size, rate)
    sides = network_size(size)
    if flow == "none":
        raise InputError(
            "--flow none: the network sees motion through the flow picture, and its weights were trained with one; "
            "without it the masks would be arbitrary. Take 'dis', or a folder of flow pictures"
        )
    if str(out) != "-":
        _check_outside(out, inputs)
    try:
        done = run(
            inputs, out, weights=weights, flow=flow, flow_weights=flow_weights, flow_iterations=flow_iterations,
            size=size, network_size=sides, threshold=threshold,
            soft=soft, overlay=overlay, memory_frames=memory_frames, dtype=dtype, backbone=backbone,
            max_frames=max_frames, frame_rate=frame_rate, chunk=chunk, devices=devices, save_every=save_every,
            resume=resume, overwrite=overwrite, sources=sources,
        )  # fmt: skip
    except KeyboardInterrupt as error:
        typer.echo("stopped; the same command goes on with what is unfinished", err=True)
        raise typer.Exit(130) from error
    if not done:
        raise typer.Exit(2)
