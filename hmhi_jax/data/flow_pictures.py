"""Flow pictures of a whole data set, made once and kept beside the frames."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from hmhi_jax.complete_files import completed
from hmhi_jax.data.decoding import Picture, PictureError, read_picture
from hmhi_jax.data.flow import FlowEstimator, FlowRecipe, flow_picture, neighbours_of
from hmhi_jax.data.layouts import Dataset, VideoRecord
from hmhi_jax.data.packing import PackedDataset
from hmhi_jax.errors import InputError

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
        options = [cv2.IMWRITE_JPEG_QUALITY, self.quality]
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
        bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
        return cv2.imencode(f".{self.suffix}", bgr, options if self.suffix == "jpg" else [])[1].tobytes()


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
    tasks = iter(list(_tasks(dataset, overwrite)))
    if not workers and not estimators:
        for task in tasks:
            problems += _make(task, recipe, format)
            if advance:
                advance(len(task.numbers))
        return problems
    running: dict[Future[list[str]], int] = {}
    pool: Executor
    if estimators:
        workers = 2 * len(estimators)
        pool = ThreadPoolExecutor(workers, thread_name_prefix="hmhi-flow")
    else:
        pool = ProcessPoolExecutor(
            workers, mp_context=get_context("spawn"), initializer=cv2.setNumThreads, initargs=(1,)
        )
    turns = itertools.cycle(estimators or (None,))
    try:
        while True:
            for task in itertools.islice(tasks, 4 * workers - len(running)):
                running[pool.submit(_make, task, recipe, format, next(turns))] = len(task.numbers)
            if not running:
                return problems
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                problems += future.result()
                if advance:
                    advance(running[future])
                del running[future]
    finally:
        pool.shutdown(cancel_futures=True)


def flow_recipe_of(dataset: Dataset) -> FlowRecipe | None:
    """How a data set's flow pictures were made, where that is known (by `hmhi flow`, or in a packed data set's index).

    Raises InputError when videos differ.
    """
    if dataset.layout == "packed":
        kept = PackedDataset(dataset.root).details.get("flow")
        return FlowRecipe.from_json(kept) if kept else None
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
    try:
        return FlowRecipe.from_json(path.read_text(encoding="utf-8", errors="replace"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
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
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(len(video)) if overwrite else ():
            if (old := video.flows[number]) is not None:
                Path(str(old)).unlink(missing_ok=True)
        _write(folder / RECIPE_FILE, (recipe.to_json() + "\n").encode())
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}); name another folder with --out") from error


def _refuse_read_only(folder: Path) -> None:
    """Respect a data set marked read-only even as root (usual in containers), whom the system would let write."""
    there = next((path for path in (folder, *folder.absolute().parents) if path.exists()), folder)
    if there.exists() and not there.stat().st_mode & 0o222:
        raise InputError(f"{there}: is read-only, so no flow pictures can go to {folder}; name a folder with --out")


def _make(task: _Task, recipe: FlowRecipe, format: FlowFormat, estimator: FlowEstimator | None = None) -> list[str]:
    """Make the flow pictures of a task; runs in a worker process, or in a thread where there is a flow network."""
    if estimator is not None:
        return _make_at_once(task, format, estimator)
    video, problems = task.video, []
    pictures: dict[int, np.ndarray] = {}

    def frame(number: int) -> np.ndarray:
        if number not in pictures:
            pictures[number] = read_picture(_there(video.frames[number]))
        return pictures[number]

    for number in task.numbers:
        other, opposite = neighbours_of(number, len(video), recipe)
        name = video.frame_names[number]
        try:
            behind = None if opposite is None else frame(opposite)
            picture = flow_picture(frame(number), frame(other), recipe, behind)
        except InputError as error:
            where = "" if isinstance(error, PictureError) else f"{video.frames[number]}: "
            problems.append(f"{where}{error}")
            continue
        pictures = {n: p for n, p in pictures.items() if n >= number}
        _write(Path(video.flow_folder, f"{name}.{format.suffix}"), format.encode(picture))
    return problems


def _make_at_once(task: _Task, format: FlowFormat, estimator: FlowEstimator) -> list[str]:
    """All pictures of a task in one call; where that fails, each by itself, to tell which ones cannot be made."""
    video, problems = task.video, []
    frames: dict[int, np.ndarray] = {}
    unread: dict[int, str] = {}
    wanted = [(number, *neighbours_of(number, len(video), estimator.recipe)) for number in task.numbers]
    for number in sorted({number for numbers in wanted for number in numbers if number is not None}):
        try:
            frames[number] = read_picture(_there(video.frames[number]))
        except PictureError as error:
            unread[number] = str(error)
    readable = []
    for numbers in wanted:
        reasons = [unread[number] for number in numbers if number in unread]
        if reasons:
            problems.append(reasons[0])
        else:
            readable.append(numbers)
    try:
        pictures: list[np.ndarray | None] = list(estimator.pictures(frames, readable)) if readable else []
    except InputError:
        pictures = []
        for numbers in readable:
            try:
                pictures += estimator.pictures(frames, [numbers])
            except InputError as error:
                problems.append(f"{video.frames[numbers[0]]}: {error}")
                pictures.append(None)
    for (number, *_), picture in zip(readable, pictures, strict=True):
        if picture is not None:
            _write(Path(video.flow_folder, f"{video.frame_names[number]}.{format.suffix}"), format.encode(picture))
    return problems


def _there(picture: Picture | None) -> Picture:
    assert picture is not None, "a video has all its frames"
    return picture


def _write(path: Path, data: bytes) -> None:
    try:
        with completed(path) as partial:
            partial.write_bytes(data)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from error
