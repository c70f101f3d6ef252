"""`hmhi report`: scores of any method's masks, as files and as a page to look at."""

from pathlib import Path
from typing import Annotated

import typer

from hmhi_jax.cli.options import WorkersOption


def report(
    folders: Annotated[
        list[Path],
        typer.Argument(
            help="Predictions of one or more methods, `<video>/<frame>.png`; the last folder is the ground truth "
            "unless --gt names it.",
            metavar="PRED... [GT]",
        ),
    ],
    gt: Annotated[
        Path | None, typer.Option(help="Ground truth: a data set's folder, or masks as `<video>/<frame>.png`.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("report"),
    protocol: Annotated[
        list[str] | None,
        typer.Option(
            help="davis16, davis16-inner, fbms, youtube-objects or vsod; repeat for several. Else davis16, vsod."
        ),
    ] = None,
    reading: Annotated[
        list[str] | None,
        typer.Option(
            help="plain: values as they are; release: every frame stretched to full contrast first. Both cut at "
            "128. Repeat for both; plain if not given."
        ),
    ] = None,
    name: Annotated[list[str] | None, typer.Option(help="A method's name, in order; else its folder's.")] = None,
    videos: Annotated[
        Path | None, typer.Option(help="Text file with the names of the videos to score, one a line.")
    ] = None,
    frames: Annotated[
        Path | None, typer.Option(help="RGB frames, `<video>/<frame>.jpg`, where they are not beside the masks.")
    ] = None,
    title: Annotated[str | None, typer.Option(help="Heading of the page.")] = None,
    void_label: Annotated[
        int | None, typer.Option(help="Value of pixels that do not count; 255 in palette pictures if not given.")
    ] = None,
    extra: Annotated[
        bool, typer.Option("--extra/--no-extra", help="With vsod: also mean and adaptive F and E and weighted F.")
    ] = True,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse gaps, other sizes and other names instead of listing them.")
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
