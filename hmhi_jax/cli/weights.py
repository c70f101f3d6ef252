"""`hmhi convert`, `hmhi export`: weights from one kind of file to another, and the network as programs that run without
this package."""

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from hmhi_jax.cli.options import (
    COMPUTE_DTYPES,
    FlowRecipeOption,
    MemoryOption,
    expected,
    frames_between_looks,
    one_of,
    sides_of_input,
)

_PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def _names(platforms: str) -> list[str]:
    return [name.strip() for name in platforms.split(",") if name.strip()]


def convert(
    source: Annotated[
        Path,
        Argument(
            metavar="IN", help="A .pth, .safetensors, .npz, a checkpoint folder, a training run or a shipped name."
        ),
    ],
    target: Annotated[
        Path | None,
        Argument(metavar="OUT", help=".safetensors, .npz, .pth (the release's layout), or a folder (Orbax)."),
    ] = None,
    check: Annotated[bool, Option("--check", help="Only say what IN is and what it fits.")] = False,
    names: Annotated[
        str, Option(help="Names in .safetensors and .npz: ours, or torch.", callback=one_of("ours", "torch"))
    ] = "ours",
    dtype: Annotated[
        str, Option(help="float32, bfloat16 or float16.", callback=one_of("float32", "bfloat16", "float16"))
    ] = "float32",
    backbone: Annotated[str | None, Option(help="The network's backbone; recognised if not given.")] = None,
    memory_frames: Annotated[
        int | None, Option(min=1, help="Capacity of the memory, which weights do not show (3).")
    ] = None,
    input_size: Annotated[
        tuple[int, int] | None,
        Option(help="Height and width the weights were trained for (512 512).", callback=sides_of_input),
    ] = None,
    flow: FlowRecipeOption = None,
    every: Annotated[
        int | None,
        Option(
            help="At every so many frames of a video the network is to look, unless told (1).",
            callback=frames_between_looks,
        ),
    ] = None,
) -> None:
    """Convert weights: the release's checkpoints, ImageNet encoders under the names people have them, RAFT's, and ours.

    Reading a .pth needs no PyTorch and executes nothing in it. Whatever has no place in the network is dropped by rule
    and listed; anything else missing or left over is an error.
    """
    from hmhi_jax.runs import weights as runs

    fits = runs.convert(
        source, target, check=check, names=names, dtype=dtype, backbone=backbone, memory_frames=memory_frames,
        input_size=input_size, flow=flow, every=every,
    )  # fmt: skip
    raise typer.Exit(0 if fits else 1)


def export(
    folder: Annotated[Path, Argument(help="Folder to write.", show_default=False)],
    weights: Annotated[str, Option(help="A shipped name, a `.safetensors` file, or a training folder.")] = "small",
    size: Annotated[
        tuple[int, int] | None,
        Option(
            metavar="HEIGHT WIDTH",
            help="Input size, multiples of 32; what the weights were trained for if not given.",
            callback=sides_of_input,
        ),
    ] = None,
    memory_frames: MemoryOption = None,
    batch: Annotated[int, Option(min=1, help="Videos that go through together.")] = 1,
    dtype: Annotated[
        str, Option(metavar="TYPE", help=f"Compute in {', '.join(COMPUTE_DTYPES)}.", callback=one_of(*COMPUTE_DTYPES))
    ] = "float32",
    platforms: Annotated[
        str,
        Option(
            help="Comma-separated, out of cpu, cuda, rocm, tpu.",
            callback=expected(
                f"names out of {', '.join(_PLATFORMS)}, such as 'cpu,cuda'",
                lambda given: bool(_names(given)) and set(_names(given)) <= set(_PLATFORMS),
            ),
        ),
    ] = "cpu,cuda,tpu",
    beside: Annotated[bool, Option("--beside", help="Parameters in a file beside, not inside each program.")] = False,
) -> None:
    """Write encode, start and step as StableHLO, for several platforms at once, with the memory handed in and back.

    `VideoSegmenter.load(FOLDER)` and `hmhi segment --weights FOLDER` take the folder; `examples/run_export.py` shows
    how to run it with nothing but JAX.
    """
    from hmhi_jax.runs import weights as runs

    runs.export(
        folder, weights=weights, size=size, memory_frames=memory_frames, batch=batch, dtype=dtype,
        platforms=_names(platforms), beside=beside,
    )  # fmt: skip
