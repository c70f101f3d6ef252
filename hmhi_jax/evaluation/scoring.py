"""Scores of a folder of predictions against a folder of ground truth."""

import collections
import contextlib
from collections.abc import Sequence
from pathlib import Path

from hmhi_jax.data.layouts import Dataset
from hmhi_jax.data.masks import EVERYWHERE, VoidLabel
from hmhi_jax.data.pictures import natural_key
from hmhi_jax.errors import InputError
from hmhi_jax.evaluation.frame_scores import FOREGROUND_ABOVE, READINGS, FrameResult, Measure, score_all
from hmhi_jax.evaluation.pairing import Remark, VideoPair, pair_folders
from hmhi_jax.evaluation.protocols import Protocol, find_protocol
from hmhi_jax.evaluation.scores import Scores, score_data_set, score_video
from hmhi_jax.progress import frame_progress

Results = dict[str, list[FrameResult | None]]
"""Of every annotated frame of every video; None without prediction."""


def evaluate_uvos(
    pred_dir: str | Path,
    gt_dir: str | Path | Dataset,
    protocol: str | Protocol = "davis16",
    reading: str = "plain",
    *,
    videos: Sequence[str] | None = None,
    void_label: VoidLabel = "auto",
    strict: bool = False,
    workers: int | None = None,
    progress: bool = False,
) -> Scores:
    """J, F and J&F of a method's predictions.

    Args:
        pred_dir: predictions, `<video>/<frame>.png` (8-bit probabilities or masks; any picture format, see `pictures`).
        gt_dir: masks, `<video>/<frame>.png`, or a data set: its folder, in any layout `hmhi_jax.data` knows, or opened.
        protocol: "davis16", "davis16-inner", "fbms" or "youtube-objects" (see `protocols`).
        reading: "plain" takes the files' values as they are, "release" stretches every frame to full contrast first.
        videos: names of the videos to score, where not all of `gt_dir`.
        void_label: value of pixels of the truth that do not count; "auto": 255 in palette pictures.
        strict: refuse gaps, predictions of another size and partners with other names instead of remarking on them.
        workers: processes; all cores by default. Each holds one frame at a time.
        progress: show a progress bar.

    Returns `Scores` with figures `J_mean`, `J_recall`, `J_decay`, the same of F, and `JF_mean`, for the data set and
    each video. Frames without prediction are not part of any mean and are listed in its `remarks`. Raises `InputError`
    if a folder is missing, nothing fits together, or `strict` and something is not as it should be.
    """
    (scores,) = evaluate(
        pred_dir, gt_dir, [find_protocol(protocol, "uvos")], [reading], videos=videos, void_label=void_label,
        strict=strict, workers=workers, progress=progress,
    )  # fmt: skip
    return scores


def evaluate_vsod(
    pred_dir: str | Path,
    gt_dir: str | Path | Dataset,
    protocol: str | Protocol = "vsod",
    reading: str = "plain",
    *,
    extra: bool = True,
    videos: Sequence[str] | None = None,
    void_label: VoidLabel = "auto",
    strict: bool = False,
    workers: int | None = None,
    progress: bool = False,
) -> Scores:
    """MAE, max F, max E, S and the F and E curves of a method's predictions.

    Args:
        extra: also the `sod_` figures of the PySODMetrics package (mean and adaptive F and E, weighted F), which take
            most of the time.
        The others are those of `evaluate_uvos`.

    Returns `Scores` with figures `MAE`, `max_F`, `max_E`, `S` and `curves` "F" and "E", float64 [256] over thresholds
    0..1. Raises `InputError` as `evaluate_uvos`.
    """
    (scores,) = evaluate(
        pred_dir, gt_dir, [find_protocol(protocol, "vsod")], [reading], extra=extra, videos=videos,
        void_label=void_label, strict=strict, workers=workers, progress=progress,
    )  # fmt: skip
    return scores


