"""One video into one folder of results, restartable, or as masks into a pipe: streaming, all at the same time."""

import contextlib
import dataclasses
import io
import os
import platform
import sys
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
from hmhi_jax.inference.masks import Finished, Postprocessing, Postprocessor, Read, read_result
from hmhi_jax.inference.pipeline import WORKERS, Pipeline, StageTimes
from hmhi_jax.inference.result_folder import Outputs, ResultFolder
from hmhi_jax.inference.result_writers import Drawn, ResultWriters
from hmhi_jax.inference.segmenter import VideoSegmenter
from hmhi_jax.inference.stream_state import StreamState
from hmhi_jax.inference.writers import ContactSheet, fit_overlay, write_png

# With this package and Python, everything that can change a mask.
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
    masks        what becomes of the network's masks: nothing there, clean-up, objects
    outputs      what else to write
    detect_cuts  look for changes of shot
    refine       let masks keep to the edges of the frames, see `VideoSegmenter.stream`
    """

    threshold: float = 0.5
    soft: bool = False
    overlay: bool = True
    save_every: int = 100
    resume: bool = True
    most_frames: int | None = None
    masks: Postprocessing = dataclasses.field(default_factory=Postprocessing)
    outputs: Outputs = dataclasses.field(default_factory=Outputs)
    detect_cuts: bool = True
    refine: bool | None = None

    def masks_for(self, video: Video, flow: FlowFolder | None) -> Postprocessing:
        """`masks` for a video with given flow. Confidence was measured with flow pictures as the weights want them; a
        single frame shows no motion."""
        told = not (flow and flow.difference) and video.frame_count != 1
        return self.masks if told else dataclasses.replace(self.masks, calibration=None)


class Interrupted(Exception):
    """The job was asked to stop before its end; what is done is kept."""


def segment_video(
    segmenter: VideoSegmenter,
    video: Video,
    folder: ResultFolder,
    options: JobOptions,
    *,
    flow: FlowFolder | None = None,
    entries: dict[str, Any] | None = None,
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
        entries: for the summary (the command, the weights' name).
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
    with folder.occupied():
        masks = options.masks_for(video, flow)
        postprocessor = Postprocessor(masks, options.threshold)
        progress = _Progress.restore(folder, options, postprocessor) or _Progress()
        if not progress.frames:
            folder.saved_memory.unlink(missing_ok=True)  # what it belonged to is about to be replaced
        resumed_at = progress.frames
        save_every = segmenter.whole_chunks(options.save_every)
        writers = ResultWriters(
            folder, options.outputs, video, overlay=options.overlay, begin=progress.frames, objects=masks.objects
        )
        on_progress(progress.frames)

        def finish(frame: Finished) -> tuple[Finished, float, Drawn]:
            """Write a frame's pictures; what is left to do is told by its area and what was drawn."""
            with times.measure("masks"):
                soft = read_result(frame.result, "plain") if options.soft else None
                drawn = writers.write(frame.result, frame.mask, frame.labels, soft)
            return frame, float(np.count_nonzero(frame.mask > 127) / frame.mask.size), drawn

        with Pipeline() as pipeline:
            followed = _postprocessed(
                pipeline, segmenter, video, options, postprocessor, stop, begin=progress.frames, times=times,
                picture_of=lambda result: result.kept.small, keep=writers.keep, flow_of=flow, state=progress.state,
                state_every=save_every, lanes=lanes,
            )  # fmt: skip
            progress.state = None  # some megabytes that are on the device now
            try:
                for frame, area, drawn in pipeline.map(finish, followed, WORKERS):
                    result = frame.result
                    progress.add(frame, options.outputs.name(result.index, result.name), area, drawn)
                    writers.add(drawn, result.kept.begin, times)
                    if save_every and result.state and progress.frames % save_every == 0:
                        with times.measure("saving the memory"):
                            writers.cut()
                            progress.save(folder, frame)
                    on_progress(progress.frames)
                    if stop.is_set() and not video.live:
                        raise Interrupted
                writers.finish(progress.names, [*progress.times, progress.end], times)
            finally:
                writers.close()
        write_png(folder.sheet, progress.sheet.draw(), folder.workplace)
        wall = time.perf_counter() - begin
        seconds = {**times.seconds(), "in all, by the clock": wall}
        libraries = {name: version(name) for name in _LIBRARIES}
        summary = {
            **(entries or {}),
            "input": video.path,
            "frames": progress.frames,
            "frame_size": list(video.size),
            "frame_rate": float(video.frame_rate),
            "network_size": list(segmenter.network_size(video.size)),
            "every": segmenter.every,
            "notes": list(video.notes),
            "cuts": progress.cuts,
            **({"flow_difference": flow.difference} if flow and flow.difference else {}),
            "mean_area": float(np.mean(progress.areas)),
            "area": dict(zip(progress.names, (round(area, 6) for area in progress.areas), strict=True)),
            **progress.confidence(),
            **({"objects": postprocessor.objects(progress.names)} if masks.objects else {}),
            # Of stages they are added over threads, and may exceed the clock's.
            "seconds": {stage: round(value, 3) for stage, value in seconds.items()},
            "frames_per_second": round((progress.frames - resumed_at) / wall, 3),
            "resumed_at": resumed_at,
            "versions": {"hmhi-jax": __version__, "python": platform.python_version(), **libraries},
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        folder.finish(summary)
    return summary


@contextlib.contextmanager
def standard_output() -> Iterator[io.RawIOBase]:
    """Standard output for masks alone: whatever else is printed while the block runs goes to standard error."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with os.fdopen(os.dup(kept), "wb", buffering=0) as masks:
            yield masks
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def write_masks(
    segmenter: VideoSegmenter,
    video: Video,
    masks: io.RawIOBase,
    options: JobOptions,
    *,
    flow: FlowFolder | None,
    on_progress: Callable[[int], None],
    stop: threading.Event,
) -> None:
    """Write a mask for each frame to `masks`, 8-bit grey at the frame's size, row by row, as soon as it is there; the
    other arguments are those of `segment_video`.

    Raises `InputError` for frames that cannot be used, and where nobody reads the masks any more; those before are
    written.
    """
    postprocessor = Postprocessor(options.masks_for(video, flow), options.threshold)
    with Pipeline() as pipeline:
        finished = _postprocessed(
            pipeline, segmenter, video, options, postprocessor, stop, picture_of=lambda result: result.kept,
            keep=lambda frame: fit_overlay(frame.picture), flow_of=flow,
        )  # fmt: skip
        for number, frame in enumerate(finished):
            mask = read_result(frame.result, "plain") if options.soft else frame.mask
            try:
                left = memoryview(mask.tobytes())
                while left:
                    left = left[masks.write(left) :]
            except OSError as error:
                reason = error.strerror or error
                raise InputError(f"standard output: takes no more masks ({reason}), after {number}") from error
            on_progress(number + 1)


def _postprocessed(
    pipeline: Pipeline,
    segmenter: VideoSegmenter,
    video: Video,
    options: JobOptions,
    postprocessor: Postprocessor,
    stop: threading.Event,
    *,
    picture_of: Callable[[Result], UInt8[np.ndarray, "h w 3"]],
    begin: int = 0,
    times: StageTimes | None = None,
    **results: Any,
) -> Iterator[Finished]:
    """A video's frames from number `begin` on with their final masks, by stages of `pipeline`; `picture_of` gives what
    the postprocessor looks at, `results` are arguments of `VideoSegmenter.results`."""
    times = times or StageTimes()

    def read(result: Result) -> Read:
        with times.measure("masks"):
            return postprocessor.read(result, picture_of(result))

    def follow(frames: Iterator[Read]) -> Iterator[Finished]:
        for frame in frames:
            with times.measure("masks"):
                finished = postprocessor.follow(frame)
            yield finished

    frames = times.timed("decode", frames_until(video, video.frames(begin), stop, options.most_frames))
    found = segmenter.results(
        pipeline.ahead(frames, 1), pipeline=pipeline, detect_cuts=options.detect_cuts, refine=options.refine,
        times=times, **results,
    )  # fmt: skip
    return pipeline.ahead(follow(pipeline.map(read, found, WORKERS)), 1)


class _Progress:
    """What has been finished: areas, the contact sheet, and the memory to go on from."""

    _ARRAYS, _NOTED = ("areas", "times", "confidences"), ("names", "nothing", "cuts", "end")  # what is saved, as what

    def __init__(self) -> None:
        self.areas = array("f")
        self.names: list[str] = []
        self.confidences = array("f")  # of all frames, or none
        self.nothing: list[str] = []  # names of frames in which nothing moves by itself
        self.times = array("q")  # when each frame is shown, in the video's time bases
        self.end = 0  # of the last one
        self.cuts: list[str] = []  # names of frames with which a new shot begins
        self.sheet = ContactSheet()
        self.state: StreamState | None = None

    @property
    def frames(self) -> int:
        return len(self.areas)

    def add(self, frame: Finished, name: str, area: float, drawn: Drawn) -> None:
        result = frame.result
        self.areas.append(area)
        self.names.append(name)
        self.times.append(result.kept.begin)
        self.end = result.kept.end
        if frame.confidence is not None:
            self.confidences.append(frame.confidence)
        if frame.nothing:
            self.nothing.append(name)
        if result.begins_shot:
            self.cuts.append(name)
        if self.sheet.takes(result.index):
            caption = f"{name}   {'nothing here' if frame.nothing else f'{area:.1%}'}"
            self.sheet.add(result.index, caption, drawn.sheet())

    def confidence(self) -> dict[str, Any]:
        """For the summary; nothing without a calibration."""
        if not self.confidences:
            return {}
        by_name = dict(zip(self.names, (round(each, 4) for each in self.confidences), strict=True))
        return {"nothing_here": self.nothing, "confidence": by_name}

    def save(self, folder: ResultFolder, frame: Finished) -> None:
        sheet, sheet_note = self.sheet.state()
        masks, masks_note = frame.saved
        arrays = sheet | {name: np.array(getattr(self, name)) for name in self._ARRAYS}
        arrays |= {f"masks/{name}": array for name, array in masks.items()}
        note = {name: getattr(self, name) for name in self._NOTED}
        note |= {"sheet": sheet_note, "masks": masks_note, "identity": folder.identity}
        frame.result.state().save(folder.saved_memory, arrays, note)

    @classmethod
    def restore(cls, folder: ResultFolder, options: JobOptions, postprocessor: Postprocessor) -> "_Progress | None":
        """What was saved, if it is wanted, belongs to these very results and the pictures before it are there; the
        postprocessor then goes on from there too."""
        if not options.resume or not folder.saved_memory.exists():
            return None
        progress = cls()
        progress.state, arrays, note = StreamState.load_with_extra(folder.saved_memory)
        if note.get("identity") != folder.identity or "times" not in arrays:
            return None
        try:
            if not folder.holds(note["names"]):
                return None
            for name in cls._ARRAYS:
                getattr(progress, name).frombytes(arrays[name].tobytes())
            for name in cls._NOTED:
                setattr(progress, name, note[name])
            postprocessor.restore(
                {name.removeprefix("masks/"): array for name, array in arrays.items() if name.startswith("masks/")},
                note["masks"],
            )
            progress.sheet = ContactSheet.restore(arrays, note["sheet"])
            if not progress.frames == len(progress.names) == progress.state.frames:
                raise ValueError("its parts are of different lengths")
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{folder.saved_memory}: is damaged ({error}); delete it to start over") from error
        return progress


def frames_until(video: Video, frames: Iterator[Frame], stop: threading.Event, most: int | None) -> Iterator[Frame]:
    """Frames until the stop sign (where stopping is no interruption) or the number wanted."""
    for frame in frames:
        if most is not None and frame.index >= most:
            return
        yield frame
        if stop.is_set() and video.live:
            return
