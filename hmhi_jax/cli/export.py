"""`hmhi export`: the network as programs that run without this package."""

from pathlib import Path
from typing import Annotated

import typer


def export(
    folder: Annotated[Path, typer.Argument(help="Folder to write.", show_default=False)],
    weights: Annotated[str, typer.Option(help="A shipped name, a `.safetensors` file, or a training folder.")] = "tiny",
    size: Annotated[
        tuple[int, int] | None,
        typer.Option(
            metavar="HEIGHT WIDTH", help="Input size, multiples of 32; what the weights were trained for if not given."
        ),
    ] = None,
    memory_frames: Annotated[int | None, typer.Option(min=1, help="Capacity of the memory.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Videos that go through together.")] = 1,
    dtype: Annotated[str, typer.Option(metavar="TYPE", help="`float32`, `tensorfloat32` or `bfloat16`.")] = "float32",
    platforms: Annotated[str, typer.Option(help="Comma-separated, out of cpu, cuda, rocm, tpu.")] = "cpu,cuda,tpu",
    beside: Annotated[
        bool, typer.Option("--beside", help="Parameters in a file beside, not inside each program.")
    ] = False,
) -> None:
    """Write encode, start and step as StableHLO, for several platforms at once, with the memory handed in and back.

    `VideoSegmenter.load(FOLDER)` and `hmhi segment --weights FOLDER` take the folder; `examples/run_export.py` shows
    how to run it with nothing but JAX.
    """
    from hmhi_jax.cli.segment_options import check_dtype
    from hmhi_jax.errors import InputError
    from hmhi_jax.inference.export import write_export
    from hmhi_jax.inference.segmenter import checked_size
    from hmhi_jax.interop.weights_file import load_weights

    chosen = [name.strip() for name in platforms.split(",") if name.strip()]
    if not chosen or set(chosen) - {"cpu", "cuda", "rocm", "tpu"}:
        raise InputError(f"--platforms {platforms}: expected names out of cpu, cuda, rocm, tpu, such as 'cpu,cuda'")
    check_dtype(dtype)
    found = load_weights(weights)
    arguments = {**found.model_arguments, "dtype": dtype}
    if memory_frames is not None:
        arguments["memory_frames"] = memory_frames
    write_export(
        folder,
        arguments,
        found.variables,
        size=checked_size(size or found.input_size),
        flow_recipe=found.flow_recipe,
        batch=batch,
        platforms=chosen,
        parameters_inside=not beside,
    )
    total = sum(file.stat().st_size for file in folder.iterdir()) / 2**20
    typer.echo(f"{folder}: encode, start and step for {', '.join(chosen)}, {total:.0f} MiB")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(export)
