"""Pieces every part of the report's page is made of."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np

from hmhi_jax.evaluation.figure_names import better
from hmhi_jax.evaluation.scores import Scores, VideoScores
from hmhi_jax.tools.report.pictures import FrameRequest, Overlay
from hmhi_jax.tools.report.tables import Run, combinations

COLOURS = 6


@dataclass(frozen=True)
class Page:
    """What a page is made of.

    runs      methods with their scores
    title     heading
    overlays  by `FrameRequest.key`
    extremes  per run: the requests of its best and worst frames
    links     (text, address) of other pages: single runs, or the comparison a run belongs to
    created   date and time, and the version that wrote it
    """

    runs: Sequence[Run]
    title: str
    overlays: dict[tuple[str, str, str, str], Overlay]
    extremes: dict[str, tuple[list[FrameRequest], list[FrameRequest]]]
    links: Sequence[tuple[str, str]] = ()
    created: str = ""
    _ids: dict[str, str] = field(default_factory=dict)

    def address(self, video: str) -> str:
        """An address inside the page, without characters that would need quoting."""
        if video not in self._ids:
            plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in video)
            self._ids[video] = f"video-{len(self._ids)}-{plain}"
        return self._ids[video]


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


def cell(value: float, figure: str, rivals: Sequence[float] | None = None, edge: bool = False) -> str:
    """A number of a table; marked as best where no rival is better, and at the edge of a group of columns."""
    beaten = rivals is None or any(better(figure, rival, value) for rival in rivals)
    classes = " ".join([*(["best"] if not beaten and not math.isnan(value) else []), *(["group"] if edge else [])])
    attribute = f' class="{classes}"' if classes else ""
    number = "" if math.isnan(value) else f"{value:.6f}"
    return f'<td{attribute} data-value="{number}">{three_digits(value)}</td>'


def sort_button(text: str, column: int, first: str) -> str:
    """A column's head that sorts by it, at first in the direction `first`."""
    return f'<button type="button" data-column="{column}" data-first="{first}">{escape(text)}</button>'


def three_digits(value: float) -> str:
    """A dash where it is not a number."""
    return "\u2013" if math.isnan(value) else f"{value:.3f}"


def chip(text: str) -> str:
    """A word in a frame."""
    return f'<span class="chip">{escape(text)}</span>'


def counted(number: int, noun: str) -> str:
    """ "1 video", "2 videos"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def prose(text: str) -> str:
    """A docstring's paragraph: `names` become code."""
    pieces = escape(" ".join(text.split())).split("`")
    return "".join(f"<code>{piece}</code>" if i % 2 else piece for i, piece in enumerate(pieces))
