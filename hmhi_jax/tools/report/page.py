"""The report as one HTML page: headline figures, videos, best and worst frames, curves, distributions, gaps."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hmhi_jax.evaluation.pictures import READINGS
from hmhi_jax.evaluation.protocols import lower_is_better
from hmhi_jax.tools import pages
from hmhi_jax.tools.report import selection
from hmhi_jax.tools.report.charts import COLOURS, Chart, Line, histogram_chart, line_chart
from hmhi_jax.tools.report.pictures import FALSE_ALARM, MISSED, PANELS, FrameRequest
from hmhi_jax.tools.report.selection import lead_figure, main_scores
from hmhi_jax.tools.report.tables import Run, combinations
from hmhi_jax.tools.report.videos import Overlays, addresses, galleries, video_blocks

# What the templates ask of scores.
_OF_TABLES = (
    selection.ordered_figures, selection.video_names, selection.video_figures, selection.figure_of_all,
    selection.class_names, selection.class_figures, selection.is_best, selection.protocol_and_reading,
)  # fmt: skip


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
    overlays: Overlays
    extremes: dict[str, tuple[list[FrameRequest], list[FrameRequest]]]
    links: Sequence[tuple[str, str]] = ()
    created: str = ""


def render(page: Page) -> str:
    """The whole page as HTML."""
    runs = page.runs
    main = main_scores(runs)[0][1]
    everything = [found for run in runs for found in run.scores]
    gaps = [{str(r) for found in run.scores for r in found.remarks if r.kind == "gap"} for run in runs]
    return pages.render(
        "report.html",
        title=page.title,
        links=page.links,
        created=page.created,
        places=[
            (run.name if len(runs) > 1 else "Predictions", place)
            for run in runs
            for place in dict.fromkeys(found.predictions for found in run.scores)
        ],
        truth=everything[0].truth,
        gaps=sum(map(len, gaps)),
        groups=list(combinations(runs)),
        addresses=addresses(runs),
        videos=video_blocks(runs, page.overlays),
        lead=lead_figure(main),
        main=selection.protocol_and_reading(main),
        galleries=galleries(runs, page.extremes, page.overlays),
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
        yield selection.protocol_and_reading(members[0][1]), charts


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
