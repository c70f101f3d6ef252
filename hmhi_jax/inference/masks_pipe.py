"""Masks as raw frames on standard output, for the next program of a pipe."""

import contextlib
import io
import os
import sys
import threading
from collections.abc import Callable, Iterator

import numpy as np

from hmhi_jax.data.flow_folder import FlowFolder
from hmhi_jax.data.video import Video
from hmhi_jax.errors import InputError
from hmhi_jax.inference.lanes import Result
from hmhi_jax.inference.masks import read_result
from hmhi_jax.inference.pipeline import WORKERS, Pipeline
from hmhi_jax.inference.postprocessor import Finished, Postprocessor, Read
from hmhi_jax.inference.segmenter import VideoSegmenter
from hmhi_jax.inference.video_job import JobOptions, frames_until
from hmhi_jax.inference.writers import fit_overlay


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
    video: Video,
    segmenter: VideoSegmenter,
    options: JobOptions,
    flow: FlowFolder | None,
    masks: io.RawIOBase,
    on_progress: Callable[[int], None],
    stop: threading.Event,
) -> None:
    """Write a mask for each frame, 8-bit grey at the frame's size, row by row, as soon as it is there.

    Raises `InputError` for frames that cannot be used, and where nobody reads the masks any more; those before are
    written.
    """

    postprocessor = Postprocessor(options.masks_for(video, flow), options.threshold)

    def read(result: Result) -> Read:
        return postprocessor.read(result, result.kept)

    def finish(frame: Finished) -> np.ndarray:
        return read_result(frame.result, "plain") if options.soft else frame.mask

    with Pipeline() as pipeline:
        frames = frames_until(video, video.frames(), stop, options.most_frames)
        results = segmenter.results(
            pipeline.ahead(frames, 1),
            pipeline=pipeline,
            flow_of=flow,
            keep=lambda frame: fit_overlay(frame.picture),
            detect_cuts=options.detect_cuts,
            refine=options.refine,
        )
        followed = map(postprocessor.follow, pipeline.map(read, results, WORKERS))
        for number, mask in enumerate(map(finish, followed), 1):
            try:
                left = memoryview(mask.tobytes())
                while left:
                    left = left[masks.write(left) :]
            except OSError as error:
                reason = error.strerror or error
                raise InputError(f"standard output: takes no more masks ({reason}), after {number - 1}") from error
            on_progress(number)