def evaluate(
    pred_dir: str | Path,
    gt_dir: str | Path | Dataset,
    protocols: Sequence[str | Protocol],
    readings: Sequence[str] = ("plain",),
    *,
    extra: bool = False,
    videos: Sequence[str] | None = None,
    void_label: VoidLabel = "auto",
    strict: bool = False,
    workers: int | None = None,
    progress: bool = False,
    frames_dir: str | Path | None = None,
) -> list[Scores]:
    """Scores by several protocols and readings at once; every pair of files is read once.

    `extra` adds the `sod_` figures to VSOD's; `frames_dir` is where a report finds RGB frames that are not beside the
    masks. Returns one `Scores` per reading and protocol, in that order: all protocols of the first reading, then of the
    second. Raises `InputError` as `evaluate_uvos`.
    """
    chosen = [find_protocol(protocol) for protocol in protocols]
    for reading in readings:
        if reading not in READINGS:
            raise InputError(f"reading: {reading!r} is not known; choose {' or '.join(READINGS)}")
    measures: set[Measure] = {protocol.kind for protocol in chosen}
    if extra and "vsod" in measures:
        measures.add("extra")
    pred_dir = Path(pred_dir)
    truth = gt_dir if isinstance(gt_dir, Dataset) else Path(gt_dir)
    place = str(truth.root if isinstance(truth, Dataset) else truth)
    pairs, remarks = pair_folders(pred_dir, truth, videos, Path(frames_dir) if frames_dir else None)
    if strict:
        _refuse(remarks)
    results: Results = {pair.video: [None] * len(pair.frames) for pair in pairs}
    places, files = [], []
    for pair in pairs:
        for number, frame in enumerate(pair.frames):
            if frame.prediction is not None:
                places.append((pair.video, number))
                files.append((frame.prediction, frame.truth))
    with frame_progress("scoring", len(files)) if progress else contextlib.nullcontext() as advance:
        for index, result in score_all(files, tuple(readings), frozenset(measures), void_label, workers):
            video, number = places[index]
            results[video][number] = result
            if advance:
                advance(1)
    remarks = remarks + _remarks_of_results(pairs, results)
    if strict:
        _refuse(remarks)
    ways = [(protocol, reading) for reading in readings for protocol in chosen]
    return [_aggregate(pairs, results, *way, remarks, str(pred_dir), place) for way in ways]


def _refuse(remarks: list[Remark]) -> None:
    remarks = [remark for remark in remarks if remark.kind != "unused"]
    if remarks:
        more = f" (and {len(remarks) - 1} more)" if len(remarks) > 1 else ""
        raise InputError(f"{remarks[0]}{more}; mend it, or leave `strict` off to score the rest and list the gaps")


def _remarks_of_results(pairs: list[VideoPair], results: Results) -> list[Remark]:
    remarks = []

    def rule(text: str, video: str = "") -> None:
        remarks.append(Remark("rule", video, None, text))

    for pair in pairs:
        resized = []
        for frame, result in zip(pair.frames, results[pair.video], strict=True):
            if result and result.problem:
                remarks.append(Remark("gap", pair.video, frame.frame, result.problem, broken=True))
            elif result and result.resized_from:
                resized.append((frame, result.resized_from, result.shape))
        if resized:
            frame, (height, width), (true_height, true_width) = resized[0]
            rule(
                f"{len(resized)} predictions, first {frame.frame}, of {width}x{height} pixels scaled bilinearly to the "
                f"truth's {true_width}x{true_height}",
                pair.video,
            )
    scored = [result for found in results.values() for result in found if result and not result.problem]
    for text, count in collections.Counter(result.rule for result in scored if result.rule).items():
        rule(f"{count} of {len(scored)} predictions are {text}")
    for doubt, count in collections.Counter(result.doubt for result in scored if result.doubt).items():
        if doubt != EVERYWHERE or 2 * count > len(scored):  # a few objects fill the picture
            rule(f"{count} of {len(scored)} ground truths are {doubt}")
    if scored and not any(result.has_object for result in scored):
        rule("no ground truth has any object; are they masks, of 0 and 255?")
    if 2 * (count := sum(result.inverted for result in scored)) > len(scored):
        rule(f"{count} of {len(scored)} predictions fit where they are black; are they inverted?")
    brightest = max((result.brightest for result in scored), default=255)
    if brightest <= FOREGROUND_ABOVE:
        rule(
            f"no prediction has a value above {brightest}, and what is not above {FOREGROUND_ABOVE} reads as an empty "
            "mask; save label pictures as 0 and 255 or with a palette, read faint probabilities as `release`"
        )
    elif scored and not any(score.values.get("J", 1) for result in scored for score in result.scores.values()):
        rule("no prediction has a pixel in common with its ground truth; are they masks, of the same frames?")
    return remarks


def _aggregate(
    pairs: list[VideoPair], results: Results, protocol: Protocol, reading: str, remarks: list[Remark],
    predictions: str, truth: str,
) -> Scores:  # fmt: skip
    remarks = list(remarks)
    videos = {}
    for pair in pairs:
        scores = [result.scores.get(reading) if result else None for result in results[pair.video]]
        if not any(scores):
            continue
        video = score_video(pair, scores, protocol)
        if video is None:
            text = f"{len(pair.frames)} annotated frames, none of which counts in {protocol.name}"
            remarks.append(Remark("gap", pair.video, None, text))
        else:
            videos[pair.video] = video
        if pair.unannotated and protocol.expect_annotations:
            text = f"{len(pair.unannotated)} predicted frames without ground truth"
            remarks.append(Remark("unused", pair.video, None, text))
    if not videos:
        lines = "; ".join(str(remark) for remark in remarks[:3])
        raise InputError(f"{predictions}: nothing could be scored against {truth} by {protocol.name}: {lines}")
    remarks.sort(key=lambda remark: (natural_key(remark.video), natural_key(remark.frame or "")))
    figures, classes, curves = score_data_set(videos, protocol)
    return Scores(protocol, reading, predictions, truth, figures, videos, classes, curves, tuple(remarks))
