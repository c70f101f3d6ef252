"""The report as one HTML page: headline figures, videos with their curves over time and their worst and best frames,
curves over thresholds, distributions, gaps; and which of all scores, figures and frames it shows."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hmhi_jax.evaluation.frame_scores import READINGS
from hmhi_jax.evaluation.protocols import better, lower_is_better
from hmhi_jax.evaluation.scores import Scores, VideoScores
from hmhi_jax.tools import pages
from hmhi_jax.tools.report.drawings import (
    COLOURS,
    FALSE_ALARM,
    MISSED,
    PANELS,
    Chart,
    Line,
    Overlay,
    ShownFrame,
    histogram_chart,
    line_chart,
    path,
)

_EXTREMES = 4
Overlays = dict[tuple[str, str, str], Overlay]
Ends = dict[str, tuple[ShownFrame, ShownFrame]]
"""Of every video of a run its worst and its best frame."""


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


def ends_of(run: Run, scores: Scores) -> Ends:
    """The worst and the best frame of every video, among those that count."""
    ends = {}
    for name, video in scores.videos.items():
        values = np.where(video.scored, video.per_frame[frame_measure(lead_figure(scores))], np.nan)
        positions = np.nanargmin(values), np.nanargmax(values)
        worst, best = (ShownFrame(run.name, video, int(position), scores.reading) for position in positions)
        ends[name] = worst, best
    return ends


def extremes(scores: Scores, ends: Ends) -> tuple[list[ShownFrame], list[ShownFrame]]:
    """The worst and the best frames of a run, each of another video."""
    measure = frame_measure(lead_figure(scores))

    def value(frame: ShownFrame) -> float:
        return float(frame.video.per_frame[measure][frame.position])

    worst = sorted((low for low, _ in ends.values()), key=value)
    best = sorted((high for _, high in ends.values()), key=lambda frame: -value(frame))
    return worst[:_EXTREMES], best[:_EXTREMES]


@dataclass(frozen=True)
class VideoBlock:
    """A video's block: the line and lead figures of its summary, and the chart and frames that opening it shows."""

    name: str
    path: str
    colour: int
    values: list[float]
    chart: Chart
    overlays: list[tuple[str, ShownFrame, Overlay]]


def addresses(runs: Sequence[Run]) -> dict[str, str]:
    """For every video an address inside the page, without characters that would need quoting."""
    videos = dict.fromkeys(name for run in runs for found in run.scores for name in found.videos)
    plain = ("".join(c if c.isascii() and c.isalnum() else "-" for c in name) for name in videos)
    return {name: f"video-{i}-{text}" for i, (name, text) in enumerate(zip(videos, plain, strict=True))}


def video_blocks(runs: Sequence[Run], ends: dict[str, Ends], overlays: Overlays) -> list[VideoBlock]:
    """A block for each video of the runs' main scores."""
    main = main_scores(runs)
    lead = lead_figure(main[0][1])
    blocks = []
    for name in video_names(main):
        members = [(k, run, found.videos[name]) for k, (run, found) in enumerate(main) if name in found.videos]
        frames = [
            (f"{which} frame" + (f" of {run.name}" if len(runs) > 1 else ""), frame, overlays[frame.key])
            for _, run, _ in members
            for which, frame in zip(("Worst", "Best"), ends[run.name][name], strict=True)
            if frame.key in overlays
        ]
        number, _, first = members[0]
        line = path(np.clip(first.per_frame[frame_measure(lead)], 0, 1))
        values = [video.figures[lead] for _, _, video in members]
        chart = _chart(name, members, many=len(runs) > 1)
        blocks.append(VideoBlock(name, line, number % COLOURS, values, chart, frames))
    return blocks


def _chart(name: str, members: Sequence[tuple[int, Run, VideoScores]], many: bool) -> Chart:
    measures = ("J", "F") if "J" in members[0][2].per_frame else ("S", "MAE")
    lines, lowest = [], []
    for number, run, video in members:
        for k, measure in enumerate(measures):
            label = f"{measure} {run.name}" if many else measure
            colour = number % COLOURS if many else k
            lines.append(Line(label, video.per_frame[measure], colour, "dashed" if k else "solid"))
        values = video.per_frame[measures[0]]
        if not np.isnan(values).all():
            low = int(np.nanargmin(values))
            lowest.append(
                f"{run.name}: {measures[0]} {np.nanmean(values):.2f} on average, "
                f"lowest {values[low]:.2f} at {video.frames[low]}"
            )
    first = members[0][2]
    describe = f"{' and '.join(measures)} of {name} over {len(first.frames)} frames. " + "; ".join(lowest)
    shaded = [not counted for counted in first.counted]
    return line_chart(lines, first.frames, describe=describe, x_label="frame", shaded=shaded)


