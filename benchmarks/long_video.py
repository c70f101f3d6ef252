"""A video of any length through `VideoSegmenter.stream`: does memory stay flat, and the time of a frame?

    python benchmarks/long_video.py                      # 10,000 frames of 64 x 96, both memory banks
    python benchmarks/long_video.py --weights tiny --size 160 288 --frames 2000 --plot long.png

Frames are made as they are asked for, so nothing but the stream can grow. Without `--weights`, a small network with
both banks and fresh weights runs: what it finds does not matter here. Prints resident memory after frame 100 and at the
end, time per frame by tenths of the video, programs compiled on the way, and draws both along the video.
(`benchmarks/segment.py long` does the same with `hmhi segment`'s whole job on a file.)
"""

import argparse
import json
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from hmhi_jax import process
from hmhi_jax.data.flow import FlowRecipe
from hmhi_jax.inference import VideoSegmenter
from hmhi_jax.models import build_model
from hmhi_jax.training.initial_weights import init_variables

EARLY = 100  # frames after which everything that is allocated once has been
LATE = 50  # frames before the end: the state that a stream leaves at its end is copied by programs of its own


def moving_square(frames: int, height: int, width: int) -> Iterator[np.ndarray]:
    """A bright square that goes round over a textured ground."""
    ground = np.random.default_rng(0).integers(0, 120, (height, width, 3), np.uint8)
    side = height // 3
    for t in range(frames):
        picture = np.roll(ground, t // 2, axis=1).copy()
        row = int((height - side) * (0.5 + 0.5 * np.sin(t / 23)))
        column = int((width - side) * (0.5 + 0.5 * np.cos(t / 31)))
        picture[row : row + side, column : column + side] = (230, 200, 40)
        yield picture


def small_network(size: tuple[int, int]) -> VideoSegmenter:
    """All parts of the network around a small encoder."""
    model = build_model("conv_tiny", memory_frames=3, feedforward=256)
    variables = jax.jit(lambda: init_variables(model, 0))()
    return VideoSegmenter(model, variables, size=size, flow_recipe=FlowRecipe(preset="ultrafast"))


def resident() -> float:
    """MiB this process holds (Linux)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--size", type=int, nargs=2, default=(64, 96), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--weights", help="instead of the small network")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    process.enable_compilation_cache()
    if given.frames < 2 * EARLY:
        parser.error(f"--frames {given.frames}: expected at least {2 * EARLY}")
    size = tuple(given.size)
    segmenter = VideoSegmenter.load(given.weights, size=size) if given.weights else small_network(size)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, _, **__: compiled.append(event) if event.endswith("backend_compile_duration") else None
    )
    times, memory, area = np.zeros(given.frames), np.zeros(given.frames), 0.0
    compilations = np.zeros(given.frames, int)
    begin = time.perf_counter()
    for done, mask in enumerate(segmenter.stream(moving_square(given.frames, *size))):
        times[done], memory[done] = time.perf_counter() - begin, resident()
        area += float(mask.mean()) / 255
        compilations[done] = len(compiled)
    tenths = np.linspace(EARLY, given.frames - 1, 11).astype(int)
    rates = np.diff(times[tenths]) / np.diff(tenths) * 1e3
    figures = {
        "frames": given.frames,
        "size": list(size),
        f"resident_mib_after_{EARLY}": round(memory[EARLY - 1], 1),
        "resident_mib_at_the_end": round(memory[-1], 1),
        "growth_percent": round((memory[-1] / memory[EARLY - 1] - 1) * 100, 2),
        "ms_per_frame_by_tenth": [round(rate, 2) for rate in rates],
        "programs_compiled_by_then": int(compilations[EARLY - 1]),
        "programs_compiled_between": int(compilations[-LATE] - compilations[EARLY - 1]),
        "mean_area": round(area / given.frames, 4),
    }
    print(json.dumps(figures, indent=2))
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    if given.plot:
        draw(given.plot, times, memory, f"{given.frames} frames of {size[0]} x {size[1]}")


def draw(path: Path, times: np.ndarray, memory: np.ndarray, title: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(2, 1, sharex=True, figsize=(6.4, 3.8), layout="constrained")
    above.plot(memory, linewidth=1)
    above.axvline(EARLY, linewidth=0.8, linestyle=":", color="grey")
    above.set(ylabel="resident, MiB", ylim=(0, 1.2 * memory.max()), title=title)
    step = max(1, len(times) // 100)
    ends = np.arange(EARLY + step, len(times), step)
    below.plot(ends, (times[ends] - times[ends - step]) / step * 1e3, linewidth=1)
    below.set(ylabel="ms per frame", xlabel="frame", ylim=(0, None))
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
