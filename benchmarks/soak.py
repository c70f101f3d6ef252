"""Does a process that runs for hours stay as it began? Memory, threads, open files, processor time per frame.

    python benchmarks/soak.py --minutes 60 --samples soak --plot soak.png

First `stream(live=True)` sees an hour of a made-up camera that changes its rate, pauses and drops frames; then 200
short videos of three sizes are segmented one after the other, as `hmhi segment` does it, in the same process. A sample
is taken every ten seconds, and after each video. Prints, of each figure, the medians of the first and the last tenth
and the largest, and draws them all; with `--samples` also those that an earlier process kept there. Time per frame is
the processor's, of all threads, so that other programs on the machine do not count.
"""

import argparse
import json
import resource
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from long_video import moving_square

from hmhi_jax import process
from hmhi_jax.data.video_files import VideoFile
from hmhi_jax.inference import VideoSegmenter
from hmhi_jax.inference.result_folder import ResultFolder
from hmhi_jax.inference.video_job import JobOptions, segment_video

COLUMNS = ("seconds", "MiB", "threads", "files", "ms per frame")
SIZES = ((96, 160), (120, 120), (160, 96))  # of the short videos
SETTLED = 5  # samples of the camera, and of the videos three rounds of the sizes, after which all is allocated


def sample(begin: float, spent: float, frames: int) -> tuple[float, ...]:
    """Of this process, now (Linux); `spent` are the processor's seconds for the frames since the last sample."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    threads, files = (len(list(Path("/proc/self", name).iterdir())) for name in ("task", "fd"))
    memory = pages * resource.getpagesize() / 2**20
    return time.monotonic() - begin, memory, threads, files, spent / frames * 1e3


def camera(seconds: float, rate: float) -> Iterator[np.ndarray]:
    """Frames for so long: about `rate` a second, which halves and doubles; now and then none for some seconds, and a
    tenth are lost."""
    chance = np.random.default_rng(0)
    end, now = time.monotonic() + seconds, rate
    for picture in moving_square(10**9, *SIZES[0]):
        if chance.random() < 0.1:
            continue
        if time.monotonic() > end:
            return
        yield picture
        if chance.random() < 0.02:
            now = rate * 2.0 ** chance.integers(-1, 2)
        time.sleep(chance.uniform(2, 8) if chance.random() < 0.003 else 1 / now)


def watch_camera(segmenter: VideoSegmenter, seconds: float, rate: float) -> np.ndarray:
    """The samples `[n, 5]`. Raises `AssertionError` if a mask is missing."""
    shown = 0

    def counted() -> Iterator[np.ndarray]:
        nonlocal shown
        for picture in camera(seconds, rate):
            shown += 1
            yield picture

    samples, masks, before, begin = [], 0, 0, time.monotonic()
    spent = time.process_time()
    for mask in segmenter.stream(counted(), live=True):
        assert mask.shape == SIZES[0]
        masks += 1
        if time.monotonic() - begin > 10 * (len(samples) + 1):
            now = time.process_time()
            samples.append(sample(begin, now - spent, masks - before))
            before, spent = masks, now
    assert masks == shown, (masks, shown)
    print(f"camera: {masks} frames in {time.monotonic() - begin:.0f} s", flush=True)
    return np.array(samples)


def watch_videos(segmenter: VideoSegmenter, count: int, folder: Path) -> np.ndarray:
    """The samples `[count, 5]`, one after each video of 12 to 40 frames."""
    clips, samples, begin = [], [], time.monotonic()
    for number, size in enumerate(SIZES):
        clips.append(folder / f"{number}.mp4")
        with av.open(str(clips[-1]), "w") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
            for picture in moving_square(40, *size):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode(None))
    for number in range(count):
        frames, before = 12 + number * 7 % 29, time.process_time()
        options = JobOptions(save_every=10, most_frames=frames)
        results = ResultFolder(folder / f"out{number}", {"input": number})
        summary = segment_video(segmenter, VideoFile(clips[number % len(clips)]), results, options)
        assert summary["frames"] == frames
        samples.append(sample(begin, time.process_time() - before, frames))
    return np.array(samples)


def figures(samples: np.ndarray, settled: int) -> dict[str, list[float]]:
    """Of each column the medians of the first and the last tenth, and the largest value, once all is allocated."""
    samples = samples[settled:]
    tenth = max(1, len(samples) // 10)
    return {
        name: [
            round(float(value), 1) for value in (np.median(column[:tenth]), np.median(column[-tenth:]), column.max())
        ]
        for name, column in zip(COLUMNS[1:], samples.T[1:], strict=True)
    }


def draw(path: Path, parts: dict[str, np.ndarray]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(4, len(parts), sharex="col", figsize=(9, 6), layout="constrained", squeeze=False)
    for column, (title, samples) in enumerate(parts.items()):
        for row, name in enumerate(COLUMNS[1:]):
            axes[row, column].plot(samples[:, 0] / 60, samples[:, row + 1], linewidth=1)
            axes[row, column].set(ylabel=name, ylim=(0, 1.2 * samples[SETTLED:, row + 1].max()))  # compiling apart
        axes[0, column].set(title=title)
        axes[-1, column].set(xlabel="minutes")
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60, help="of the camera; 0: none of it")
    parser.add_argument("--rate", type=float, default=8, help="frames a second of the camera, on average")
    parser.add_argument("--videos", type=int, default=200)
    parser.add_argument("--weights", default="tiny")
    parser.add_argument("--samples", type=Path, help="folder to keep them in, a file for each part")
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    process.enable_compilation_cache()
    segmenter = VideoSegmenter.load(given.weights, size=(64, 96), chunk=1)
    parts = {}
    if given.minutes:
        parts["camera"] = watch_camera(segmenter, given.minutes * 60, given.rate)
        print(json.dumps({"camera": figures(parts["camera"], SETTLED)}), flush=True)
    if given.videos:
        with tempfile.TemporaryDirectory() as folder:
            parts["short videos"] = watch_videos(segmenter, given.videos, Path(folder))
        print(json.dumps({"short videos": figures(parts["short videos"], 3 * len(SIZES))}), flush=True)
    print("threads left:", sorted(thread.name for thread in threading.enumerate()))
    if given.samples:
        given.samples.mkdir(parents=True, exist_ok=True)
        for name, samples in parts.items():
            np.savetxt(given.samples / f"{name}.csv", samples, "%.3f", ",", header=",".join(COLUMNS))
        parts = {path.stem: np.loadtxt(path, delimiter=",") for path in sorted(given.samples.glob("*.csv"))}
    if given.plot:
        draw(given.plot, parts)


if __name__ == "__main__":
    main()
