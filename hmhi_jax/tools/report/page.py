"""The report as one HTML page: headline figures, videos with their curves over time and their worst and best frames,
curves over thresholds, distributions, gaps."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hmhi_jax.evaluation.pictures import READINGS
from hmhi_jax.evaluation.protocols import lower_is_better
from hmhi_jax.evaluation.scores import VideoScores
from hmhi_jax.tools import pages
from hmhi_jax.tools.report import tables
from hmhi_jax.tools.report.charts import COLOURS, Chart, Line, histogram_chart, line_chart, path
from hmhi_jax.tools.report.pictures import FALSE_ALARM, MISSED, PANELS, FrameRequest, Overlay

Overlays = dict[tuple[str, str, str, str], Overlay]


@dataclass(frozen=True)
class FrameFigure:
    """A frame's overlay, with what stands in its caption."""

    label: str
    request: FrameRequest
    overlay: Overlay
    measures: list[tuple[str, float]]


@dataclass(frozen=True)
class VideoBlock:
    """A video's block: the line and lead figures of its summary, and the chart and frames that opening it shows."""

    name: str
    path: str
    colour: int
    values: list[float]
    chart: Chart
    overlays: list[FrameFigure]


def addresses(runs: Sequence[tables.Run]) -> dict[str, str]:
    """For every video an address inside the page, without characters that would need quoting."""
    videos = dict.fromkeys(name for run in runs for found in run.scores for name in found.videos)
    plain = ("".join(c if c.isascii() and c.isalnum() else "-" for c in name) for name in videos)
    return {name: f"video-{i}-{text}" for i, (name, text) in enumerate(zip(videos, plain, strict=True))}


def video_blocks(runs: Sequence[tables.Run], overlays: Overlays) -> list[VideoBlock]:
    """A block for each video of the runs' main scores."""
    main = tables.main_scores(runs)
    lead = tables.lead_figure(main[0][1])
    blocks = []
    for name in tables.video_names(main):
        members = [(k, run, found.videos[name]) for k, (run, found) in enumerate(main) if name in found.videos]
        frames = []
        for _, run, video in members:
            for which, position in zip(("Worst", "Best"), tables.worst_and_best(video, lead), strict=True):
                request = FrameRequest(run.name, name, video.pairs[position], main[0][1].reading)
                label = f"{which} frame" + (f" of {run.name}" if len(runs) > 1 else "")
                frames += _figure(overlays, request, label, video, position)
        number, _, first = members[0]
        line = path(np.clip(first.per_frame[tables.frame_measure(lead)], 0, 1))
        values = [video.figures[lead] for _, _, video in members]
        chart = _chart(name, members, many=len(runs) > 1)
        blocks.append(VideoBlock(name, line, number % COLOURS, values, chart, frames))
    return blocks


def _chart(name: str, members: Sequence[tuple[int, tables.Run, VideoScores]], many: bool) -> Chart:
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
    runs: Sequence[tables.Run], extremes: dict[str, tuple[list[FrameRequest], list[FrameRequest]]], overlays: Overlays
) -> list[tuple[str, list[FrameFigure]]]:
    """Each run's worst and best frames under a heading; what has no overlay is left out."""
    shown = []
    for run, found in tables.main_scores(runs):
        for title, requests in zip(("Worst frames", "Best frames"), extremes[run.name], strict=True):
            figures = []
            for request in requests:
                video = found.videos[request.video]
                figures += _figure(overlays, request, "", video, video.pairs.index(request.pair))
            if figures:
                shown.append((title + (f" of {run.name}" if len(runs) > 1 else ""), figures))
    return shown


def _figure(
    overlays: Overlays, request: FrameRequest, label: str, video: VideoScores, position: int
) -> list[FrameFigure]:
    """The overlay of a frame, in a list; an empty one where none was drawn."""
    if request.key not in overlays:
        return []
    shown = [name for name in ("J", "F", "S", "MAE") if name in video.per_frame]
    measures = [(name, float(video.per_frame[name][position])) for name in shown]
    return [FrameFigure(label, request, overlays[request.key], measures)]


