"""Folders of flow pictures: those of a whole data set, made once and kept beside the frames; and flow of one video that
is already there, looked up by its frames' names."""

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from hmhi_jax.complete_files import completed, readable, writable, write_text
from hmhi_jax.data.flow import DenseInverseSearch, FlowEstimator, FlowRecipe, draw_flow, neighbours_of, read_flo
from hmhi_jax.data.layouts import Dataset
from hmhi_jax.data.pictures import PictureError, encode_picture, is_picture, natural_order, read_picture
from hmhi_jax.data.records import INDEX, PackedDataset, VideoRecord
from hmhi_jax.data.video import files_fingerprint
from hmhi_jax.errors import InputError, first_of
from hmhi_jax.ordered_map import ordered_map

RECIPE_FILE = "flow_recipe.json"
_CHUNK = 8  # frames of one task: each frame but the last is then read for two flows and decoded once


@dataclass(frozen=True)
class FlowFormat:
    """How flow pictures are stored: "jpg" (of `quality`, colours not subsampled; what the release reads) or "png"."""

    suffix: str = "jpg"
    quality: int = 95

    def __post_init__(self) -> None:
        if self.suffix not in ("jpg", "png"):
            raise InputError(f"flow pictures: format is {self.suffix!r}, expected 'jpg' or 'png'")
        if not 1 <= self.quality <= 100:
            raise InputError(f"flow pictures: quality is {self.quality}, expected 1 to 100")

    def encode(self, picture: UInt8[np.ndarray, "h w 3"]) -> bytes:
        """The file's bytes."""
        return encode_picture(picture, self.quality if self.suffix == "jpg" else 0)


_Task = tuple[VideoRecord, list[int]]  # frames of a video


def missing_flows(dataset: Dataset, overwrite: bool = False) -> int:
    """How many flow pictures are to be made."""
    return sum(len(_missing(video, overwrite)) for video in dataset.videos)


def make_flow_pictures(
    dataset: Dataset,
    recipe: FlowRecipe,
    *,
    format: FlowFormat,
    workers: int = 0,
    estimators: Sequence[FlowEstimator] = (),
    overwrite: bool = False,
    advance: Callable[[int], None] | None = None,
) -> list[str]:
    """Make every flow picture that is missing: frame t to t + 1, for the last frame of a video back to the one before.

    Pictures go to each video's `flow_folder`, with a `flow_recipe.json` that says how they were made; both are written
    under a temporary name first, so that an interrupted run loses nothing and the next one goes on.

    Args:
      dataset: opened with `flows=` to write elsewhere than beside the frames.
      workers: processes; 0 makes them in this one.
      estimators: flow networks that follow `recipe`, one for each device. Two threads of this process feed each of
        them, so that pictures are read and written while it computes, and `workers` are not used.
      overwrite: make all of them again; those that are there are removed first, so that none of them remains among the
        new ones when this is interrupted (the next run then goes on without `overwrite`).
      advance: called with a number of frames whenever so many are done.

    Returns one line for each frame whose flow cannot be made; the others are made. Raises InputError when a folder
    cannot be written, or holds some pictures made in another way.
    """
    if dataset.layout == "packed":
        raise InputError(
            f"{dataset.root}: is packed; make flow pictures of the folder it came from, then pack it again"
        )
    for video in dataset.videos:
        _prepare_folder(video, recipe, overwrite)
    problems: list[str] = []
    tasks = list(_tasks(dataset, overwrite))
    turns = zip(tasks, itertools.cycle(estimators or [DenseInverseSearch(recipe)]), strict=False)
    workers = 2 * len(estimators) or workers
    make = functools.partial(_make, format=format)
    with closing(ordered_map(make, turns, workers=workers, processes=not estimators)) as made:
        for (_, numbers), troubles in zip(tasks, made, strict=True):
            problems += troubles
            if advance:
                advance(len(numbers))
    return problems


def flow_recipe_of(dataset: Dataset) -> FlowRecipe | None:
    """How a data set's flow pictures were made, where that is known (by `hmhi flow`, or in a packed data set's index).

    Raises InputError when videos differ.
    """
    if dataset.layout == "packed":
        kept = PackedDataset(dataset.root).details.get("flow")
        try:
            return FlowRecipe.from_json(kept) if kept else None
        except InputError as error:
            raise InputError(f"{Path(dataset.root, INDEX)}: {error}") from error
    recipes = {video.flow_folder: recipe for video in dataset.videos if (recipe := recipe_in(video.flow_folder))}
    if len(set(recipes.values())) > 1:
        first, other = sorted(recipes, key=lambda folder: recipes[folder].to_json())[:: len(recipes) - 1]
        raise InputError(f"{first} and {other}: flow pictures were made in different ways; make all with one recipe")
    return next(iter(recipes.values()), None)


