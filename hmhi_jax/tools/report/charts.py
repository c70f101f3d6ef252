"""Charts of the report as paths of an SVG, 1000 wide and 100 high; `templates/charts.html` draws them."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

COLOURS = 6
"""Runs' colours in the style sheet, numbered from 0."""

_WIDTH, _HEIGHT = 1000.0, 100.0


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    `values` [N], NaN where there is none. `colour` is the number of a run's colour in the style sheet; "steps" is a
    histogram's outline.
    """

    label: str
    values: np.ndarray
    colour: int = 0
    style: Literal["solid", "dashed", "steps"] = "solid"


@dataclass(frozen=True)
class Chart:
    """A chart as the template draws it.

    lines      with their paths in the SVG
    describe   what it shows, in a sentence, for those who cannot see it
    x_label    name of the positions
    ticks      names of positions, printed from left to right
    heights    values of the axis, printed from top to bottom
    uncounted  (left, width) of stretches that do not count, in the SVG's units
    numbers    JSON for the cursor of `report.js`
    """

    lines: list[tuple[Line, str]]
    describe: str
    x_label: str
    ticks: list[str]
    heights: list[str]
    uncounted: list[tuple[str, str]]
    numbers: str


def line_chart(
    lines: Sequence[Line],
    positions: Sequence[str],
    *,
    describe: str,
    x_label: str,
    highest: float = 1.0,
    shaded: Sequence[bool] = (),
    ticks: Sequence[str] = (),
) -> Chart:
    """A chart of lines over common positions, from 0 to `highest`.

    Args:
        lines: the lines, all of one length N.
        positions: N names of the positions (frame names, thresholds).
        describe: what the chart shows, in a sentence.
        x_label: name of the positions.
        highest: value at the top.
        shaded: N flags, positions that do not count.
        ticks: what is printed below, where not the first, middle and last position.
    """
    count = len(positions)
    drawn = []
    for line in lines:
        heights = np.clip(line.values, 0, highest) / highest
        drawn.append((line, _steps(heights) if line.style == "steps" else path(heights)))
    uncounted = []
    for start, stop in _runs(shaded):
        left, right = (_WIDTH * min(max(i - 0.5, 0), count - 1) / max(count - 1, 1) for i in (start, stop))
        uncounted.append((_number(left), _number(right - left)))
    numbers = {
        "x": list(positions),
        "name": x_label,
        "lines": [
            [line.label, line.colour, [None if math.isnan(v) else round(float(v), 4) for v in line.values]]
            for line in lines
        ],
        "digits": 2,
        "steps": any(line.style == "steps" for line in lines),
    }
    middle = [positions[0], positions[count // 2], positions[-1]] if count > 2 else list(positions)
    return Chart(
        drawn, describe, x_label, list(ticks) or middle, [f"{highest * i / 4:.2f}" for i in (4, 2, 0)], uncounted,
        json.dumps(numbers, separators=(",", ":")),
    )  # fmt: skip


def histogram_chart(series: Sequence[tuple[str, np.ndarray, int]], *, describe: str, x_label: str) -> Chart:
    """Distributions of scores in 0..1 as outlines: the share of frames in each of 20 bins.

    Args:
        series: label, scores (NaN is left out) and colour per distribution.
        describe: what the chart shows, in a sentence.
        x_label: what is distributed.
    """
    edges = np.linspace(0, 1, 21)
    lines = []
    for label, values, colour in series:
        known = values[~np.isnan(values)]
        counts = np.histogram(np.clip(known, 0, 1), edges)[0]
        lines.append(Line(label, counts / max(known.size, 1), colour, "steps"))
    top = max(math.ceil(max(float(line.values.max()) for line in lines) * 10) / 10, 0.1)
    names = [f"{low:.2f} to {low + 0.05:.2f}" for low in edges[:-1]]
    return line_chart(lines, names, describe=describe, x_label=x_label, highest=top, ticks=("0", "0.5", "1"))


def path(heights: np.ndarray) -> str:
    """A line through values in 0..1; it breaks where a value is missing, and a lone value is a short dash."""
    count = len(heights)
    pieces = []
    for start, stop in _runs(~np.isnan(heights)):
        places = [start - 0.2, start + 0.2] if stop == start + 1 else range(start, stop)
        points = [f"{_number(_WIDTH * i / max(count - 1, 1))} {_y(heights[round(i)])}" for i in places]
        pieces.append("M" + "L".join(points))
    return "".join(pieces)


def _steps(heights: np.ndarray) -> str:
    """The outline of a histogram, from the axis and back to it."""
    width = _WIDTH / len(heights)
    parts = [f"V{_y(height)}H{_number(width * (i + 1))}" for i, height in enumerate(heights)]
    return "".join(["M0 100", *parts, "V100"])


def _runs(flags: Sequence[bool] | np.ndarray) -> list[tuple[int, int]]:
    """(start, stop) of every stretch of true flags."""
    padded = np.diff(np.array([False, *flags, False], np.int8))
    return list(zip(np.flatnonzero(padded == 1).tolist(), np.flatnonzero(padded == -1).tolist(), strict=True))


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _y(height: float) -> str:
    return _number(_HEIGHT * (1 - height))
