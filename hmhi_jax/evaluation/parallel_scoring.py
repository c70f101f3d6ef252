"""Frames scored on all cores, in threads where there are few and in joblib's processes where there are many.

Its processes are fresh Pythons, so one that runs JAX is not forked, and they do not run the caller's script again: who
calls `evaluate_uvos` needs no `if __name__ == "__main__"`.
"""

import signal
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool

import cv2
import joblib

from hmhi_jax.data.masks import VoidLabel
from hmhi_jax.data.pictures import Picture
from hmhi_jax.evaluation.frame_scores import FrameResult, Measures, score_files

# Frames handed to a worker at once: enough to make the exchange cheap, few enough to keep all cores busy to the end.
_FRAMES_PER_TASK = 8
# Starting processes takes this many seconds of work; less is done in threads, which the Python interpreter hinders but
# does not stop: decoding and morphology run outside of it.
_WORTH_PROCESSES = 2.0
_SECONDS_PER_FRAME = {"uvos": 0.008, "vsod": 0.008, "extra": 0.06}  # of 854 x 480 pixels, roughly


def score_all(
    files: Sequence[tuple[Picture, Picture]],
    readings: tuple[str, ...],
    measures: Measures,
    void_label: VoidLabel = "auto",
    workers: int | None = None,
) -> Iterator[tuple[int, FrameResult]]:
    """Score (prediction, truth) pairs on `workers` cores (all if not given).

    Yields:
        (index, result) in the order they are done.

    Raises:
        RuntimeError: a process died, for lack of memory for one.
    """
    count = min(workers or joblib.cpu_count(), -(-len(files) // _FRAMES_PER_TASK))
    seconds = sum(cost for name, cost in _SECONDS_PER_FRAME.items() if getattr(measures, name)) * len(readings)
    in_processes = count > 1 and seconds * len(files) >= _WORTH_PROCESSES
    score = _in_process if in_processes else _scored
    parallel = joblib.Parallel(
        n_jobs=max(count, 1),
        backend="loky" if in_processes else "threading",
        batch_size=_FRAMES_PER_TASK,
        return_as="generator_unordered",
    )
    try:
        yield from parallel(
            joblib.delayed(score)(i, *pair, readings, measures, void_label) for i, pair in enumerate(files)
        )
    except BrokenProcessPool as error:
        raise RuntimeError(
            f"a scoring process ended (out of memory?); run again with fewer workers: {error}"
        ) from error


def _scored(
    index: int,
    prediction: Picture,
    truth: Picture,
    readings: tuple[str, ...],
    measures: Measures,
    void_label: VoidLabel,
) -> tuple[int, FrameResult]:
    return index, score_files(prediction, truth, readings, measures, void_label)


def _in_process(*arguments) -> tuple[int, FrameResult]:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C belongs to the parent, which ends its workers
    cv2.setNumThreads(1)  # as many processes as cores
    return _scored(*arguments)
