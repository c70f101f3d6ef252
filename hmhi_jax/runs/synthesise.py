"""Made-up clips into a packed folder, and a sheet of the first ones to look at."""

import dataclasses
from itertools import islice
from pathlib import Path

import joblib
from PIL import Image

from hmhi_jax.complete_files import completed
from hmhi_jax.data.flow import FlowRecipe
from hmhi_jax.errors import InputError
from hmhi_jax.progress import frame_progress
from hmhi_jax.tools.synthetic.rendering import contact_sheet, read_clip, write_pack
from hmhi_jax.tools.synthetic.settings import FEATURES, PRESETS


def synthesise(
    out: Path,
    *,
    clips: int,
    seed: int,
    preset: str,
    height: int | None,
    width: int | None,
    least_frames: int | None,
    most_frames: int | None,
    flow: str | None,
    pictures: list[Path],
    without: list[str],
    workers: int | None,
    sheet: bool,
) -> None:
    """Do what `hmhi synthesise` was asked for; the arguments are its options."""
    start = PRESETS[preset]
    size = (height or start.size[0], width or start.size[1])
    recipe = FlowRecipe.from_json(flow) if flow else dataclasses.replace(start.recipe, size=size)
    for name in without:
        if name not in FEATURES:
            raise InputError(f"--without {name}: no such feature, expected one of {', '.join(FEATURES)}")
    settings = dataclasses.replace(
        start,
        size=size,
        least_frames=least_frames or start.least_frames,
        most_frames=most_frames or start.most_frames,
        recipe=recipe,
        **dict.fromkeys(without, 0.0),
    )
    with frame_progress("synthesise", clips, "clips") as advance:
        processes = joblib.cpu_count() if workers is None else workers
        pack = write_pack(
            out, clips, seed, settings, pictures=tuple(map(str, pictures)), workers=processes,
            advance=lambda name, frames: advance(1),
        )  # fmt: skip
    if sheet:
        picture = contact_sheet(read_clip(video) for video in islice(pack, 12))
        with completed(out / "sheet.png", advice="make room, or take --no-sheet") as partial:
            Image.fromarray(picture).save(partial, format="png")
    print(f"{out}: {len(pack)} clips, {sum(len(video.frame_names) for video in pack)} frames")
