"""`hmhi convert`: weights from one kind of file to another, and what a file of weights is."""

from pathlib import Path
from typing import Annotated

import typer

from hmhi_jax.cli.options import FlowRecipeOption, one_of, sides_of_input


def convert(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="IN", help="A .pth, .safetensors, .npz, a checkpoint folder, a training run or a shipped name."
        ),
    ],
    target: Annotated[
        Path | None,
        typer.Argument(metavar="OUT", help=".safetensors, .npz, .pth (the release's layout), or a folder (Orbax)."),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Only say what IN is and what it fits.")] = False,
    names: Annotated[
        str, typer.Option(help="Names in .safetensors and .npz: ours, or torch.", callback=one_of("ours", "torch"))
    ] = "ours",
    dtype: Annotated[
        str,
        typer.Option(help="float32, bfloat16 or float16.", callback=one_of("float32", "bfloat16", "float16")),
    ] = "float32",
    backbone: Annotated[str | None, typer.Option(help="The network's backbone; recognised if not given.")] = None,
    memory_frames: Annotated[
        int | None, typer.Option(min=1, help="Capacity of the memory, which weights do not show (3).")
    ] = None,
    input_size: Annotated[
        tuple[int, int] | None,
        typer.Option(help="Height and width the weights were trained for (512 512).", callback=sides_of_input),
    ] = None,
    flow: FlowRecipeOption = None,
) -> None:
    """Convert weights: the release's checkpoints, ImageNet encoders under the names people have them, RAFT's, and ours.

    Reading a .pth needs no PyTorch and executes nothing in it. Whatever has no place in the network is dropped by rule
    and listed; anything else missing or left over is an error.
    """
    from hmhi_jax.runs import weights

    fits = weights.convert(
        source, target, check=check, names=names, dtype=dtype, backbone=backbone, memory_frames=memory_frames,
        input_size=input_size, flow=flow,
    )  # fmt: skip
    raise typer.Exit(0 if fits else 1)
