"""Charts of the report as inline SVG.

A chart's lines are drawn in an SVG that is stretched to whatever width there is (strokes keep theirs); its labels are
HTML beside it, so they keep their size on a phone. The numbers ride along as JSON for the cursor (`page/report.js`).
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

_WIDTH, _HEIGHT = 1000.0, 100.0


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    `values` [N], NaN where there is none. `colour` is the number of a run's colour in the style sheet, `style` one of
    "solid", "dashed", "steps" (a histogram's outline).
    """

    label: str
    values: np.ndarray
    colour: int = 0
    style: str = "solid"


def line_chart(
    lines: Sequence[Line],
    positions: Sequence[str],
    *,
    describe: str,
    x_label: str,
    y_range: tuple[float, float] = (0.0, 1.0),
    y_format: str = ".2f",
    shaded: Sequence[bool] | None = None,
) -> str:
    """A chart of lines over common positions.

    Args:
        lines: the lines, all of one length N.
        positions: N names of the positions (frame names, thresholds); the first, middle and last are printed.
        describe: what the chart shows, in a sentence, for those who cannot see it.
        x_label: name of the positions.
        y_range: lowest and highest value.
        y_format: format of values in the read-out and of the axis.
        shaded: N flags, positions that do not count.
    """
    count = len(positions)
    low, high = y_range
    parts = [_grid()]
    for start, stop in _runs([bool(flag) for flag in shaded] if shaded is not None else []):
        left, right = (_x(max(start - 0.5, 0), count), _x(min(stop - 0.5, count - 1), count))
        parts.append(
            f'<rect class="uncounted" x="{left}" y="0" width="{_number(float(right) - float(left))}" height="100"/>'
        )
    for line in lines:
        heights = (np.clip(line.values, low, high) - low) / (high - low)
        path = _steps(heights) if line.style == "steps" else _path(heights)
        parts.append(f'<path class="line c{line.colour} {line.style}" d="{path}"/>')
    data = {
        "x": list(positions),
        "name": x_label,
        "lines": [
            [line.label, line.colour, [None if math.isnan(v) else round(float(v), 4) for v in line.values]]
            for line in lines
        ],
        "digits": int(y_format[1]),
        "steps": any(line.style == "steps" for line in lines),
    }
    middle = [positions[0], positions[count // 2], positions[-1]] if count > 2 else list(positions)
    ticks = "".join(f"<span>{escape(tick)}</span>" for tick in middle)
    heights = "".join(f"<span>{format(low + (high - low) * i / 4, y_format)}</span>" for i in (4, 2, 0))
    return (
        f'<div class="chart" data-chart="{escape(json.dumps(data, separators=(",", ":")))}">'
        f'<div class="legend">{_legend(lines)}<output aria-live="polite"></output></div>'
        f'<div class="y" aria-hidden="true">{heights}</div>'
        f'<div class="plot" role="img" tabindex="0" aria-label="{escape(describe)}">'
        f'<svg viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" preserveAspectRatio="none" aria-hidden="true">'
        f"{''.join(parts)}</svg>"
        f'<i class="cursor" hidden></i></div>'
        f'<div class="x" aria-hidden="true">{ticks}</div><div class="xname">{escape(x_label)}</div></div>'
    )


def histogram_chart(series: Sequence[tuple[str, np.ndarray, int]], *, describe: str, x_label: str) -> str:
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
    highest = max(float(line.values.max()) for line in lines)
    top = max(math.ceil(highest * 10) / 10, 0.1)
    names = [f"{low:.2f} to {low + 0.05:.2f}" for low in edges[:-1]]
    chart = line_chart(lines, names, describe=describe, x_label=x_label, y_range=(0.0, top))
    ticks = '<div class="x" aria-hidden="true"><span>0</span><span>0.5</span><span>1</span></div>'
    start = chart.index('<div class="x" aria-hidden')
    return chart[:start] + ticks + chart[chart.index('<div class="xname">') :]


def sparkline(values: np.ndarray, colour: int) -> str:
    """A word-sized line of scores in 0..1."""
    return (
        f'<svg class="spark" viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" preserveAspectRatio="none" aria-hidden="true">'
        f'<path class="line c{colour} solid" d="{_path(np.clip(values, 0, 1))}"/></svg>'
    )


def _legend(lines: Sequence[Line]) -> str:
    return "".join(
        f'<span class="key"><i class="c{line.colour} {line.style}"></i>{escape(line.label)}</span>' for line in lines
    )


def _number(value: float | int) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _x(index: float | int, count: int) -> str:
    return _number(_WIDTH * index / max(count - 1, 1))


def _y(height: float | int) -> str:
    return _number(_HEIGHT * (1 - height))


def _grid() -> str:
    return "".join(f'<path class="grid" d="M0 {y}H{_WIDTH:.0f}"/>' for y in (0, 25, 50, 75, 100))


def _runs(flags: Sequence[bool]) -> list[tuple[int, int]]:
    """(start, stop) of every stretch of true flags."""
    padded = np.diff(np.array([False, *flags, False], np.int8))
    return list(zip(np.flatnonzero(padded == 1).tolist(), np.flatnonzero(padded == -1).tolist(), strict=True))


def _path(heights: np.ndarray) -> str:
    """A line through all values; it breaks where a value is missing, and a lone value is a short dash."""
    count = len(heights)
    pieces = []
    for start, stop in _runs((~np.isnan(heights)).tolist()):
        points = [f"{_x(i, count)} {_y(heights[i])}" for i in range(start, stop)]
        if len(points) == 1:
            points = [
                f"{_x(start - 0.2, count)} {_y(heights[start])}",
                f"{_x(start + 0.2, count)} {_y(heights[start])}",
            ]
        pieces.append("M" + "L".join(points))
    return "".join(pieces)


def _steps(heights: np.ndarray) -> str:
    """The outline of a histogram, from the axis and back to it."""
    width = _WIDTH / len(heights)
    parts = ["M0 100"]
    for i, height in enumerate(heights):
        parts.append(f"V{_y(height)}H{_number(width * (i + 1))}")
    return "".join(parts) + "V100"
