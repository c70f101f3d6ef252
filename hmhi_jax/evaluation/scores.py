"""What an evaluation returns: figures of a data set, its classes, its videos and their frames, by one protocol."""

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from hmhi_jax.evaluation.frame_scores import FrameScore
from hmhi_jax.evaluation.measures import decay, recall
from hmhi_jax.evaluation.pairing import FramePair, Remark, VideoPair
from hmhi_jax.evaluation.protocols import Protocol


@dataclass(frozen=True)
class VideoScores:
    """One video: `figures` by name, its annotated frames' files in order, and per frame the measures (NaN: not scored).

    `curves` holds the video's F and E over the 256 thresholds (VSOD only). `counted` marks the frames that count for
    the means of the protocol. `scores["J_mean"]` is short for `scores.figures["J_mean"]`.
    """

    name: str
    figures: dict[str, float]
    pairs: tuple[FramePair, ...]
    per_frame: dict[str, Float[np.ndarray, " T"]]
    counted: tuple[bool, ...]
    label: str | None = None
    curves: dict[str, Float[np.ndarray, "256"]] = field(default_factory=dict)

    def __getitem__(self, figure: str) -> float:
        return self.figures[figure]

    @property
    def frames(self) -> list[str]:
        """Names of the annotated frames, in order."""
        return [pair.frame for pair in self.pairs]

    @property
    def scored(self) -> Bool[np.ndarray, " T"]:
        """Frames that count and were scored."""
        return np.array(self.counted, bool) & ~np.isnan(next(iter(self.per_frame.values())))


@dataclass(frozen=True)
class Scores:
    """Scores of one method by one protocol and reading.

    `figures` are the data set's, `classes` maps a class to its figures (in protocols that have classes), `videos` a
    name to its `VideoScores`, `curves` holds F and E over the thresholds (VSOD only). `remarks` lists every gap and
    rule; `complete` is whether every annotated frame was scored. `scores["J_mean"]` is short for
    `scores.figures["J_mean"]`.
    """

    protocol: Protocol
    reading: str
    predictions: str
    truth: str
    figures: dict[str, float]
    videos: dict[str, VideoScores]
    classes: dict[str, dict[str, float]]
    curves: dict[str, Float[np.ndarray, "256"]]
    remarks: tuple[Remark, ...]

    def __getitem__(self, figure: str) -> float:
        return self.figures[figure]

    @property
    def complete(self) -> bool:
        """Whether every annotated frame was scored."""
        return not any(remark.kind == "gap" for remark in self.remarks)

    @property
    def frame_count(self) -> int:
        """How many frames were scored and count."""
        return sum(int(video.scored.sum()) for video in self.videos.values())

    def to_json(self) -> dict[str, Any]:
        """Plain values for `json.dump`; NaN becomes null."""
        return _plain({
            "protocol": self.protocol.name,
            "reading": self.reading,
            "predictions": self.predictions,
            "truth": self.truth,
            "complete": self.complete,
            "videos_scored": len(self.videos),
            "frames_scored": self.frame_count,
            "figures": self.figures,
            "classes": self.classes,
            "curves": self.curves,
            "videos": {
                name: {
                    **video.figures,
                    "frames": video.frames,
                    "counted": list(video.counted),
                    "per_frame": video.per_frame,
                    **({"curves": video.curves} if video.curves else {}),
                }
                for name, video in self.videos.items()
            },
            "remarks": [{"kind": r.kind, "video": r.video, "frame": r.frame, "text": r.text} for r in self.remarks],
        })  # fmt: skip

    def __str__(self) -> str:
        figures = ", ".join(
            f"{name} {self.figures[name]:.3f}" for name in self.protocol.headline if name in self.figures
        )
        gaps = "" if self.complete else f", {sum(r.kind == 'gap' for r in self.remarks)} gaps"
        return f"{figures} ({self.protocol.name}, {self.reading} reading, {len(self.videos)} videos{gaps})"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, np.ndarray):
        return [_plain(inner) for inner in value.tolist()]
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 9)
    return value


