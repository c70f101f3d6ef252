"""`hmhi inspect`: what a data set holds, and everything that is wrong with it."""

from typing import Annotated

import typer

from hmhi_jax.cli.options import DatasetArgument, FlowsOption, LayoutOption, SplitOption


def inspect(
    dataset: DatasetArgument,
    layout: LayoutOption = None,
    split: SplitOption = None,
    flows: FlowsOption = None,
    quick: Annotated[bool, typer.Option("--quick", help="Sizes and ends of files only; decode nothing.")] = False,
    without_flow: Annotated[bool, typer.Option("--without-flow", help="Missing flow pictures are no problem.")] = False,
    without_masks: Annotated[
        bool, typer.Option("--without-masks", help="Videos without masks are no problem.")
    ] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Threads; as many as cores if not given.")] = None,
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
