"""The report as one HTML page: headline figures, videos, best and worst frames, curves, distributions, gaps."""

import math
from collections.abc import Sequence
from html import escape
from importlib import resources

import numpy as np

from hmhi_jax.evaluation.figure_names import display_name
from hmhi_jax.evaluation.pictures import READINGS
from hmhi_jax.evaluation.scores import Scores
from hmhi_jax.tools.report.charts import Line, histogram_chart, line_chart
from hmhi_jax.tools.report.markup import (
    COLOURS,
    Page,
    cell,
    chip,
    counted,
    main_scores,
    ordered_figures,
    prose,
    three_digits,
)
from hmhi_jax.tools.report.tables import Run, combinations
from hmhi_jax.tools.report.videos import best_and_worst, video_blocks, video_tables

_SHOWN_REMARKS = 200


def render(page: Page) -> str:
    """The whole page as HTML."""
    assets = resources.files("hmhi_jax.tools.report") / "assets"
    style, script = ((assets / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    sections = [
        ("summary", "Summary", _summary(page)),
        ("videos", "Videos", video_tables(page) + video_blocks(page)),
        ("frames", "Best and worst", best_and_worst(page)),
        ("curves", "Curves", _curves(page)),
        ("distributions", "Distributions", _distributions(page)),
        ("gaps", "Gaps and rules", _remarks(page)),
        ("method", "How it was measured", _method(page)),
    ]
    sections = [section for section in sections if section[2]]
    navigation = "".join(f'<a href="#{key}">{escape(name)}</a>' for key, name, _ in sections)
    body = "".join(
        f'<section aria-labelledby="{key}"><h2 id="{key}">{escape(name)}</h2>{content}</section>'
        for key, name, content in sections
    )
    # Nothing may be loaded from anywhere: the policy says so to the browser too.
    policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{escape(page.title)}</title><link rel="icon" href="data:,"><style>{style}</style></head><body>'
        f'<a class="skip" href="#summary">Skip to the summary</a><header><div>{_header(page)}</div>'
        f'<nav class="top" aria-label="Sections"><div>{navigation}</div></nav></header><main>{body}</main>'
        f"<footer>{escape(page.created)}</footer><script>{script}</script></body></html>\n"
    )


def _header(page: Page) -> str:
    first = page.runs[0].scores[0]
    many = len(page.runs) > 1
    named = [
        (run.name if many else "Predictions", place)
        for run in page.runs
        for place in dict.fromkeys(found.predictions for found in run.scores)
    ]
    runs = "<br>".join(f"{escape(name)}: <code>{escape(place)}</code>" for name, place in named)
    links = " ".join(f'<a href="{escape(address)}">{escape(text)}</a>' for text, address in page.links)
    missing = sum(len({str(r) for found in run.scores for r in found.remarks if r.kind == "gap"}) for run in page.runs)
    warning = ""
    if missing:
        noun = "gap: something annotated" if missing == 1 else "gaps: things annotated"
        warning = f'<p class="warning">{missing} {noun} could not be scored. <a href="#gaps">See which</a></p>'
    return (
        f"<h1>{escape(page.title)}</h1><p>{runs}<br>Ground truth: <code>{escape(first.truth)}</code></p>"
        + (f'<p class="pager">{links}</p>' if links else "")
        + warning
    )


def _summary(page: Page) -> str:
    cards = []
    for members in combinations(page.runs):
        first = members[0][1]
        frames = sorted({found.frame_count for _, found in members})
        size = f"{counted(len(first.videos), 'video')}, {counted(frames[-1], 'frame')}"
        heading = f"<h3>{escape(first.protocol.name)} {chip(first.reading + ' reading')} {chip(size)}</h3>"
        figures = ordered_figures(first)
        if len(members) == 1:
            lead = [name for name in first.protocol.headline if name in first.figures]
            content = _definitions(first, lead, "figures")
            content += _definitions(first, [name for name in figures if name not in lead], "figures more")
        else:
            content = _run_table(members, figures)
        classes = _class_table(members) if first.classes else ""
        about = "".join(f"<p>{prose(part)}</p>" for part in first.protocol.description.split("\n\n"))
        about = f'<details class="about"><summary>What this protocol counts</summary>{about}</details>'
        cards.append(f'<div class="card">{heading}{content}{classes}{about}</div>')
    return "".join(cards)


def _curves(page: Page) -> str:
    parts = []
    for members in combinations(page.runs):
        first = members[0][1]
        if not first.curves:
            continue
        charts = []
        thresholds = [f"{i / 255:.2f}" for i in range(256)]
        for curve, title in (("F", "F-measure"), ("E", "E-measure")):
            lines = [Line(run.name, found.curves[curve], k % COLOURS) for k, (run, found) in enumerate(members)]
            best = "; ".join(f"{run.name}: highest {found.figures[f'max_{curve}']:.3f}" for run, found in members)
            chart = line_chart(lines, thresholds, describe=f"{title} over thresholds. {best}", x_label="threshold")
            charts.append(f"<div><h3>{title}</h3>{chart}</div>")
        name = f"{first.protocol.name}, {first.reading} reading"
        parts.append(f'<p>{chip(name)}</p><div class="pair">{"".join(charts)}</div>')
    return "".join(parts)


def _distributions(page: Page) -> str:
    main = main_scores(page.runs)
    measures = ("J", "F") if main[0][1].protocol.kind == "uvos" else ("S", "MAE")
    charts = []
    for measure in measures:
        series = []
        for k, (run, found) in enumerate(main):
            values = [video.per_frame[measure][video.scored] for video in found.videos.values()]
            series.append((run.name, np.concatenate(values), k % COLOURS))
        middle = "; ".join(f"{name}: median {np.median(values):.2f}" for name, values, _ in series)
        chart = histogram_chart(series, describe=f"Distribution of {measure} over frames. {middle}", x_label=measure)
        charts.append(f"<div><h3>{measure} of single frames</h3>{chart}</div>")
    name = f"{main[0][1].protocol.name}, {main[0][1].reading} reading"
    return f'<p>Share of frames in each twentieth. {chip(name)}</p><div class="pair">{"".join(charts)}</div>'


def _remarks(page: Page) -> str:
    parts = []
    for run in page.runs:
        seen = dict.fromkeys((remark.kind, str(remark)) for found in run.scores for remark in found.remarks)
        kinds = (("gap", "Not scored"), ("rule", "Scored by a rule"), ("unused", "Predictions without ground truth"))
        for kind, title in kinds:
            lines = [text for found_kind, text in seen if found_kind == kind]
            if not lines:
                continue
            of = f", {escape(run.name)}" if len(page.runs) > 1 else ""
            items = "".join(f"<li>{escape(line)}</li>" for line in lines[:_SHOWN_REMARKS])
            if len(lines) > _SHOWN_REMARKS:
                items += f"<li>and {len(lines) - _SHOWN_REMARKS} more, all in scores.json</li>"
            parts.append(f'<h3>{title}{of} {chip(str(len(lines)))}</h3><ul class="remarks">{items}</ul>')
    return "".join(parts) or "<p>None: every annotated frame was scored as it is.</p>"


def _method(page: Page) -> str:
    readings = dict.fromkeys(found.reading for run in page.runs for found in run.scores)
    parts = [f"<h3>{escape(name)} reading</h3><p>{escape(READINGS[name])}</p>" for name in readings]
    parts.append(
        "<h3>Measures</h3><p>J is intersection over union; F the harmonic mean of the precision and recall of boundary "
        "pixels within ceil(0.008 times the diagonal) pixels; J&amp;F their mean (Perazzi et al., CVPR 2016). Recall "
        "is the share of frames above .5, decay the mean of a video's first quarter less that of its last.</p>"
    )
    if any(found.curves for run in page.runs for found in run.scores):
        parts.append(
            "<p>MAE is the mean absolute error; F (beta squared .3) and E are taken at 256 thresholds; S is the "
            "structure measure (alpha .5). Names that begin with sod are the figures of the PySODMetrics package, "
            "whose definitions differ: each prediction is stretched to 0..1, empty masks have cases of their own.</p>"
        )
    files = ("scores.json", "scores.csv", "frames.csv", "scores.md")
    listed = ", ".join(f'<a href="{name}">{name}</a>' for name in files)
    return "".join(parts) + f"<h3>Files</h3><p>The same numbers beside this page: {listed}.</p>"


def _definitions(scores: Scores, figures: Sequence[str], style: str) -> str:
    items = "".join(
        f"<div><dt>{escape(display_name(name))}</dt><dd>{three_digits(scores.figures[name])}</dd></div>"
        for name in figures
    )
    return f'<dl class="{style}">{items}</dl>' if items else ""


def _run_table(members: Sequence[tuple[Run, Scores]], figures: Sequence[str]) -> str:
    heads = "".join(f'<th scope="col">{escape(display_name(name))}</th>' for name in figures)
    rows = []
    for k, (run, found) in enumerate(members):
        cells = []
        for figure in figures:
            rivals = [other.figures[figure] for _, other in members if other is not found]
            cells.append(cell(found.figures[figure], figure, rivals))
        key = f'<span class="key"><i class="c{k % COLOURS}"></i></span>'
        rows.append(f'<tr><th scope="row">{key}{escape(run.name)}</th>{"".join(cells)}</tr>')
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Runs side by side"><table>'
        f'<thead><tr><th scope="col">Run</th>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def _class_table(members: Sequence[tuple[Run, Scores]]) -> str:
    classes = list(dict.fromkeys(name for _, found in members for name in found.classes))
    heads = "".join(f'<th scope="col">J {escape(run.name) if len(members) > 1 else ""}</th>' for run, _ in members)
    rows = []
    for name in classes:
        values = [found.classes.get(name, {}).get("J_mean", math.nan) for _, found in members]
        cells = "".join(
            cell(value, "J_mean", [*values[:i], *values[i + 1 :]] if len(members) > 1 else None)
            for i, value in enumerate(values)
        )
        rows.append(f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>')
    return (
        '<h3>Classes</h3><div class="scroll narrow" tabindex="0" role="region" aria-label="Classes"><table>'
        f'<thead><tr><th scope="col">Class</th>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )
