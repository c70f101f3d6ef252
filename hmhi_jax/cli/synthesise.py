"""`hmhi synthesise`: made-up clips with exact masks, packed for training."""

from pathlib import Path
from typing import Annotated, Literal

import typer

    runs.synthesise(
        out, clips=clips, seed=seed, preset=preset, height=height, width=width, least_frames=least_frames,
        most_frames=most_frames, flow=flow, pictures=pictures or [], without=without or [], workers=workers, sheet=sheet,
    )  # fmt: skip