def recipe_in(folder: str | Path) -> FlowRecipe | None:
    """How the flow pictures of one video's folder were made, where `hmhi flow` noted it beside them."""
    path = Path(folder, RECIPE_FILE)
    return read_recipe(path) if path.is_file() else None


def read_recipe(path: Path) -> FlowRecipe:
    """A recipe from a file of JSON. Raises `InputError` that names the file."""
    with readable(path):
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    try:
        return FlowRecipe.from_json(text)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _missing(video: VideoRecord, overwrite: bool) -> list[int]:
    return [number for number in range(len(video)) if overwrite or not video.flows.has(number)]


def _tasks(dataset: Dataset, overwrite: bool) -> Iterator[_Task]:
    for video in dataset.videos:
        missing = _missing(video, overwrite)
        for start in range(0, len(missing), _CHUNK):
            yield video, missing[start : start + _CHUNK]


def _prepare_folder(video: VideoRecord, recipe: FlowRecipe, overwrite: bool) -> None:
    missing = _missing(video, overwrite)
    if not missing:
        return
    folder = Path(video.flow_folder)
    before = recipe_in(video.flow_folder)
    made = len(video) - len(missing)
    if made and before != recipe:
        how = f"with {before.to_json()}" if before else "in an unknown way"
        raise InputError(
            f"{folder}: {made} of {len(video)} flow pictures are there, made {how}, asked for is {recipe.to_json()}; "
            "use --overwrite, or --out for another folder"
        )
    _refuse_read_only(folder)
    with writable(folder, "name another folder with --out"):
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(len(video)) if overwrite else ():
            if (old := video.flows[number]) is not None:
                Path(str(old)).unlink(missing_ok=True)
        write_text(folder / RECIPE_FILE, recipe.to_json() + "\n")


def _refuse_read_only(folder: Path) -> None:
    """Respect a data set marked read-only even as root (usual in containers), whom the system would let write."""
    there = next((path for path in (folder, *folder.absolute().parents) if path.exists()), folder)
    if there.exists() and not there.stat().st_mode & 0o222:
        raise InputError(f"{there}: is read-only, so no flow pictures can go to {folder}; name a folder with --out")


def _make(turn: tuple[_Task, FlowEstimator], format: FlowFormat) -> list[str]:
    """Make the flow pictures of a task. Runs in a process, or in a thread for a flow network."""
    (video, numbers), estimator = turn
    # A network takes all pairs in one call; a search needs no more frames at hand than it compares.
    at_once = 1 if isinstance(estimator, DenseInverseSearch) else len(numbers)
    problems: list[str] = []
    frames: dict[int, np.ndarray | PictureError] = {}
    for start in range(0, len(numbers), at_once):
        some = numbers[start : start + at_once]
        wanted = [(number, *neighbours_of(number, len(video), estimator.recipe)) for number in some]
        needed = sorted({number for each in wanted for number in each if number is not None})
        frames = {number: frames[number] if number in frames else _read(video, number) for number in needed}
        problems += _make_some(video, wanted, frames, estimator, format)
    return problems


def _read(video: VideoRecord, number: int) -> np.ndarray | PictureError:
    try:
        return read_picture(video.frames[number])
    except PictureError as error:
        return error


def _make_some(
    video: VideoRecord,
    wanted: Sequence[tuple[int, int, int | None]],
    frames: Mapping[int, np.ndarray | PictureError],
    estimator: FlowEstimator,
    format: FlowFormat,
) -> list[str]:
    """All in one call; where that fails, each by itself, to tell which ones cannot be made."""
    unread = {number: found for number, found in frames.items() if isinstance(found, PictureError)}
    pictures = {number: found for number, found in frames.items() if number not in unread}
    problems: list[str] = []
    possible = []
    for each in wanted:
        if errors := [unread[number] for number in each if number in unread]:
            problems.append(str(errors[0]))
        else:
            possible.append(each)
    try:
        made = list(zip(possible, estimator.pictures(pictures, possible), strict=True))
    except InputError:
        made = []
        for each in possible:
            try:
                made += [(each, picture) for picture in estimator.pictures(pictures, [each])]
            except InputError as error:
                problems.append(f"{video.frames[each[0]]}: {error}")
    for (number, *_), picture in made:
        path = Path(video.flow_folder, f"{video.frame_names[number]}.{format.suffix}")
        with completed(path, advice="") as partial:
            partial.write_bytes(format.encode(picture))
    return problems


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
