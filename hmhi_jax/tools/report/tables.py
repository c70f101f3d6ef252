"""Which of all scores, figures and frames a report shows; scores as tables for other programs (CSV) and for papers
(Markdown)."""

import csv
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hmhi_jax.evaluation.protocols import better, display_name
from hmhi_jax.evaluation.scores import Scores, VideoScores
from hmhi_jax.tools.pages import six_digits


@dataclass(frozen=True)
class Run:
    """A method's name and its scores, one per protocol and reading."""

    name: str
    scores: tuple[Scores, ...]


def combinations(runs: Sequence[Run]) -> Iterator[list[tuple[Run, Scores]]]:
    """Scores of all runs by the same protocol and reading, side by side, in the order of their first appearance."""
    keys = dict.fromkeys((found.protocol.name, found.reading) for run in runs for found in run.scores)
    for key in keys:
        yield [(run, found) for run in runs for found in run.scores if (found.protocol.name, found.reading) == key]


def scores_csv(runs: Sequence[Run]) -> str:
    """A row per run, protocol, reading and data set, class or video, with all figures; `level` says which."""
    all_scores = [(run, found) for run in runs for found in run.scores]
    figures = list(dict.fromkeys(figure for _, found in all_scores for figure in found.figures))
    rows = []
    for run, found in all_scores:
        start = run.name, found.protocol.name, found.reading
        listed: list[tuple[Any, ...]] = [("data set", "", found.frame_count, found.figures)]
        listed += [("class", name, "", values) for name, values in found.classes.items()]
        listed += [("video", name, int(one.scored.sum()), one.figures) for name, one in found.videos.items()]
        for *where, values in listed:
            rows.append([*start, *where, *(six_digits(values.get(figure, math.nan)) for figure in figures)])
    return _write_csv(["run", "protocol", "reading", "level", "name", "frames", *figures], rows)


def frames_csv(runs: Sequence[Run]) -> str:
    """A row per run, reading, video and frame, with every per-frame measure; J and F beside MAE, S and the others."""
    frames: dict[tuple[str, str, str, str], dict[str, float]] = {}
    for run in runs:
        for found in run.scores:
            for name, video in found.videos.items():
                for i, frame in enumerate(video.frames):
                    row = frames.setdefault((run.name, found.reading, name, frame), {})
                    row |= {measure: float(values[i]) for measure, values in video.per_frame.items()}
    measures = list(dict.fromkeys(measure for row in frames.values() for measure in row))
    rows = [[*key, *(six_digits(row.get(measure, math.nan)) for measure in measures)] for key, row in frames.items()]
    return _write_csv(["run", "reading", "video", "frame", *measures], rows)


def _write_csv(header: list[str], rows: list[list]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return buffer.getvalue()


def scores_markdown(runs: Sequence[Run]) -> str:
    """One table per protocol and reading: a row per run, the best figure of each column in bold; then classes."""
    parts = []
    for members in combinations(runs):
        first = members[0][1]
        gaps = [run.name for run, found in members if not found.complete]
        parts.append(
            f"**{first.protocol.name}**, {first.reading} reading, {len(first.videos)} videos"
            + (f" (incomplete: {', '.join(gaps)})" if gaps else "")
            + "\n"
        )
        figures = [n for n in ordered_figures(first) if n in first.protocol.headline or "class" not in n]
        parts.append(_markdown_table("method", [(run.name, found.figures) for run, found in members], figures))
        if first.classes:
            names = list(first.classes)
            rows = [
                (run.name, {name: found.classes[name]["J_mean"] for name in names if name in found.classes})
                for run, found in members
            ]
            parts.append(f"J per class, {first.protocol.name}, {first.reading} reading\n")
            parts.append(_markdown_table("method", rows, names))
    return "\n".join(parts)


def _markdown_table(corner: str, rows: Sequence[tuple[str, dict[str, float]]], figures: Sequence[str]) -> str:
    lines = ["| " + " | ".join([corner, *map(display_name, figures)]) + " |", "|---|" + "---:|" * len(figures)]
    for name, values in rows:
        cells = []
        for figure in figures:
            value, column = values.get(figure, math.nan), [other.get(figure, math.nan) for _, other in rows]
            text = "" if math.isnan(value) else f"{value:.3f}"
            cells.append(f"**{text}**" if is_best(figure, value, column) else text)
        lines.append("| " + " | ".join([name.replace("|", "\\|"), *cells]) + " |")
    return "\n".join(lines) + "\n"


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
    of_all = [scores if video is None else scores.videos.get(video) for _, scores in members]
    return [one.figures.get(figure, math.nan) if one else math.nan for one in of_all]


def class_names(members: Members) -> list[str]:
    """Names of all classes."""
    return list(dict.fromkeys(name for _, found in members for name in found.classes))


def class_figures(members: Members, name: str) -> list[float]:
    """J of a class, of every run."""
    return [found.classes.get(name, {}).get("J_mean", math.nan) for _, found in members]


def is_best(figure: str, value: float, values: Sequence[float]) -> bool:
    """Whether none of several values is better."""
    return len(values) > 1 and not math.isnan(value) and not any(better(figure, other, value) for other in values)
