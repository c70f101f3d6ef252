"""What `hmhi segment` costs around the network, and whether length matters.

    python benchmarks/segment.py stages clip.mp4 --weights W     # the whole job against the network alone, in one run
    python benchmarks/segment.py long clip.mp4 --frames 10000    # the clip over and over: memory and time per frame
    python benchmarks/segment.py outputs clip.mp4 --weights small --frames 132    # size and time of everything written
    python benchmarks/segment.py outputs clip.mp4 --weights small --frames 132 --constant    # around the network

All run the real job: decoding, flow, network, masks, overlay, saved memory; `--constant` puts an ellipse that is always
the same in the network's place. Times need a quiet machine; the ratio of `stages` is of interleaved rounds; of
`outputs`, processor time varies least.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp

from hmhi_jax import process
from hmhi_jax.data.open_videos import open_videos
from hmhi_jax.data.video import Frame, Video
from hmhi_jax.inference.clean_up import CleanUp
from hmhi_jax.inference.functions import Functions
from hmhi_jax.inference.lanes import Lanes
from hmhi_jax.inference.masks import Postprocessing
from hmhi_jax.inference.network_input import prepare, windows
from hmhi_jax.inference.pipeline import StageTimes
from hmhi_jax.inference.result_folder import Outputs, ResultFolder
from hmhi_jax.inference.segmenter import VideoSegmenter
from hmhi_jax.inference.video_job import JobOptions, segment_video


class Looped(Video):
    """A video over and over, as one of any length."""

    def __init__(self, video: Video, frames: int) -> None:
        self._video = video
        self.name, self.path, self.size, self.frame_rate = video.name, video.path, video.size, video.frame_rate
        self.frame_count, self.notes = frames, []

    def frames(self, start: int = 0) -> Iterator[Frame]:
        index = 0
        while True:
            for frame in self._video.frames():
                if index == self.frame_count:
                    return
                if index >= start:
                    yield Frame(index, f"{index:06d}", frame.picture)
                index += 1

    def fingerprint(self) -> dict[str, int]:
        return {"frames": self.frame_count}


def stages(video: Video, segmenter: VideoSegmenter, frames: int, rounds: int) -> None:
    """Seconds per frame of the network alone and of the whole job, and where the job's threads spent theirs."""
    looped = Looped(video, frames)
    recipe, options = segmenter.flow_recipe, {"network_size": segmenter.network_size, "times": StageTimes()}
    ready = [prepare(window, recipe, **options) for window in windows(looped.frames(), recipe, None)]

    def alone() -> None:
        for _ in Lanes(segmenter.network, segmenter.chunk).results(ready, None, StageTimes()):
            pass

    def whole() -> dict[str, float]:
        with tempfile.TemporaryDirectory() as folder:
            return segment_video(segmenter, looped, ResultFolder(folder, {}), JobOptions())["seconds"]

    alone()  # compiles
    seconds: dict[str, list[float]] = {"network alone": [], "whole job": []}
    for _ in range(rounds):
        begin = time.perf_counter()
        alone()
        middle = time.perf_counter()
        by_stage = whole()
        end = time.perf_counter()
        seconds["network alone"].append((middle - begin) / frames)
        seconds["whole job"].append((end - middle) / frames)
    for name, values in seconds.items():
        print(f"{name:16} {min(values) * 1e3:8.1f} ms a frame (least of {rounds} rounds)")
    ratios = sorted(w / a for a, w in zip(*seconds.values(), strict=True))
    print(f"on top of the network: {(ratios[len(ratios) // 2] - 1):.1%} (median of rounds)")
    print("the last job's seconds by stage, added over threads, per frame:")
    for stage, value in by_stage.items():
        print(f"  {stage:32} {value / frames * 1e3:8.1f} ms")


def constant(segmenter: VideoSegmenter) -> VideoSegmenter:
    """The same around a network that costs nothing: whatever comes, its logits are those of an ellipse."""
    height, width = segmenter.input_size
    y, x = jnp.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    functions = Functions(
        lambda logits, frames, flows: tuple(frame[:1, :1] for frame in frames),
        lambda logits, features: (jnp.zeros(()), logits),
        lambda logits, memory, features: (memory, logits),
    )
    logits = 20 * (0.3 - jnp.hypot(x, y))[None, ..., None]
    return VideoSegmenter(
        None, logits, functions=functions, size=segmenter.input_size, flow_recipe=segmenter.flow_recipe, chunk=1
    )


