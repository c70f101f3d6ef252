"""What is to be written of a video beside its masks, and how its frames are called."""

import dataclasses
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class Outputs:
    """What `hmhi segment` is asked for.

    cutout        a video with alpha, "mov" or "webm"
    file          where that goes, if not into the folder of results
    matte         matte.mp4, black and white
    rgba          rgba/<frame>.png
    exr           exr/<frame>.exr, a channel for each object
    palette       objects/<frame>.png, object ids in DAVIS's colours, also where none are numbered
    coco          coco.json
    youtube_vis   youtube_vis.json
    start_number  of frame 0. Where this, `padding` and `prefix` are None, frames are called as they are
    padding       digits of a number, 5 if numbers are asked for otherwise
    prefix        what stands before it
    """

    cutout: str | None = None
    file: Path | None = None
    matte: bool = False
    rgba: bool = False
    exr: bool = False
    palette: bool = False
    coco: bool = False
    youtube_vis: bool = False
    start_number: int | None = None
    padding: int | None = None
    prefix: str | None = None

    @property
    def numbered(self) -> bool:
        """Whether frames get names of their own."""
        return (self.start_number, self.padding, self.prefix) != (None, None, None)

    def name(self, index: int, name: str) -> str:
        """What the results of frame `index`, called `name` in its video, are called."""
        if not self.numbered:
            return name
        return f"{self.prefix or ''}{index + (self.start_number or 0):0{self.padding or 5}d}"

    def pictures(self) -> tuple[str, ...]:
        """Folders with a picture of every frame."""
        asked = {"rgba": self.rgba, "exr": self.exr, "objects": self.palette}
        return tuple(kind for kind, wanted in asked.items() if wanted)

    def settings(self) -> dict[str, Any]:
        """What was asked for, as JSON; nothing by default."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name != "file" and getattr(self, field.name) != field.default
        }
