"""Optical flow that is already there: a folder with one flow picture or `.flo` file per frame."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from hmhi_jax.complete_files import readable
from hmhi_jax.data.flow import FlowRecipe, draw_flow, read_flo
from hmhi_jax.data.flow_pictures import recipe_in
from hmhi_jax.data.pictures import is_picture, natural_order, read_picture
from hmhi_jax.data.video import files_fingerprint
from hmhi_jax.errors import InputError, first_of


class FlowFolder:
    """Flow of one video, looked up by the frames' names: `00012.flo`, `00012.png` or `00012.jpg` for frame 00012.

    Pictures are taken as they are; `.flo` files (forward flow, Middlebury's format) are drawn as `recipe` says, its
    camera removal included. The last frame's entry is the flow back to the frame before it.

    `difference` names what is known to differ between `recipe` and how the pictures were made, empty if nothing.
    """

    def __init__(self, folder: str | Path, recipe: FlowRecipe, frame_names: Sequence[str] | None = None) -> None:
        """Looks at the names and the first file. Raises `InputError` if there is none, or none for a frame."""
        self.folder = Path(folder)
        self._recipe = recipe
        if not self.folder.is_dir():
            raise InputError(f"{folder}: no such folder of flow pictures")
        self._files = {path.stem: path for path in _flow_files(self.folder)}
        if not self._files:
            raise InputError(f"{folder}: the folder holds no flow pictures and no .flo files")
        missing = [name for name in frame_names or () if name not in self._files]
        if missing:
            raise InputError(self._without(missing) + f" ({len(missing)} of {len(frame_names or ())} frames)")
        self._first = min(self._files.values(), key=natural_order)
        self.difference = self._compare(recipe_in(self.folder))
        self._size = self._draw(self._first).shape[:2]

    def __len__(self) -> int:
        return len(self._files)

    def __call__(self, frame_name: str, frame_size: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
        """The flow picture of a frame. Raises `InputError` if it is missing, damaged or not of the frame's shape.

        It may be smaller or larger than the frame (flow is often estimated at another size), but not of another shape,
        and all of one size.
        """
        if frame_name not in self._files:
            raise InputError(self._without([frame_name]))
        path = self._files[frame_name]
        picture = self._draw(path)
        size = picture.shape[:2]
        if not (size == self._recipe.size or _same_shape(size, frame_size)):
            raise InputError(
                f"{path}: the flow is {_text(size)} but its frame is {_text(frame_size)}, "
                "expected the frame's size or one of the same shape; make it again for these frames"
            )
        if size != self._size:
            raise InputError(
                f"{path}: the flow is {_text(size)} but {self._first.name} is {_text(self._size)}, expected one size"
            )
        return picture

    def _compare(self, made: FlowRecipe | None) -> str:
        if made is None or all(_is_flo(path) for path in self._files.values()):
            return ""
        found, wanted = made.fields(), self._recipe.fields()
        names = [name for name in dict.fromkeys((*wanted, *found)) if found.get(name) != wanted.get(name)]
        return ", ".join(f"{name} {found.get(name)} instead of {wanted.get(name)}" for name in names)

    def _draw(self, path: Path) -> UInt8[np.ndarray, "h w 3"]:
        return draw_flow(read_flo(path), self._recipe) if _is_flo(path) else read_picture(path)

    def _without(self, names: list[str]) -> str:
        few = first_of(names, 5)
        last = " (the last frame's is the flow back to the frame before it)" if len(names) == 1 else ""
        return f"{self.folder}: no flow for frame {few}, expected a picture or .flo file of that name{last}"


def flow_folder_of(folder: str | Path, video_name: str, alone: bool) -> Path:
    """Where the flow of one of several videos lies: in the sub-folder with the video's name.

    For a video on its own it may lie in `folder` itself. Raises `InputError` if there is no such folder.
    """
    folder = Path(folder)
    inside = folder / video_name
    if inside.is_dir():
        return inside
    if alone and folder.is_dir():
        return folder
    wanted = folder if alone else inside
    raise InputError(f"{wanted}: no such folder of flow pictures")


def flow_fingerprint(folder: Path) -> dict[str, Any]:
    """What tells the flow in `folder` from another in the same place, as JSON; costs no reading."""
    return {"path": str(folder.resolve()), "files": files_fingerprint(_flow_files(folder))}


def _flow_files(folder: Path) -> list[Path]:
    """Files that hold flow, by name; `.flo` after pictures, so that of two of a frame it is the one to take."""
    with readable(folder):
        files = [path for path in folder.iterdir() if _is_flo(path) or is_picture(path)]
    return sorted(files, key=lambda path: (_is_flo(path), path.name))


def _is_flo(path: Path) -> bool:
    return path.suffix.lower() == ".flo"


def _same_shape(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether one is the other scaled, to within the rounding of a pixel."""
    height, width = size
    return abs(other[1] * height / other[0] - width) <= 1 or abs(other[0] * width / other[1] - height) <= 1


def _text(size: tuple[int, int]) -> str:
    return f"{size[1]} x {size[0]} pixels"
