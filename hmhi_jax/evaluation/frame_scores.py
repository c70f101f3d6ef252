"""Every measure of one frame, from its two files; and of many frames, on all cores: in threads where there are few and
in joblib's processes where there are many.

Its processes are fresh Pythons, so one that runs JAX is not forked, and they do not run the caller's script again: who
calls `evaluate_uvos` needs no `if __name__ == "__main__"`.
"""

import signal
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field

import cv2
import joblib
import numpy as np
from jaxtyping import Float, UInt8

from hmhi_jax.data.masks import VoidLabel, read_truth
from hmhi_jax.data.pictures import Picture
from hmhi_jax.errors import InputError
from hmhi_jax.evaluation import measures as formulas
from hmhi_jax.evaluation.measures import boundary_f, jaccard
from hmhi_jax.evaluation.pictures import (
    FOREGROUND_ABOVE,
    read_as,
    resize_prediction,
    understand_prediction,
)


@dataclass(frozen=True)
class Measures:
    """What to compute: J and F, the release's saliency figures, those of PySODMetrics."""

    uvos: bool = True
    vsod: bool = False
    extra: bool = False


@dataclass(frozen=True)
class FrameScore:
    """Scores of one frame under one reading; what was not asked for is absent.

    `values` holds J, F, MAE, S and the `sod_` figures by name; `f_curve` and `e_curve` are float32 [256].
    """

    values: dict[str, float] = field(default_factory=dict)
    f_curve: Float[np.ndarray, "256"] | None = None
    e_curve: Float[np.ndarray, "256"] | None = None


@dataclass(frozen=True)
class FrameResult:
    """A scored frame: its score per reading, its prediction's original (height, width) where it was resized, its
    largest value, the rule by which it was understood if that is worth knowing, whether its negative would fit; and of
    its truth whether there is an object, and what speaks against it.

    A frame that could not be scored has `problem` instead.
    """

    scores: dict[str, FrameScore]
    shape: tuple[int, int] = (0, 0)
    resized_from: tuple[int, int] | None = None
    brightest: int = 0
    rule: str = ""
    inverted: bool = False
    has_object: bool = True
    doubt: str = ""
    problem: str | None = None


def score_arrays(
    prediction: UInt8[np.ndarray, "H W"], grey: UInt8[np.ndarray, "H W"], measures: Measures
) -> FrameScore:
    """Score one frame's 8-bit prediction against its truth (0 background, 255 object), both of one size."""
    values = {}
    f_curve = e_curve = None
    if measures.uvos:
        mask, truth = prediction > FOREGROUND_ABOVE, grey > 0
        values["J"], values["F"] = jaccard(mask, truth), boundary_f(mask, truth)
    if measures.vsod or measures.extra:
        half = grey >= 128
        if measures.vsod:
            histograms = formulas.quadrant_histograms(prediction, half)
            histogram = histograms.sum(axis=0)
            values["MAE"] = formulas.mean_absolute_error(histogram)
            values["S"] = formulas.s_measure(histograms, half.shape, formulas.centroid(half))
            f_curve = formulas.f_curve(histogram).astype(np.float32)
            e_curve = formulas.e_curve(histogram).astype(np.float32)
        if measures.extra:
            values |= formulas.extra_measures(prediction, half)
    return FrameScore(values, f_curve, e_curve)


def score_files(
    prediction_file: Picture, truth_file: Picture, readings: tuple[str, ...], measures: Measures, void_label: VoidLabel
) -> FrameResult:
    """Score one frame from its files; a file that cannot be read becomes the result's `problem`."""
    try:
        truth, (prediction, rule) = read_truth(truth_file, void_label), understand_prediction(prediction_file)
    except InputError as error:
        return FrameResult({}, problem=str(error))
    resized_from = None if prediction.shape == truth.grey.shape else prediction.shape
    scores = {}
    for reading in readings:
        picture = read_as(prediction, reading)
        if resized_from:
            picture = resize_prediction(picture, truth.grey.shape)
        if truth.void is not None:  # background in prediction and truth alike, so that it adds to no error or success
            picture = np.where(truth.void, np.uint8(0), picture)
        scores[reading] = score_arrays(picture, truth.grey, measures)
    black = picture <= FOREGROUND_ABOVE
    inverted = bool(jaccard(black, truth.grey > 0) > 0.5 + jaccard(~black, truth.grey > 0))
    brightest, has_object = int(prediction.max()), bool(truth.grey.any())
    return FrameResult(scores, truth.grey.shape, resized_from, brightest, rule, inverted, has_object, truth.doubt)


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
    """Score (prediction, truth) pairs on `workers` cores (all if not given). Yields (index, result) in the order they
    are done. Raises `RuntimeError` if a process died, for lack of memory for one."""
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


def _scored(index: int, *arguments) -> tuple[int, FrameResult]:
    return index, score_files(*arguments)


def _in_process(*arguments) -> tuple[int, FrameResult]:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C belongs to the parent, which ends its workers
    cv2.setNumThreads(1)  # as many processes as cores
    return _scored(*arguments)
