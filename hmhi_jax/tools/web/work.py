"""What is done for a visitor: a job in a thread while the page shows how far it got; masks and pictures of a frame, by
how they are to look; and files to download, written by what `hmhi segment` writes with."""

import dataclasses
import itertools
import sys
import threading
import time
import traceback
import zipfile
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from hmhi_jax.data.video import Frame, Video
from hmhi_jax.errors import InputError
from hmhi_jax.inference.clean_up import CleanUp
from hmhi_jax.inference.lanes import Result
from hmhi_jax.inference.pipeline import WORKERS, Pipeline, StageTimes
from hmhi_jax.inference.result_folder import Outputs, ResultFolder
from hmhi_jax.inference.result_writers import Drawn, Kept, ResultWriters
from hmhi_jax.inference.writers import coloured, draw_overlay

VIEWS = ("Tinted", "Cut out", "Mask")
_PREVIEW_SIDE = 1280  # pixels; more costs a browser time and shows no more
_SQUARE = 12  # pixels of the checkerboard behind a cut-out


class Job:
    """Something of many parts, done in a thread of its own.

    doing    what is being done, for people; the work sets it
    done     parts that are done
    total    parts there will be
    failure  why it could not be done, in one line; empty while it can
    stopped  whether it was asked to stop
    """

    def __init__(self, work: Callable[["Job"], Generator[object]], total: int) -> None:
        """Starts at once. `work` gives anything after each part; between two parts it can be stopped."""
        self.doing, self.done, self.total, self.failure = "", 0, total, ""
        self._work, self._stop = work, threading.Event()
        self._begin = self._last = 0.0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    @property
    def rate(self) -> float:
        """Parts per second, without what came before the first one; 0 while nobody knows."""
        return (self.done - 1) / (self._last - self._begin) if self.done > 1 and self._last > self._begin else 0.0

    def stop(self) -> None:
        """Stop after the part that is being done, and wait for it."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            with closing(self._work(self)) as parts:
                for _ in parts:
                    self.done, self._last = self.done + 1, time.monotonic()
                    self._begin = self._begin or self._last
                    if self.stopped:
                        return
        except InputError as error:
            self.failure = str(error)
        except Exception as error:  # a visitor's video must not end the others' page
            traceback.print_exc(file=sys.stderr)
            self.failure = f"this could not be computed ({type(error).__name__}: {error})"


@dataclasses.dataclass(frozen=True)
class Look:
    """How probabilities become masks.

    threshold  0 to 1
    clean_up   what is tidied afterwards
    objects    at most so many are numbered
    nothing    whether frames in which nothing moves by itself are emptied
    """

    threshold: float = 0.5
    clean_up: CleanUp = CleanUp()  # noqa: RUF009 - frozen
    objects: int = 0
    nothing: bool = True

    @property
    def follows(self) -> bool:
        """Whether a mask depends on those of the frames before it."""
        return bool(self.clean_up.steady or self.objects)

    def mask(self, soft: UInt8[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W"]:
        """Of a frame's 8-bit probabilities alone."""
        return self.clean_up.frame((soft > self.threshold * 255).astype(np.uint8) * np.uint8(255))


def read_pixels(path: Path) -> UInt8[np.ndarray, "H W *channels"]:
    with Image.open(path) as picture:
        return np.asarray(picture)


def preview(picture: UInt8[np.ndarray, "H W *channels"]) -> UInt8[np.ndarray, "h w *channels"]:
    scale = _PREVIEW_SIDE / max(picture.shape[:2])
    if scale >= 1:
        return picture
    size = (round(picture.shape[1] * scale), round(picture.shape[0] * scale))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def drawn_as(
    view: str, picture: UInt8[np.ndarray, "h w 3"], mask: UInt8[np.ndarray, "H W"],
    labels: UInt8[np.ndarray, "H W"] | None,
) -> UInt8[np.ndarray, "h w *channels"]:  # fmt: skip
    """One of `VIEWS` of a frame's preview and its mask and labels."""
    if view == "Tinted":
        return draw_overlay(picture, coloured(mask, labels, preview))
    mask = preview(mask)
    if view == "Mask":
        return mask
    rows, columns = np.indices(mask.shape) // _SQUARE % 2
    board = np.where((rows ^ columns)[..., None], np.uint8(235), np.uint8(255))
    opacity = mask[..., None].astype(np.float32) / np.float32(255)
    return (board + (picture - board.astype(np.float32)) * opacity).astype(np.uint8)


Masks = tuple[UInt8[np.ndarray, "H W"], UInt8[np.ndarray, "H W"] | None]  # of a frame, and labels of its objects

_LOGITS, _PICTURE = np.empty((0, 0), np.float32), np.empty((0, 0, 3), np.uint8)


def seen_before(index: int, name: str, video: Video, kept: Kept | None = None) -> Result:
    """Of a frame that the network saw long ago, whose word on it is kept elsewhere."""
    return Result(index, name, video.size, _PICTURE, _PICTURE, kept, logits=_LOGITS)


@dataclasses.dataclass(frozen=True)
class Product:
    """Something to download.

    outputs   what is written for it
    found     its name in a folder of results; folders become a zip
    """

    outputs: Outputs
    found: str

    def file_name(self, video: str) -> str:
        return f"{video}-{self.found}" + ("" if "." in self.found else ".zip")

    def write(
        self, video: Video, frames: int, masks_of: Callable[[int], Masks], folder: Path, objects: int
    ) -> Generator[None]:
        """Write it to `file_name` in `folder`, of the first `frames` frames, giving something after each; `masks_of`
        gives a frame's mask and labels by its number."""
        path, made = folder / self.file_name(Path(video.name).name), folder / "results" / self.found
        results = ResultFolder(
            made.parent,
            {"input": video.fingerprint()},
            pictures=() if made.suffix else (self.found,),
            cutout=made if self.outputs.cutout else None,
        )
        overlay, stages = self.found == "overlay.mp4", StageTimes()
        writers = ResultWriters(results, self.outputs, video, overlay=overlay, begin=0, objects=objects)
        names, times, end = [], [], 0

        def draw(frame: Frame) -> tuple[Frame, Kept, Drawn]:
            kept, (mask, labels) = writers.keep(frame), masks_of(frame.index)
            return frame, kept, writers.write(seen_before(frame.index, frame.name, video, kept), mask, labels, None)

        try:
            with results.occupied(), Pipeline() as pipeline:
                drawn = pipeline.map(draw, itertools.islice(video.frames(), frames), WORKERS)
                for frame, kept, pictures in drawn:
                    writers.add(pictures, kept.begin, stages)
                    names.append(frame.name)
                    times.append(kept.begin)
                    end = kept.end
                    yield
                writers.finish(names, [*times, end], stages)
        finally:
            writers.close()
        if made.is_dir():
            with zipfile.ZipFile(partial := path.with_suffix(".partial"), "w") as archive:
                for inside in sorted(made.iterdir()):
                    archive.write(inside, inside.name)
            made = partial
        made.rename(path)


# By what its button says.
PRODUCTS = {
    "Masks": Product(Outputs(), "masks"),
    "Matte": Product(Outputs(matte=True), "matte.mp4"),
    "Cut-out, WebM": Product(Outputs(cutout="webm"), "cutout.webm"),
    "Cut-out, MOV": Product(Outputs(cutout="mov"), "cutout.mov"),
    "Cut-out, PNG": Product(Outputs(rgba=True), "rgba"),
    "Overlay": Product(Outputs(), "overlay.mp4"),
    "Labels, PNG": Product(Outputs(palette=True), "objects"),
}
