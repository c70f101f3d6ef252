"""`hmhi export`: the network as programs that run without this package."""

from pathlib import Path
from typing import Annotated

import typer

from hmhi_jax.cli.options import COMPUTE_DTYPES, MemoryOption, expected, one_of, sides_of_input

_PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def _names(platforms: str) -> list[str]:
    return [name.strip() for name in platforms.split(",") if name.strip()]


def export(
    folder: Annotated[Path, typer.Argument(help="Folder to write.", show_default=False)],
    weights: Annotated[
        str, typer.Option(help="A shipped name, a `.safetensors` file, or a training folder.")
    ] = "small",
    size: Annotated[
        tuple[int, int] | None,
        typer.Option(
            metavar="HEIGHT WIDTH",
            help="Input size, multiples of 32; what the weights were trained for if not given.",
            callback=sides_of_input,
        ),
    ] = None,
    memory_frames: MemoryOption = None,
    batch: Annotated[int, typer.Option(min=1, help="Videos that go through together.")] = 1,
    dtype: Annotated[
        str,
        typer.Option(metavar="TYPE", help=f"Compute in {', '.join(COMPUTE_DTYPES)}.", callback=one_of(*COMPUTE_DTYPES)),
    ] = "float32",
    platforms: Annotated[
        str,
        typer.Option(
            help="Comma-separated, out of cpu, cuda, rocm, tpu.",
            callback=expected(
                f"names out of {', '.join(_PLATFORMS)}, such as 'cpu,cuda'",
                lambda given: bool(_names(given)) and set(_names(given)) <= set(_PLATFORMS),
            ),
        ),
    ] = "cpu,cuda,tpu",
    beside: Annotated[
        bool, typer.Option("--beside", help="Parameters in a file beside, not inside each program.")
    ] = False,
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