# What the templates ask of scores.
_OF_TABLES = (
    tables.ordered_figures, tables.video_names, tables.video_figures, tables.figure_of_all,
    tables.class_names, tables.class_figures, tables.is_best, tables.protocol_and_reading,
)  # fmt: skip


def render(
    runs: Sequence[tables.Run],
    title: str,
    created: str,
    links: Sequence[tuple[str, str]],
    extremes: dict[str, tuple[list[FrameRequest], list[FrameRequest]]],
    overlays: Overlays,
) -> str:
    """The whole page as HTML. `links` are (text, address) of other pages: single runs, or the comparison a run belongs
    to; `extremes` the requests of each run's best and worst frames; `overlays` stand under `FrameRequest.key`."""
    main = tables.main_scores(runs)[0][1]
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
        groups=list(tables.combinations(runs)),
        addresses=addresses(runs),
        videos=video_blocks(runs, overlays),
        lead=tables.lead_figure(main),
        main=tables.protocol_and_reading(main),
        galleries=galleries(runs, extremes, overlays),
        panels=PANELS,
        missed=MISSED,
        false_alarm=FALSE_ALARM,
        curves=list(_curves(runs)),
        distributions=list(_distributions(runs)),
        remarks=list(_remarks(runs)),
        readings=[(name, READINGS[name]) for name in dict.fromkeys(found.reading for found in everything)],
        colours=COLOURS,
        lower_is_better=lower_is_better,
        **{function.__name__: function for function in _OF_TABLES},
    )


def _curves(runs: Sequence[tables.Run]) -> Iterator[tuple[str, list[tuple[str, Chart]]]]:
    """F and E over the thresholds, for each protocol and reading that has them."""
    thresholds = [f"{i / 255:.2f}" for i in range(256)]
    for members in tables.combinations(runs):
        if not members[0][1].curves:
            continue
        charts = []
        for curve, title in (("F", "F-measure"), ("E", "E-measure")):
            lines = [Line(run.name, found.curves[curve], k % COLOURS) for k, (run, found) in enumerate(members)]
            best = "; ".join(f"{run.name}: highest {found.figures[f'max_{curve}']:.3f}" for run, found in members)
            describe = f"{title} over thresholds. {best}"
            charts.append((title, line_chart(lines, thresholds, describe=describe, x_label="threshold")))
        yield tables.protocol_and_reading(members[0][1]), charts


def _distributions(runs: Sequence[tables.Run]) -> Iterator[tuple[str, Chart]]:
    """How the frames' main measures are distributed."""
    main = tables.main_scores(runs)
    for measure in ("J", "F") if main[0][1].protocol.kind == "uvos" else ("S", "MAE"):
        series = []
        for k, (run, found) in enumerate(main):
            values = [video.per_frame[measure][video.scored] for video in found.videos.values()]
            series.append((run.name, np.concatenate(values), k % COLOURS))
        middle = "; ".join(f"{name}: median {np.median(values):.2f}" for name, values, _ in series)
        describe = f"Distribution of {measure} over frames. {middle}"
        yield f"{measure} of single frames", histogram_chart(series, describe=describe, x_label=measure)


def _remarks(runs: Sequence[tables.Run]) -> Iterator[tuple[str, list[str]]]:
    """What was not scored, scored by a rule or not needed, each run's under headings of its own."""
    for run in runs:
        seen = dict.fromkeys((remark.kind, str(remark)) for found in run.scores for remark in found.remarks)
        kinds = (("gap", "Not scored"), ("rule", "Scored by a rule"), ("unused", "Predictions without ground truth"))
        for kind, title in kinds:
            if lines := [text for found_kind, text in seen if found_kind == kind]:
                yield title + (f", {run.name}" if len(runs) > 1 else ""), lines
