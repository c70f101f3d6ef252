"""One video into one folder of results: streaming, restartable, everything at the same time."""

import dataclasses
import platform
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import numpy as np
from jaxtyping import UInt8

from hmhi_jax import __version__
from hmhi_jax.data.flow_folder import FlowFolder
from hmhi_jax.data.video import Frame, Video
from hmhi_jax.errors import InputError
from hmhi_jax.inference.lanes import Lanes, Result
from hmhi_jax.inference.masks import read_logits
from hmhi_jax.inference.pipeline import WORKERS, Pipeline, StageTimes
from hmhi_jax.inference.result_folder import ResultFolder
from hmhi_jax.inference.segmenter import VideoSegmenter
from hmhi_jax.inference.stream_state import StreamState
from hmhi_jax.inference.writers import ContactSheet, OverlayWriter, draw_overlay, fit_overlay, write_png

_LIBRARIES = ("jax", "jaxlib", "flax", "numpy", "opencv-python-headless", "av", "pillow")


@dataclasses.dataclass(frozen=True)
class JobOptions:
    """What to write of a video.

    threshold    probability above which a pixel is foreground
    soft         also write probabilities
    overlay      also write overlay.mp4
    save_every   frames after which the memory is saved, to go on from there; 0 never
    resume       go on from a saved memory; else an unfinished video starts over
    most_frames  stop after so many frames
    """

    threshold: float = 0.5
    soft: bool = False
    overlay: bool = True
    save_every: int = 100
    resume: bool = True
    most_frames: int | None = None


class Interrupted(Exception):
    """The job was asked to stop before its end; what is done is kept."""


