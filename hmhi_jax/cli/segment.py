"""`hmhi segment`: videos in, masks out."""

from pathlib import Path
from typing import Annotated

import typer

from hmhi_jax.cli.segment_options import check_numbers, parse_size, refuse_inside
from hmhi_jax.errors import InputError


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(segment)


def segment(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="Video files, folders of frames, folders of either, a camera's number, or a URL.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="Folder for the results; several videos get a folder each in it.", show_default=False
        ),
    ],
    weights: Annotated[
        str,
        typer.Option(help="A shipped name, a .safetensors file, a folder of training or converted, or an export."),
    ] = "tiny",
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
        int | None, typer.Option(min=1, help="Of `raft`: how often the flow is improved. [default: 12]")
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="HxW",
            help="Size the network runs at, multiples of 32; `auto` keeps the video's shape. "
            "Default: what the weights were trained for.",
        ),
    ] = None,
    threshold: Annotated[float, typer.Option(help="Probability above which a pixel is foreground.")] = 0.5,
    soft: Annotated[bool, typer.Option("--soft", help="Also write 8-bit probabilities, `soft/<frame>.png`.")] = False,
    overlay: Annotated[bool, typer.Option("--overlay/--no-overlay", help="Write overlay.mp4.")] = True,
    memory_frames: Annotated[
        int | None, typer.Option(help="Frames the memory holds. Default: what the weights say.")
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            metavar="TYPE", help="Compute in `float32` or `bfloat16`. Default: float32, or what an export was made for."
        ),
    ] = None,
    backbone: Annotated[str | None, typer.Option(metavar="NAME", help="Refuse weights of any other backbone.")] = None,
    max_frames: Annotated[int | None, typer.Option(help="Stop after so many frames of each video.")] = None,
    frame_rate: Annotated[
        float | None, typer.Option(help="Frames per second of folders of frames. [default: 24]", show_default=False)
    ] = None,
    chunk: Annotated[
        int | None, typer.Option(help="Frames encoded in one batch. Default: 1 on CPU, 8 on accelerators.")
    ] = None,
    devices: Annotated[
        int | None, typer.Option(help="Devices to spread several videos over. Default: all there are.")
    ] = None,
    save_every: Annotated[
        int, typer.Option(help="Save the memory after so many frames, to go on from there; 0: never.")
    ] = 100,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Go on with unfinished videos from the saved memory.")
    ] = True,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace results that were made from other input or otherwise.")
    ] = False,
) -> None:
    """Segment the salient moving object of videos.

    Writes `masks/<frame>.png` (0 and 255, at the video's size), overlay.mp4, sheet.png to look at, and summary.json.
    Started again after an interruption, it skips what is finished and goes on where it stopped. A camera (one frame
    late, since flow needs the next frame) runs until Ctrl-C.
    """
    from hmhi_jax.runs.segment import run

    network_size = parse_size(size)
    check_numbers(
        threshold=threshold, memory_frames=memory_frames, dtype=dtype, max_frames=max_frames, frame_rate=frame_rate,
        chunk=chunk, devices=devices, save_every=save_every,
    )  # fmt: skip
    if flow == "none":
        raise InputError(
            "--flow none: the network sees motion through the flow picture, and its weights were trained with one; "
            "without it the masks would be arbitrary. Take 'dis', or a folder of flow pictures"
        )
    refuse_inside(out, inputs)
    try:
        done = run(
            inputs, out, weights=weights, flow=flow, flow_weights=flow_weights,
            flow_iterations=flow_iterations, size=size, network_size=network_size, threshold=threshold,
            soft=soft, overlay=overlay, memory_frames=memory_frames, dtype=dtype, backbone=backbone,
            max_frames=max_frames, frame_rate=frame_rate, chunk=chunk, devices=devices, save_every=save_every,
            resume=resume, overwrite=overwrite,
        )  # fmt: skip
    except KeyboardInterrupt as error:
        typer.echo("stopped; the same command goes on with what is unfinished", err=True)
        raise typer.Exit(130) from error
    if not done:
        raise typer.Exit(2)
