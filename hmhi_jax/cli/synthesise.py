"""`hmhi synthesise`: made-up clips with exact masks, packed for training."""

from pathlib import Path
from typing import Annotated, Literal

import typer

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
    workers: Annotated[int | None, typer.Option(min=0, help="Processes; as many as cores if not given.")] = None,
    sheet: Annotated[bool, typer.Option(help="Also write sheet.png, the first twelve clips to look at.")] = True,
) -> None:
    """Make video clips of moving things, with exact masks and flow pictures, and pack them for training.

    Nothing is downloaded. Photographs that scikit-image, scikit-learn and Matplotlib carry serve as textures where
    these packages are installed (`pip install "hmhi-jax[synthetic]"`); cut-outs and backdrops come from Debian's
    openclipart-png, tuxpaint-stamps-default and lomiri-wallpapers-16.04, likewise. Stopped or killed, the same command
    goes on.
    """
    import dataclasses
    import os
    from itertools import islice

    from hmhi_jax.complete_files import completed
    from hmhi_jax.data.flow import FlowRecipe
    from hmhi_jax.errors import InputError
    from hmhi_jax.tools.synthetic.packs import contact_sheet, read_clip, write_pack
    from hmhi_jax.tools.synthetic.settings import PRESETS, Settings

    start = PRESETS[preset]
    size = (height or start.size[0], width or start.size[1])
    recipe = FlowRecipe.from_json(flow) if flow else dataclasses.replace(start.recipe, size=size)
    features = [field.name for field in dataclasses.fields(Settings) if isinstance(field.default, float)]
    for name in without or []:
        if name not in features:
            raise InputError(f"--without {name}: no such feature, expected one of {', '.join(features)}")
    settings = dataclasses.replace(
        start,
        size=size,
        least_frames=least_frames or start.least_frames,
        most_frames=most_frames or start.most_frames,
        recipe=recipe,
        **dict.fromkeys(without or [], 0.0),
    )
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = ("[progress.description]{task.description}", BarColumn(), MofNCompleteColumn(), "clips")
    with Progress(*columns, TextColumn("{task.fields[rate]}"), TimeRemainingColumn()) as progress:
        task = progress.add_task("synthesise", total=clips, rate="")
        frames = 0

        def advance(name: str, count: int) -> None:
            nonlocal frames
            frames += count
            elapsed = progress.tasks[0].elapsed or 0
            progress.update(task, advance=1, rate=f"{frames / elapsed:.0f} frames/s" if elapsed > 1 else "")

        count = os.cpu_count() or 1 if workers is None else workers
        folders = tuple(str(folder) for folder in pictures or [])
        pack = write_pack(out, clips, seed, settings, pictures=folders, workers=count, advance=advance)
    if sheet:
        from PIL import Image

        picture = contact_sheet(read_clip(video) for video in islice(pack, 12))
        with completed(out / "sheet.png") as partial:
            Image.fromarray(picture).save(partial, format="png")
    print(f"{out}: {len(pack)} clips, {sum(len(video.frame_names) for video in pack)} frames")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("synthesise")(synthesise)
