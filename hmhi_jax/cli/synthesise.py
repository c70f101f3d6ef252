"""`hmhi synthesise`: made-up clips with exact masks, packed for training."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from hmhi_jax.cli.options import WorkersOrNoneOption

Preset = Literal["default", "photographic"]


def synthesise(
    out: Annotated[Path, typer.Argument(help="Folder for the packed clips; made when missing, continued when begun.")],
    clips: Annotated[int, typer.Option(min=1, help="How many clips.")] = 1000,
    seed: Annotated[
        int, typer.Option(min=0, help="Clip i of a seed is always the same; use another seed to validate.")
    ] = 0,
    preset: Annotated[
        Preset,
        typer.Option(
            help="default: objects made of parts, before textures. photographic: also cut-outs, photographs, smoke and "
            "more, larger and longer clips. Options below change single settings of it."
        ),
    ] = "default",
    height: Annotated[int | None, typer.Option(help="Frame height in pixels.")] = None,
    width: Annotated[int | None, typer.Option(help="Frame width in pixels.")] = None,
    least_frames: Annotated[int | None, typer.Option(help="Frames of the shortest clips.")] = None,
    most_frames: Annotated[int | None, typer.Option(help="Frames of the longest clips.")] = None,
    flow: Annotated[
        str | None, typer.Option(help="Flow recipe as JSON; camera compensated at frame size if not given.")
    ] = None,
    pictures: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder of photographs (textures, backdrops) and cut-outs (pictures with opacity), or an unpacked "
            "Debian package that hmhi_jax/tools/synthetic/pictures.py knows; repeatable."
        ),
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option(help="A feature to leave out, such as shadows; repeatable.")
    ] = None,
    workers: WorkersOrNoneOption = None,
    sheet: Annotated[bool, typer.Option(help="Also write sheet.png, the first twelve clips to look at.")] = True,
) -> None:
    """Make video clips of moving things, with exact masks and flow pictures, and pack them for training.

    Nothing is downloaded. Photographs that scikit-image, scikit-learn and Matplotlib carry serve as textures where
    these packages are installed (`pip install "hmhi-jax[synthetic]"`); cut-outs and backdrops come from Debian's
    openclipart-png, tuxpaint-stamps-default and lomiri-wallpapers-16.04, likewise. Stopped or killed, the same command
    goes on.
    """
    from hmhi_jax.runs import synthesise as runs

    runs.synthesise(
        out, clips=clips, seed=seed, preset=preset, height=height, width=width, least_frames=least_frames,
        most_frames=most_frames, flow=flow, pictures=pictures or [], without=without or [], workers=workers,
        sheet=sheet,
    )  # fmt: skip
