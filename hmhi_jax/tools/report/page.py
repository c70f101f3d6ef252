"""The report as one HTML page: headline figures, videos, best and worst frames, curves, distributions, gaps."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hmhi_jax.evaluation.pictures import READINGS
from hmhi_jax.tools import pages
from hmhi_jax.tools.report.charts import COLOURS, Chart, Line, histogram_chart, line_chart
from hmhi_jax.tools.report.pictures import FALSE_ALARM, MISSED, FrameRequest
from hmhi_jax.tools.report.score_tables import class_table, run_table, video_table
from hmhi_jax.tools.report.selection import lead_figure, main_scores, ordered_figures, protocol_and_reading
from hmhi_jax.tools.report.tables import Run, combinations
from hmhi_jax.tools.report.videos import Overlays, addresses, galleries, video_blocks


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
    places = addresses(runs)
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
        cards=list(_cards(runs)),
        video_tables=[video_table(members, places.__getitem__) for members in combinations(runs)],
        videos=video_blocks(runs, page.overlays, places),
        lead=lead_figure(main),
        main=protocol_and_reading(main),
        galleries=galleries(runs, page.extremes, page.overlays, places),
        missed=MISSED,
        false_alarm=FALSE_ALARM,
        curves=list(_curves(runs)),
        distributions=list(_distributions(runs)),
        remarks=list(_remarks(runs)),
        readings=[(name, READINGS[name]) for name in dict.fromkeys(found.reading for found in everything)],
    )


def _cards(runs: Sequence[Run]) -> Iterator[dict[str, Any]]:
    """The summary: for each protocol and reading the data set's figures."""
    for members in combinations(runs):
        first = members[0][1]
        figures = ordered_figures(first)
        lead = [name for name in first.protocol.headline if name in first.figures]
        frames = max(found.frame_count for _, found in members)
        yield {
            "protocol": first.protocol.name,
            "reading": first.reading,
            "size": f"{pages.counted(len(first.videos), 'video')}, {pages.counted(frames, 'frame')}",
            "runs": run_table(members, figures) if len(members) > 1 else None,
            "lead": [(name, first.figures[name]) for name in lead],
            "more": [(name, first.figures[name]) for name in figures if name not in lead],
            "classes": class_table(members) if first.classes else None,
            "about": [" ".join(part.split()) for part in first.protocol.description.split("\n\n")],
        }


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
