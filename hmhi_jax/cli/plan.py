"""`hmhi plan`: what a training run needs on chips this machine does not have."""

from pathlib import Path
from typing import Annotated

import typer


def plan(
    config: Annotated[Path, typer.Option(help="A file of configs/, or FILE.py:ARGUMENT.", show_default=False)],
    topology: Annotated[
        str,
        typer.Option(
            help="CHIP:SHAPE, such as v5e:16x16, v5p:4x4x8, v4:2x2x1, v6e:8x8, or hosts x GPUs: h100:4x8, a100:8.",
            show_default=False,
        ),
    ],
    global_batch: Annotated[
        int | None, typer.Option(min=1, help="Clips of a step over all chips. Default: the config's batch_size.")
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            help="Plan this policy only (none, read_outs, cheap, step). Default: the config's, then leaner ones."
        ),
    ] = None,
    search: Annotated[bool, typer.Option(help="Look for the largest batch a chip can take.")] = True,
    training: Annotated[bool, typer.Option(help="Plan the training step.")] = True,
    inference: Annotated[bool, typer.Option(help="Plan inference.")] = True,
    lanes: Annotated[int, typer.Option(min=1, help="Videos a chip works on at once in inference.")] = 4,
    chunk: Annotated[int, typer.Option(min=1, help="Frames of a video encoded together in inference.")] = 8,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures there.")] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Change the config: model.dtype=bfloat16.")
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