def galleries(
    runs: Sequence[Run], ends: dict[str, Ends], overlays: Overlays
) -> list[tuple[str, list[tuple[str, ShownFrame, Overlay]]]]:
    """Each run's worst and best frames under a heading; what has no overlay is left out."""
    shown = []
    for run, found in main_scores(runs):
        for title, frames in zip(("Worst frames", "Best frames"), extremes(found, ends[run.name]), strict=True):
            if figures := [("", frame, overlays[frame.key]) for frame in frames if frame.key in overlays]:
                shown.append((title + (f" of {run.name}" if len(runs) > 1 else ""), figures))
    return shown


# What the templates ask of scores.
_OF_SCORES = (
    ordered_figures, video_names, video_figures, figure_of_all,
    class_names, class_figures, is_best, protocol_and_reading,
)  # fmt: skip


def render(
    runs: Sequence[Run],
    title: str,
    created: str,
    links: Sequence[tuple[str, str]],
    ends: dict[str, Ends],
    overlays: Overlays,
) -> str:
    """The whole page as HTML. `links` are (text, address) of other pages: single runs, or the comparison a run belongs
    to; `ends` of each run; `overlays` stand under `ShownFrame.key`."""
    main = main_scores(runs)[0][1]
    everything = [found for run in runs for found in run.scores]
    gaps = [{str(r) for found in run.scores for r in found.remarks if r.kind == "gap"} for run in runs]
    return pages.render(
        "report.html",
        title=title,
        links=links,
        created=created,
        places=[
            (run.name if len(runs) > 1 else "Predictions", place)
            for run in runs
            for place in dict.fromkeys(found.predictions for found in run.scores)
        ],
        truth=everything[0].truth,
        gaps=sum(map(len, gaps)),
        groups=list(combinations(runs)),
        addresses=addresses(runs),
        videos=video_blocks(runs, ends, overlays),
        lead=lead_figure(main),
        main=protocol_and_reading(main),
        galleries=galleries(runs, ends, overlays),
        panels=PANELS,
        missed=MISSED,
        false_alarm=FALSE_ALARM,
        curves=list(_curves(runs)),
        distributions=list(_distributions(runs)),
        remarks=list(_remarks(runs)),
        readings=[(name, READINGS[name]) for name in dict.fromkeys(found.reading for found in everything)],
        colours=COLOURS,
        lower_is_better=lower_is_better,
        **{function.__name__: function for function in _OF_SCORES},
    )


def _curves(runs: Sequence[Run]) -> Iterator[tuple[str, list[tuple[str, Chart]]]]:
    """F and E over the thresholds, for each protocol and reading that has them."""
    thresholds = [f"{i / 255:.2f}" for i in range(256)]
    for members in combinations(runs):
        if not members[0][1].curves:
            continue
        charts = []
        for curve, title in (("F", "F-measure"), ("E", "E-measure")):
            lines = [Line(run.name, found.curves[curve], k % COLOURS) for k, (run, found) in enumerate(members)]
            best = "; ".join(f"{run.name}: highest {found.figures[f'max_{curve}']:.3f}" for run, found in members)
            describe = f"{title} over thresholds. {best}"
            charts.append((title, line_chart(lines, thresholds, describe=describe, x_label="threshold")))
        yield protocol_and_reading(members[0][1]), charts


def _distributions(runs: Sequence[Run]) -> Iterator[tuple[str, Chart]]:
    """How the frames' main measures are distributed."""
    main = main_scores(runs)
    for measure in ("J", "F") if main[0][1].protocol.kind == "uvos" else ("S", "MAE"):
        series = []
        for k, (run, found) in enumerate(main):
            values = [video.per_frame[measure][video.scored] for video in found.videos.values()]
            series.append((run.name, np.concatenate(values), k % COLOURS))
        middle = "; ".join(f"{name}: median {np.median(values):.2f}" for name, values, _ in series)
        describe = f"Distribution of {measure} over frames. {middle}"
        yield f"{measure} of single frames", histogram_chart(series, describe=describe, x_label=measure)


def _remarks(runs: Sequence[Run]) -> Iterator[tuple[str, list[str]]]:
    """What was not scored, scored by a rule or not needed, each run's under headings of its own."""
    for run in runs:
        seen = dict.fromkeys((remark.kind, str(remark)) for found in run.scores for remark in found.remarks)
        kinds = (("gap", "Not scored"), ("rule", "Scored by a rule"), ("unused", "Predictions without ground truth"))
        for kind, title in kinds:
            if lines := [text for found_kind, text in seen if found_kind == kind]:
                yield title + (f", {run.name}" if len(runs) > 1 else ""), lines
