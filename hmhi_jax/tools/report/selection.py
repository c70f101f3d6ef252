"""Which of all scores, figures and frames a page shows."""

import math
from collections.abc import Sequence

import numpy as np

from hmhi_jax.evaluation.protocols import better
from hmhi_jax.evaluation.scores import Scores, VideoScores
from hmhi_jax.tools.report.tables import Run, combinations

Members = Sequence[tuple[Run, Scores]]
"""Scores of several runs by the same protocol and reading."""


def main_scores(runs: Sequence[Run]) -> list[tuple[Run, Scores]]:
    """Of each run the scores that charts and frames show: the first UVOS ones, else the first."""
    members = list(combinations(runs))
    return next((group for group in members if group[0][1].protocol.kind == "uvos"), members[0])


def lead_figure(scores: Scores) -> str:
    """The figure that stands for all of a video's or a data set's."""
    return "JF_mean" if scores.protocol.kind == "uvos" else "S"


def frame_measure(figure: str) -> str:
    """The measure of frames that a figure is the mean of."""
    return figure.removesuffix("_mean")


def worst_and_best(video: VideoScores, figure: str) -> tuple[int, int]:
    """Positions of a video's worst and best frame among those that count."""
    values = np.where(video.scored, video.per_frame[frame_measure(figure)], np.nan)
    return int(np.nanargmin(values)), int(np.nanargmax(values))


def ordered_figures(scores: Scores) -> list[str]:
    """Names of a data set's figures: the headline first."""
    return [name for name in dict.fromkeys((*scores.protocol.headline, *scores.figures)) if name in scores.figures]


def protocol_and_reading(scores: Scores) -> str:
    """What scores were made by, in words."""
    return f"{scores.protocol.name}, {scores.reading} reading"


def video_names(members: Members) -> list[str]:
    """Names of all videos that any of the runs has."""
    return list(dict.fromkeys(video for _, found in members for video in found.videos))


def video_figures(members: Members) -> list[str]:
    """Figures of the table of videos: all of a single run, of several the protocol's headline."""
    scores = members[0][1]
    figures = [name for name in ordered_figures(scores) if "class" not in name]
    return figures if len(members) == 1 else [name for name in scores.protocol.headline if name in figures]


def figure_of_all(members: Members, figure: str, video: str | None = None) -> list[float]:
    """A figure of every run, of its data set or one of its videos; NaN where a run has none."""
    found = [scores.figures if video is None else _of_video(scores, video) for _, scores in members]
    return [figures.get(figure, math.nan) for figures in found]


def _of_video(scores: Scores, video: str) -> dict[str, float]:
    return scores.videos[video].figures if video in scores.videos else {}


def class_names(members: Members) -> list[str]:
    """Names of all classes."""
    return list(dict.fromkeys(name for _, found in members for name in found.classes))


def class_figures(members: Members, name: str) -> list[float]:
    """J of a class, of every run."""
    return [found.classes.get(name, {}).get("J_mean", math.nan) for _, found in members]


def is_best(figure: str, value: float, values: Sequence[float]) -> bool:
    """Whether none of several values is better."""
    return len(values) > 1 and not math.isnan(value) and not any(better(figure, other, value) for other in values)
