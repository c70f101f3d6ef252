"""Every measure of one frame, from its two files: how those of predictions are read, and their scores; and of many
frames, on all cores: in threads where there are few and in joblib's processes where there are many.

Its processes are fresh Pythons, so one that runs JAX is not forked, and they do not run the caller's script again: who
calls `evaluate_uvos` needs no `if __name__ == "__main__"`.
"""

import signal
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import cv2
import joblib
import numpy as np
from jaxtyping import Float, UInt8

from hmhi_jax.data import masks
from hmhi_jax.data.pictures import Picture, open_picture
from hmhi_jax.errors import InputError
from hmhi_jax.evaluation import measures as formulas
from hmhi_jax.evaluation.measures import boundary_f, jaccard

Measure = Literal["uvos", "vsod", "extra"]
"""What to compute: J and F, the release's saliency figures, those of PySODMetrics."""

READINGS: dict[str, str] = {
    "plain": (
        "The file's 8-bit values as they are; foreground is above 128. This is what the release's scoring code does to "
        "the files it is given, and the honest reading of a probability map."
    ),
    "release": (
        "Each frame is stretched to 0..255 between its smallest and largest value, then foreground is above 128. The "
        "release does this when it saves a prediction, so a frame without any object is stretched to full contrast as "
        "well. A file that spans 0 to 254 or 255 already is left as it is."
    ),
}
"""What each reading of a prediction file does."""

FOREGROUND_ABOVE = 128
_FEW_COLOURS = 256  # as many as a palette could hold


class Prediction(NamedTuple):
    """A prediction's 8-bit values, and by which rule worth knowing they were understood ("" by none)."""

    values: UInt8[np.ndarray, "H W"]
    rule: str = ""


def read_prediction(source: Picture) -> UInt8[np.ndarray, "H W"]:
    """A prediction's file as 8-bit values; see `understand_prediction`."""
    return understand_prediction(source).values


def understand_prediction(source: Picture) -> Prediction:
    """A prediction's file as 8-bit values.

    8-bit grey is taken as it is, 16-bit grey is scaled to 8 bits, floats in 0..1 times 255. Label pictures (a palette,
    or 16 bits with no value above 255) and 1-bit pictures become 0 and 255. Colour pictures of few colours are label
    pictures too, understood as ground truth is, as are lossy ones with objects on a plain ground; of others the
    brightest channel is taken. Of cut-outs, pictures whose
    transparency differs from pixel to pixel, the opacity is. Raises `InputError` if the file is no picture.
    """
    picture = open_picture(source)
    if picture.mode == "L":
        return Prediction(np.asarray(picture))
    if picture.mode == "1":
        return Prediction(np.asarray(picture, np.uint8) * np.uint8(255))
    if picture.mode == "P" and not masks.is_grey_ramp(picture):
        return Prediction(masks.decode_mask(picture, None).grey)
    if picture.mode.startswith("I"):
        values = np.asarray(picture).astype(np.int64)
        if values.max() <= 255:
            return Prediction((values > 0).view(np.uint8) * np.uint8(255))
        return Prediction(np.clip(np.rint(values / 257), 0, 255).astype(np.uint8))
    if picture.mode == "F":
        shares = np.nan_to_num(np.asarray(picture), nan=0.0)
        return Prediction(np.clip(np.rint(shares * 255), 0, 255).astype(np.uint8))
    if (opaque := masks.opacity(picture)) is not None:
        return Prediction(opaque, "cut-outs, whose opacity is taken for the mask")
    colours = np.asarray(picture.convert("RGB"))
    if masks.is_tinged_grey(colours):
        return Prediction(np.asarray(picture.convert("L")))
    if picture.info["lossy"]:
        if (cut := masks.cut_out_of_lossy(picture)) is not None:
            return Prediction(cut)
    elif picture.convert("RGB").getcolors(_FEW_COLOURS):
        return Prediction(masks.merge_colours(colours, picture.format))
    return Prediction(colours.max(axis=-1), "pictures of many colours, whose brightest channel is taken for the mask")


def read_as(prediction: UInt8[np.ndarray, "H W"], reading: str) -> UInt8[np.ndarray, "H W"]:
    """Apply a reading (see `READINGS`) to a prediction's 8-bit values; a constant frame becomes 0 under `release`."""
    if reading == "plain":
        return prediction
    low, high = int(prediction.min()), int(prediction.max())
    # The release rounds down what it saves, so the brightest pixel of a frame it has stretched may be 254.
    if low == 0 and high >= 254:
        return prediction
    levels = (np.clip(np.arange(256) - low, 0, high - low) * 255) // max(high - low, 1)
    return levels.astype(np.uint8)[prediction]


def resize_prediction(prediction: UInt8[np.ndarray, "H W"], shape: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
    """Bring a prediction to the truth's (height, width): bilinear on the 8-bit values, half-pixel centres."""
    return cv2.resize(prediction, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)


@dataclass(frozen=True)
class FrameScore:
    """Scores of one frame under one reading; what was not asked for is absent.

    `values` holds J, F, MAE, S and the `sod_` figures by name, `curves` F and E, float32 [256].
    """

    values: dict[str, float] = field(default_factory=dict)
    curves: dict[str, Float[np.ndarray, "256"]] = field(default_factory=dict)


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
    prediction: UInt8[np.ndarray, "H W"], grey: UInt8[np.ndarray, "H W"], measures: frozenset[Measure]
) -> FrameScore:
    """Score one frame's 8-bit prediction against its truth (0 background, 255 object), both of one size."""
    score, half = FrameScore(), grey >= 128
    if "uvos" in measures:
        mask, truth = prediction > FOREGROUND_ABOVE, grey > 0
        score.values.update(J=jaccard(mask, truth), F=boundary_f(mask, truth))
    if "vsod" in measures:
        histograms = formulas.quadrant_histograms(prediction, half)
        histogram = histograms.sum(axis=0)
        score.values["MAE"] = formulas.mean_absolute_error(histogram)
        score.values["S"] = formulas.s_measure(histograms)
        score.curves["F"] = formulas.f_curve(histogram).astype(np.float32)
        score.curves["E"] = formulas.e_curve(histogram).astype(np.float32)
    if "extra" in measures:
        score.values.update(formulas.extra_measures(prediction, half))
    return score


def score_files(
    prediction_file: Picture,
    truth_file: Picture,
    readings: tuple[str, ...],
    measures: frozenset[Measure],
    void_label: masks.VoidLabel,
) -> FrameResult:
    """Score one frame from its files; a file that cannot be read becomes the result's `problem`."""
    try:
        truth, (prediction, rule) = masks.read_truth(truth_file, void_label), understand_prediction(prediction_file)
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
_SECONDS_PER_FRAME: dict[Measure, float] = {"uvos": 0.008, "vsod": 0.008, "extra": 0.06}  # of 854 x 480 pixels, roughly


def score_all(
    files: Sequence[tuple[Picture, Picture]],
    readings: tuple[str, ...],
    measures: frozenset[Measure],
    void_label: masks.VoidLabel = "auto",
    workers: int | None = None,
) -> Iterator[tuple[int, FrameResult]]:
    """Score (prediction, truth) pairs on `workers` cores (all if not given). Yields (index, result) in the order they
    are done. Raises `RuntimeError` if a process died, for lack of memory for one."""
    count = min(workers or joblib.cpu_count(), -(-len(files) // _FRAMES_PER_TASK))
    seconds = sum(_SECONDS_PER_FRAME[measure] for measure in measures) * len(readings)
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
