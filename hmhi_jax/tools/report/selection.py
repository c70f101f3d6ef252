"""Which of all scores, figures and frames a page shows."""

from collections.abc import Sequence

import numpy as np

from hmhi_jax.evaluation.scores import Scores, VideoScores
from hmhi_jax.tools.report.tables import Run, combinations


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