def dump_json(value: Any) -> str:
    """JSON with one line per video or other third-level entry: readable, and not a line per number."""

    def lines(value: Any, depth: int) -> str:
        if value and depth < 4 and isinstance(value, dict):
            (begin, end), inner = "{}", [f"{json.dumps(key)}: {lines(item, depth + 1)}" for key, item in value.items()]
        elif value and depth < 4 and isinstance(value, list) and isinstance(value[0], dict):
            (begin, end), inner = "[]", [lines(item, depth + 1) for item in value]
        else:
            return json.dumps(value, ensure_ascii=False, allow_nan=False)
        margin = "\n" + " " * depth
        return begin + ",".join(f"{margin} {line}" for line in inner) + margin + end

    return lines(value, 0) + "\n"


def score_video(pair: VideoPair, scores: Sequence[FrameScore | None], protocol: Protocol) -> VideoScores | None:
    """Aggregate the scores of a video's annotated frames (None: not scored) as the protocol says; None where no frame
    that counts was scored."""
    known = next(score for score in scores if score is not None)
    per_frame = {
        name: np.array([score.values[name] if score else np.nan for score in scores], np.float64)
        for name in known.values
        if (name in ("J", "F")) == (protocol.kind == "uvos")
    }
    counted = protocol.select(len(scores))
    scored = np.array([i in counted and score is not None for i, score in enumerate(scores)])
    if not scored.any():
        return None
    figures: dict[str, float] = {}
    for measure, values in per_frame.items():
        mean = float(values[scored].mean())
        if protocol.kind == "uvos":
            inner = values[1:-1]
            figures |= {f"{measure}_mean": mean, f"{measure}_recall": recall(inner), f"{measure}_decay": decay(inner)}
        else:
            figures[measure] = mean
    curves = {}
    if protocol.kind == "uvos":
        figures["JF_mean"] = (figures["J_mean"] + figures["F_mean"]) / 2
        per_frame["JF"] = (per_frame["J"] + per_frame["F"]) / 2
    else:
        for curve in known.curves:
            of_frames = [score.curves[curve] for score in itertools.compress(scores, scored) if score]
            curves[curve] = np.stack(of_frames).astype(np.float64).mean(axis=0)
            figures[f"max_{curve}"] = float(curves[curve].max())
    return VideoScores(
        pair.video, figures, pair.frames, per_frame, tuple(i in counted for i in range(len(scores))), pair.label, curves
    )


def score_data_set(
    videos: dict[str, VideoScores], protocol: Protocol
) -> tuple[dict[str, float], dict[str, dict[str, float]], dict[str, Float[np.ndarray, "256"]]]:
    """Figures, figures per class and curves of a data set: means over its videos."""
    members = list(videos.values())
    curves = {curve: np.mean([video.curves[curve] for video in members], axis=0) for curve in members[0].curves}
    figures = _mean_figures(members)
    for curve, values in curves.items():  # the highest point of the mean curve, not the mean of highest points
        figures[f"max_{curve}"] = float(values.max())
    by_class: dict[str, list[VideoScores]] = {}
    for video in members:
        if (named := protocol.class_of(video.name)) is not None:
            by_class.setdefault(video.label or named, []).append(video)
    classes = {name: _mean_figures(group) for name, group in sorted(by_class.items())}
    for measure in ("J", "F", "JF") if classes else ():
        figures[f"{measure}_class_mean"] = float(np.mean([found[f"{measure}_mean"] for found in classes.values()]))
    return figures, classes, curves


def _mean_figures(videos: list[VideoScores]) -> dict[str, float]:
    """Mean of every figure over videos; a recall or decay that does not exist (two frames) is left out."""
    figures = {}
    for name in videos[0].figures:
        values = np.array([video.figures[name] for video in videos])
        known = values[~np.isnan(values)]
        figures[name] = float(known.mean()) if known.size else float("nan")
    return figures
