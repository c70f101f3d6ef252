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

# Of a frame that the network saw long ago.
_LOGITS, _FLOW = np.empty((0, 0), np.float32), np.empty((0, 0, 3), np.uint8)


@dataclasses.dataclass(frozen=True)
class Product:
    """Something to download.

    outputs   what is written for it
    found     its name in a folder of results; folders become a zip
    overlay   whether it is the overlay
    """

    outputs: Outputs
    found: str
    overlay: bool = False

    def file_name(self, video: str) -> str:
        return f"{video}-{self.found}" + ("" if "." in self.found else ".zip")

    def write(
        self, video: Video, frames: int, mask_of: Callable[[int], UInt8[np.ndarray, "H W"]], folder: Path
    ) -> Generator[None]:
        """Write it to `file_name` in `folder`, of the first `frames` frames, giving something after each; `mask_of`
        gives a frame's mask by its number."""
        path, made = folder / self.file_name(Path(video.name).name), folder / "results" / self.found
        results = ResultFolder(
            made.parent, {"input": video.fingerprint()}, cutout=made if self.outputs.cutout else None
        )
        writers, stages = ResultWriters(results, self.outputs, video, overlay=self.overlay, begin=0), StageTimes()
        names, times, end = [], [], 0

        def draw(frame: Frame) -> tuple[Frame, Kept, Drawn]:
            kept, mask = writers.keep(frame), mask_of(frame.index)
            result = Result(frame.index, frame.name, mask.shape, _LOGITS, _FLOW, kept)
            return frame, kept, writers.write(result, mask, None, None)

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
    "Overlay": Product(Outputs(), "overlay.mp4", overlay=True),
}