def segment_video(
    segmenter: VideoSegmenter,
    video: Video,
    folder: ResultFolder,
    options: JobOptions,
    *,
    flow: FlowFolder | None = None,
    about: dict[str, Any] | None = None,
    on_progress: Callable[[int], None] = lambda frames: None,
    stop: threading.Event | None = None,
    lanes: Lanes | None = None,
) -> dict[str, Any]:
    """Segment `video` into `folder`, going on from a saved memory if there is one, and return the summary.

    Args:
        segmenter: the network.
        video: what to segment.
        folder: where the results go; its `status` is not "finished".
        options: what to write.
        flow: flow pictures; None estimates flow as the weights' recipe says.
        about: entries for the summary (the command, the weights' name).
        on_progress: called with the number of finished frames, after each, and at the start.
        stop: once set, a live video ends as if its camera had been switched off; any other raises `Interrupted`.
        lanes: of the segmenter, where other videos are segmented at the same time, each in a thread of its own.

    Raises:
        InputError: for frames or flow that cannot be used, or a disk that takes no more. Finished frames stay, and the
            same call goes on after the cause is gone.
    """
    begin = time.perf_counter()
    stop = stop or threading.Event()
    times = StageTimes()
    with folder.occupied(options.soft):
        progress = _Progress.restore(folder, options) or _Progress()
        if not progress.frames:
            folder.saved_memory.unlink(missing_ok=True)  # what it belonged to is about to be replaced
        resumed_at = progress.frames
        save_every = segmenter.whole_chunks(options.save_every)
        writer = OverlayWriter(folder.workplace, video.frame_rate, video.sample_aspect_ratio, begin=progress.frames)
        on_progress(progress.frames)

        def finish(result: Result) -> tuple[Result, float, UInt8[np.ndarray, "h w 3"]]:
            """Write a frame's pictures; what is left to do is told by its area and overlay."""
            with times.measure("masks"):
                mask = read_logits(result.logits, result.size, "mask", options.threshold)
                write_png(folder.masks / f"{result.name}.png", mask, folder.workplace)
                if options.soft:
                    soft = read_logits(result.logits, result.size, "plain")
                    write_png(folder.soft / f"{result.name}.png", soft, folder.workplace)
                drawn = draw_overlay(result.kept, fit_overlay(mask))
            return result, float(np.count_nonzero(mask) / mask.size), drawn

        with Pipeline() as pipeline:
            frames = _until(video, video.frames(progress.frames), stop, options.most_frames)
            results = segmenter.results(
                pipeline.ahead(times.timed("decode", frames), 1),
                pipeline=pipeline,
                flow_of=flow,
                keep=lambda frame: fit_overlay(frame.picture),
                state=progress.state,
                state_every=save_every,
                times=times,
                lanes=lanes,
            )
            progress.state = None  # some megabytes that are on the device now
            try:
                for result, area, overlay in pipeline.map(finish, results, WORKERS):
                    progress.add(result, area, overlay)
                    if options.overlay:
                        with times.measure("overlay"):
                            writer.add(overlay)
                    if save_every and result.state and progress.frames % save_every == 0:
                        with times.measure("saving the memory"):
                            writer.cut()
                            progress.save(folder, result.state())
                    on_progress(progress.frames)
                    if stop.is_set() and not video.live:
                        raise Interrupted
                if options.overlay:
                    with times.measure("overlay"):
                        writer.finish(folder.overlay)
            finally:
                writer.close()
        write_png(folder.sheet, progress.sheet.draw(), folder.workplace)
        summary = {
            **(about or {}),
            "input": video.path,
            "frames": progress.frames,
            "frame_size": list(video.size),
            "frame_rate": float(video.frame_rate),
            "network_size": list(segmenter.network_size(video.size)),
            "notes": list(video.notes),
            **({"flow_difference": flow.difference} if flow and flow.difference else {}),
            "mean_area": float(np.mean(progress.areas)),
            "area": dict(zip(progress.names, (round(area, 6) for area in progress.areas), strict=True)),
            **_speed(times, progress.frames - resumed_at, time.perf_counter() - begin, resumed_at),
            "versions": versions(),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        folder.finish(summary)
    return summary


class _Progress:
    """What has been finished: areas, the contact sheet, and the memory to go on from."""

    def __init__(self) -> None:
        self.areas = array("f")
        self.names: list[str] = []
        self.sheet = ContactSheet()
        self.state: StreamState | None = None

    @property
    def frames(self) -> int:
        return len(self.areas)

    def add(self, result: Result, area: float, overlay: UInt8[np.ndarray, "h w 3"]) -> None:
        self.areas.append(area)
        self.names.append(result.name)
        self.sheet.add(result.index, f"{result.name}   {area:.1%}", overlay)

    def save(self, folder: ResultFolder, state: StreamState) -> None:
        arrays, note = self.sheet.state()
        arrays["areas"] = np.asarray(self.areas, np.float32)
        note = {"sheet": note, "names": self.names, "identity": folder.identity}
        state.save(folder.saved_memory, arrays, note)

    @classmethod
    def restore(cls, folder: ResultFolder, options: JobOptions) -> "_Progress | None":
        """What was saved, if it is wanted, belongs to these very results and the pictures before it are there."""
        if not options.resume or not folder.saved_memory.exists():
            return None
        progress = cls()
        progress.state, arrays, note = StreamState.load_with_extra(folder.saved_memory)
        if note.get("identity") != folder.identity:
            return None
        try:
            if not folder.holds(note["names"], options.soft):
                return None
            progress.areas.frombytes(arrays["areas"].tobytes())
            progress.names = note["names"]
            progress.sheet = ContactSheet.restore(arrays, note["sheet"])
            if not progress.frames == len(progress.names) == progress.state.frames:
                raise ValueError("its parts are of different lengths")
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{folder.saved_memory}: is damaged ({error}); delete it to start over") from error
        return progress


def versions() -> dict[str, str]:
    """Of everything that can change a mask."""
    return {
        "hmhi-jax": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in _LIBRARIES},
    }


def _until(video: Video, frames: Iterator[Frame], stop: threading.Event, most: int | None) -> Iterator[Frame]:
    """Frames until the stop sign (where stopping is no interruption) or the number wanted."""
    for frame in frames:
        if most is not None and frame.index >= most:
            return
        yield frame
        if stop.is_set() and video.live:
            return


def _speed(times: StageTimes, frames: int, wall: float, resumed_at: int) -> dict[str, Any]:
    """Seconds by stage (added over threads, so that they may exceed the clock's) and the rate of this run."""
    seconds = {stage: round(value, 3) for stage, value in times.seconds().items()}
    return {
        "seconds": {**seconds, "in all, by the clock": round(wall, 3)},
        "frames_per_second": round(frames / wall, 3),
        "resumed_at": resumed_at,
    }
