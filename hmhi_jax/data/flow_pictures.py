"""Flow pictures of a whole data set, made once and kept beside the frames."""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from hmhi_jax.complete_files import completed, readable, writable, write_text
from hmhi_jax.data.flow import FlowEstimator, FlowRecipe, flow_of, neighbours_of
from hmhi_jax.data.layouts import Dataset
from hmhi_jax.data.packing import INDEX, PackedDataset
from hmhi_jax.data.pictures import PictureError, encode_picture, read_picture
from hmhi_jax.data.records import VideoRecord
from hmhi_jax.errors import InputError
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


@dataclass(frozen=True)
class _Task:
    """Frames `numbers` (consecutive) of a video."""

    video: VideoRecord
    numbers: range


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
    if estimators:
        turns = zip(tasks, itertools.cycle(estimators), strict=False)
        results = ordered_map(lambda turn: _make_at_once(*turn, format), turns, workers=2 * len(estimators))
    else:
        make = functools.partial(_make, recipe=recipe, format=format)
        results = ordered_map(make, tasks, workers=workers, processes=True)
    with closing(results) as made:
        for task, troubles in zip(tasks, made, strict=True):
            problems += troubles
            if advance:
                advance(len(task.numbers))
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
        start = None
        missing = set(_missing(video, overwrite))
        for number in range(len(video) + 1):
            if start is not None and (number not in missing or number - start == _CHUNK):
                yield _Task(video, range(start, number))
                start = None
            if start is None and number in missing:
                start = number


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


def _make(task: _Task, recipe: FlowRecipe, format: FlowFormat) -> list[str]:
    """Make the flow pictures of a task; runs in a worker process."""
    video, problems = task.video, []
    pictures: dict[int, np.ndarray] = {}

    def frame(number: int) -> np.ndarray:
        if number not in pictures:
            pictures[number] = read_picture(video.frames[number])
        return pictures[number]

    for number in task.numbers:
        try:
            picture = flow_of(number, len(video), frame, recipe)
        except InputError as error:
            where = "" if isinstance(error, PictureError) else f"{video.frames[number]}: "
            problems.append(f"{where}{error}")
            continue
        pictures = {n: p for n, p in pictures.items() if n >= number}
        _write(video, number, picture, format)
    return problems


def _make_at_once(task: _Task, estimator: FlowEstimator, format: FlowFormat) -> list[str]:
    """The same with a flow network, in a thread: all pictures of a task in one call; where that fails, each by itself,
    to tell which ones cannot be made."""
    video, problems = task.video, []
    frames: dict[int, np.ndarray] = {}
    unread: dict[int, str] = {}
    wanted = [(number, *neighbours_of(number, len(video), estimator.recipe)) for number in task.numbers]
    for number in sorted({number for numbers in wanted for number in numbers if number is not None}):
        try:
            frames[number] = read_picture(video.frames[number])
        except PictureError as error:
            unread[number] = str(error)
    possible = []
    for numbers in wanted:
        if reasons := [unread[number] for number in numbers if number in unread]:
            problems.append(reasons[0])
        else:
            possible.append(numbers)
    try:
        made = list(zip(possible, estimator.pictures(frames, possible), strict=True))
    except InputError:
        made = []
        for numbers in possible:
            try:
                made += [(numbers, picture) for picture in estimator.pictures(frames, [numbers])]
            except InputError as error:
                problems.append(f"{video.frames[numbers[0]]}: {error}")
    for (number, *_), picture in made:
        _write(video, number, picture, format)
    return problems


def _write(video: VideoRecord, number: int, picture: UInt8[np.ndarray, "h w 3"], format: FlowFormat) -> None:
    path = Path(video.flow_folder, f"{video.frame_names[number]}.{format.suffix}")
    with completed(path, advice="") as partial:
        partial.write_bytes(format.encode(picture))
