"""What a report draws: charts as paths of an SVG, 1000 wide and 100 high, which `templates/charts.html` shows; and
overlays of frames (prediction, truth and difference) as embedded pictures of bounded total size."""

import contextlib
import io
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from hmhi_jax.data.masks import VoidLabel, read_truth
from hmhi_jax.data.pictures import Picture, PictureError, read_picture
from hmhi_jax.errors import InputError
from hmhi_jax.evaluation.frame_scores import FOREGROUND_ABOVE, read_as, read_prediction, resize_prediction
from hmhi_jax.evaluation.pairing import FramePair
from hmhi_jax.evaluation.scores import VideoScores
from hmhi_jax.tools.pages import data_address

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


# --- overlays of frames ----------------------------------------------------------------------------------------------

PANELS = ("prediction", "truth", "difference")
# Colours of Okabe and Ito, told apart by every kind of colour vision. RGB.
PREDICTED, TRUE, MISSED, FALSE_ALARM = (86, 180, 233), (0, 190, 135), (240, 150, 0), (214, 95, 180)
_WIDTHS = (352, 288, 224, 160, 120)
_QUALITY = 62


@dataclass(frozen=True, eq=False)
class ShownFrame:
    """A frame to show: its run, its video and its position there, and how its prediction is read."""

    run: str
    video: VideoScores
    position: int
    reading: str

    @property
    def pair(self) -> FramePair:
        """Its name and files."""
        return self.video.pairs[self.position]

    @property
    def key(self) -> tuple[str, str, str]:
        """What tells it from other frames: run, video, frame."""
        return self.run, self.video.name, self.pair.frame

    @property
    def measures(self) -> list[tuple[str, float]]:
        """What stands in its caption."""
        known = [name for name in ("J", "F", "S", "MAE") if name in self.video.per_frame]
        return [(name, float(self.video.per_frame[name][self.position])) for name in known]


@dataclass(frozen=True)
class Overlay:
    """Three panels of a frame as data addresses, and their (width, height) in pixels."""

    panels: tuple[str, str, str]
    size: tuple[int, int]


def draw_overlays(
    frames: Iterable[ShownFrame], void_label: VoidLabel, budget: int
) -> dict[tuple[str, str, str], Overlay]:
    """Draw frames, smaller where they would exceed the budget; the last are left out if need be.

    Args:
        frames: most important first.
        void_label: as in `read_truth`.
        budget: bytes the pictures may take in the page, in all.

    Returns overlays by the frames' keys; a frame whose files cannot be read is missing.
    """
    unique = {frame.key: frame for frame in frames}
    width = _WIDTHS[0]
    # The first few tell how large the rest will be.
    sample = [_draw(frame, void_label, width) for frame in islice(unique.values(), 6)]
    sizes = [sum(map(len, overlay.panels)) for overlay in sample if overlay]
    if sizes:
        expected = len(unique) * sum(sizes) / len(sizes)
        # Bytes of a compressed picture grow a little more slowly than its area.
        width = next((w for w in _WIDTHS if expected * (w / _WIDTHS[0]) ** 1.6 <= budget), _WIDTHS[-1])
    drawn, used = {}, 0
    for key, frame in unique.items():
        overlay = _draw(frame, void_label, width)
        if overlay is None:
            continue
        used += sum(map(len, overlay.panels))
        if used > budget:
            break
        drawn[key] = overlay
    return drawn


def _draw(frame: ShownFrame, void_label: VoidLabel, width: int) -> Overlay | None:
    pair = frame.pair
    if pair.prediction is None:
        return None
    try:
        truth = read_truth(pair.truth, void_label)
        prediction = read_as(read_prediction(pair.prediction), frame.reading)
    except InputError:
        return None
    if prediction.shape != truth.grey.shape:
        prediction = resize_prediction(prediction, truth.grey.shape)
    if truth.void is not None:
        prediction = np.where(truth.void, np.uint8(0), prediction)
    shape = truth.grey.shape
    size = width, max(round(shape[0] * width / shape[1]), 1)
    predicted, true = (_shrink(mask, size) for mask in (prediction > FOREGROUND_ABOVE, truth.grey > 0))
    background = _background(pair.picture, size)
    grey = np.repeat(background.mean(axis=2, keepdims=True), 3, axis=2) * 0.55 + 40
    panels = _tint(background, predicted, PREDICTED), _tint(background, true, TRUE), _difference(grey, predicted, true)
    shown, truth_shown, difference = map(_encode, panels)
    return Overlay((shown, truth_shown, difference), size)


def _shrink(mask: Bool[np.ndarray, "H W"], size: tuple[int, int]) -> np.ndarray:
    """Share of each small pixel that the mask covers, float32 [h, w, 1]."""
    return cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)[..., None]


def _background(frame: Picture | None, size: tuple[int, int]) -> np.ndarray:
    """The RGB frame, float [h, w, 3] in 0..255; a flat grey one where there is none."""
    if frame is not None:
        with contextlib.suppress(PictureError):
            return read_picture(frame, size[::-1], "fast").astype(np.float32)
    return np.full((size[1], size[0], 3), 70, np.float32)


def _tint(background: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """The object tinted, the rest dimmed."""
    tinted = background * 0.45 + np.array(colour, np.float32) * 0.55
    return mask * tinted + (1 - mask) * background * 0.6


def _difference(grey: np.ndarray, predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Found object light, missed object and false alarms in their colours, on a dim grey frame."""
    both, missed, false = np.minimum(predicted, true), (true - predicted).clip(0), (predicted - true).clip(0)
    found = grey * 0.35 + 150
    rest = 1 - both - missed - false
    colours = (np.array(colour, np.float32) for colour in (MISSED, FALSE_ALARM))
    missed_colour, false_colour = (grey * 0.2 + colour * 0.8 for colour in colours)
    return rest * grey * 0.7 + both * found + missed * missed_colour + false * false_colour


def _encode(panel: np.ndarray) -> str:
    """WebP as a data address."""
    buffer = io.BytesIO()
    picture: UInt8[np.ndarray, "h w 3"] = np.clip(panel, 0, 255).astype(np.uint8)
    Image.fromarray(picture).save(buffer, "WEBP", quality=_QUALITY, method=4)
    return data_address(buffer.getvalue(), "webp")
