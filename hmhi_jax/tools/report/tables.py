"""Scores as tables for other programs (CSV) and for papers (Markdown)."""

import csv
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hmhi_jax.evaluation.protocols import better, display_name
from hmhi_jax.evaluation.scores import Scores


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
        rows.append([*start, "data set", "", found.frame_count, *(_csv(found.figures.get(name)) for name in figures)])
        for name, values in found.classes.items():
            rows.append([*start, "class", name, "", *(_csv(values.get(figure)) for figure in figures)])
        for name, video in found.videos.items():
            count = int(video.scored.sum())
            rows.append([*start, "video", name, count, *(_csv(video.figures.get(figure)) for figure in figures)])
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
    rows = [[*key, *(_csv(row.get(measure)) for measure in measures)] for key, row in frames.items()]
    return _write_csv(["run", "reading", "video", "frame", *measures], rows)


def _csv(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.6f}"


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
        figures = [name for name in (*first.protocol.headline, *_other_figures(first)) if name in first.figures]
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


def _other_figures(scores: Scores) -> list[str]:
    return [name for name in scores.figures if name not in scores.protocol.headline and "class" not in name]


def _markdown_table(corner: str, rows: Sequence[tuple[str, dict[str, float]]], figures: Sequence[str]) -> str:
    lines = [
        "| " + " | ".join([corner, *map(display_name, figures)]) + " |",
        "|" + "|".join(["---"] + ["---:"] * len(figures)) + "|",
    ]
    for name, values in rows:
        cells = []
        for figure in figures:
            value = values.get(figure, math.nan)
            text = "" if math.isnan(value) else f"{value:.3f}"
            others = [other.get(figure, math.nan) for label, other in rows if label != name]
            beaten = any(better(figure, other, value) for other in others)
            cells.append(f"**{text}**" if len(rows) > 1 and text and not beaten else text)
        lines.append("| " + " | ".join([name.replace("|", "\\|"), *cells]) + " |")
    return "\n".join(lines) + "\n"