# What is asked for beside masks, and its name in the folder of results.
OUTPUTS: dict[str, tuple[dict, str]] = {
    "masks alone": ({}, "masks"),
    "--soft": ({"soft": True}, "soft"),
    "overlay": ({"overlay": True}, "overlay.mp4"),
    "--cutout mov": ({"outputs": Outputs(cutout="mov")}, "cutout.mov"),
    "--cutout webm": ({"outputs": Outputs(cutout="webm")}, "cutout.webm"),
    "--matte": ({"outputs": Outputs(matte=True)}, "matte.mp4"),
    "--rgba": ({"outputs": Outputs(rgba=True)}, "rgba"),
    "--exr": ({"outputs": Outputs(exr=True)}, "exr"),
    "--palette": ({"outputs": Outputs(palette=True)}, "objects"),
    "--objects 5": ({"masks": Postprocessing(objects=5)}, "objects"),
    "--coco": ({"outputs": Outputs(coco=True)}, "coco.json"),
    "--youtube-vis": ({"outputs": Outputs(youtube_vis=True)}, "youtube_vis.json"),
    "--steady 0.6": ({"masks": Postprocessing(CleanUp(steady=0.6))}, "masks"),
}


def outputs(video: Video, segmenter: VideoSegmenter, frames: int) -> None:
    """A table: frames a second of the whole job, processor time a frame in all and on top of the masks alone, bytes a
    frame."""
    print("| | frames/s | processor ms a frame | on top of masks | bytes a frame |\n|---|---|---|---|---|")
    alone = None
    for name, (wanted, found) in ((None, OUTPUTS["masks alone"]), *OUTPUTS.items()):  # the first one compiles
        options = JobOptions(**{"overlay": False, "save_every": 0, "most_frames": frames, **wanted})
        kinds = {"masks", *options.outputs.pictures(), *(["objects"] if options.masks.objects else [])}
        with tempfile.TemporaryDirectory() as place:
            cutout = Path(place) / found if options.outputs.cutout else None
            folder = ResultFolder(place, {}, tuple(kinds | ({"soft"} if options.soft else set())), cutout)
            begin, processor = time.perf_counter(), time.process_time()
            segment_video(segmenter, video, folder, options)
            processor = (time.process_time() - processor) / frames * 1e3
            rate = frames / (time.perf_counter() - begin)
            written = Path(place) / found
            size = sum(file.stat().st_size for file in (written.iterdir() if written.is_dir() else [written])) / frames
        if name:
            alone = processor if alone is None else alone
            print(f"| `{name}` | {rate:.1f} | {processor:.0f} | {processor - alone:.0f} | {size:,.0f} |", flush=True)


def resident() -> float:
    """MiB of memory this process holds (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def long(video: Video, segmenter: VideoSegmenter, frames: int, plot: Path) -> None:
    """Resident memory and time per frame along one long video."""
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, _, **__: compiled.append(event) if event.endswith("backend_compile_duration") else None
    )
    times, memory, compilations = [], [], []

    def watch(done: int) -> None:
        times.append(time.perf_counter())
        memory.append(resident())
        compilations.append(len(compiled))
        if done and done % 1000 == 0:
            print(f"{done:7} frames: {memory[-1]:7.0f} MiB, {(times[-1] - times[-1000]) / 999 * 1e3:6.1f} ms a frame")

    with tempfile.TemporaryDirectory() as folder:
        segment_video(segmenter, Looped(video, frames), ResultFolder(folder, {}), JobOptions(), on_progress=watch)
    early, late = min(100, frames // 4), frames
    growth = memory[late] / memory[early] - 1
    print(f"resident after {early} frames {memory[early]:.0f} MiB, after {late} {memory[late]:.0f} MiB ({growth:+.1%})")
    print(f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10:.0f} MiB")
    print(f"programs compiled after frame {early}: {compilations[late] - compilations[early]}")

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(2, 1, sharex=True, figsize=(8, 5), layout="constrained")
    above.plot(memory, linewidth=1)
    above.set(ylabel="resident memory, MiB", ylim=(0, 1.2 * max(memory)), title=f"{frames} frames of one video")
    step = max(1, frames // 200)
    rates = [(times[i] - times[i - step]) / step * 1e3 for i in range(step + 1, len(times), step)]
    below.plot(range(step + 1, len(times), step), rates, linewidth=1)
    below.set(ylabel="time, ms a frame", xlabel="frame", ylim=(0, None))
    figure.savefig(plot, dpi=120)
    print(plot)


def main() -> None:
    process.restart_with_large_pages()  # as the command does
    process.enable_compilation_cache()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("stages", "long", "outputs"))
    parser.add_argument("video")
    parser.add_argument("--weights", default="tiny")
    parser.add_argument("--frames", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plot", type=Path, default=Path("long_video.png"))
    parser.add_argument("--constant", action="store_true")
    given = parser.parse_args()
    (video,) = open_videos([given.video])
    segmenter = VideoSegmenter.load(given.weights)
    if given.constant:
        segmenter = constant(segmenter)
    if given.what == "stages":
        stages(video, segmenter, given.frames, given.rounds)
    elif given.what == "outputs":
        outputs(video, segmenter, given.frames)
    else:
        long(video, segmenter, given.frames, given.plot)


if __name__ == "__main__":
    main()
