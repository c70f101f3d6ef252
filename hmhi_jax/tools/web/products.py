"""What can be downloaded of a segmented video, written by what `hmhi segment` writes with."""

import dataclasses
import itertools
import zipfile
from collections.abc import Callable, Generator
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from hmhi_jax.data.video import Frame, Video
from hmhi_jax.inference.lanes import Result
from hmhi_jax.inference.outputs import Outputs
from hmhi_jax.inference.pipeline import WORKERS, Pipeline, StageTimes
from hmhi_jax.inference.result_folder import ResultFolder
from hmhi_jax.inference.result_writers import Drawn, Kept, ResultWriters

Masks = tuple[UInt8[np.ndarray, "H W"], UInt8[np.ndarray, "H W"] | None]  # of a frame, and labels of its objects

_LOGITS, _FLOW = np.empty((0, 0), np.float32), np.empty((0, 0, 3), np.uint8)


def seen_before(index: int, name: str, video: Video, kept: Kept | None = None) -> Result:
    """Of a frame that the network saw long ago, whose word on it is kept elsewhere."""
    return Result(index, name, video.size, _LOGITS, _FLOW, kept)


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
