"""The report's videos: sortable tables, a block per video with its chart, and the best and worst frames."""

import math
from collections.abc import Sequence
from html import escape

import numpy as np

from hmhi_jax.evaluation.figure_names import display_name, lower_is_better
from hmhi_jax.evaluation.scores import Scores, VideoScores
from hmhi_jax.tools.report.charts import Line, line_chart, sparkline
from hmhi_jax.tools.report.markup import (
    COLOURS,
    Page,
    cell,
    chip,
    frame_measure,
    lead_figure,
    main_scores,
    ordered_figures,
    sort_button,
    three_digits,
    worst_and_best,
)
from hmhi_jax.tools.report.pictures import FALSE_ALARM, MISSED, PANELS, FrameRequest
from hmhi_jax.tools.report.tables import Run, combinations


def video_tables(page: Page) -> str:
    """A table of all videos for each protocol and reading."""
    tables = []
    for number, members in enumerate(combinations(page.runs)):
        first = members[0][1]
        name = f"{first.protocol.name}, {first.reading} reading"
        table = _video_table(page, members, name)
        if number == 0:
            tables.append(table)
        else:
            tables.append(f"<details class='more'><summary>The same by {escape(name)}</summary>{table}</details>")
    tools = (
        '<div class="tools" hidden>'
        '<input id="filter" type="search" placeholder="Find a video" aria-label="Find a video">'
        '<button type="button" id="open-all">Open all</button>'
        '<button type="button" id="close-all">Close all</button></div>'
    )
    return tools + "".join(tables)


def _video_table(page: Page, members: Sequence[tuple[Run, Scores]], name: str) -> str:
    first = members[0][1]
    many = len(members) > 1
    figures = [name for name in ordered_figures(first) if "class" not in name]
    if many:
        figures = [name for name in first.protocol.headline if name in figures]
    videos = list(dict.fromkeys(video for _, found in members for video in found.videos))
    groups = ""
    if many:
        groups = '<tr class="groups"><th></th>' + "".join(
            f'<th class="group" scope="colgroup" colspan="{len(figures)}">{escape(run.name)}</th>' for run, _ in members
        )
        groups += "</tr>"
    columns = [(found, figure) for _, found in members for figure in figures]
    heads = [sort_button("Video", 0, "ascending")]
    if not many:
        heads.append(sort_button("Frames", 1, "descending"))
    for _, figure in columns:
        order = "ascending" if lower_is_better(figure) else "descending"
        heads.append(sort_button(display_name(figure), len(heads), order))
    row_heads = []
    for i, head in enumerate(heads):
        edge = ' class="group"' if many and i and (i - 1) % len(figures) == 0 else ""
        row_heads.append(f'<th scope="col" aria-sort="none"{edge}>{head}</th>')
    rows = []
    for order, video in enumerate(videos):
        link = f'<a href="#{page.address(video)}">{escape(video)}</a>'
        cells = [f'<th scope="row" data-value="{order}">{link}</th>']
        if not many:
            count = int(first.videos[video].scored.sum())
            cells.append(f'<td data-value="{count}">{count}</td>')
        for i, (found, figure) in enumerate(columns):
            value = found.videos[video].figures[figure] if video in found.videos else math.nan
            rivals = [
                other.videos[video].figures[figure]
                for _, other in members
                if other is not found and video in other.videos
            ]
            cells.append(cell(value, figure, rivals if many else None, many and i % len(figures) == 0))
        rows.append(f'<tr data-order="{order}" data-video="{escape(video)}">{"".join(cells)}</tr>')
    means = ["<th scope='row'>Mean over videos</th>"]
    if not many:
        means.append(f"<td>{first.frame_count}</td>")
    means += [
        f"<td{' class=group' if many and i % len(figures) == 0 else ''}>{three_digits(found.figures[figure])}</td>"
        for i, (found, figure) in enumerate(columns)
    ]
    return (
        f'<p class="soft small">{escape(name)}; headings sort, names lead to the video.</p>'
        f'<div class="scroll" tabindex="0" role="region" aria-label="Videos by {escape(name)}"><table class="sortable">'
        f"<thead>{groups}<tr>{''.join(row_heads)}</tr></thead><tbody>{''.join(rows)}</tbody>"
        f"<tfoot><tr>{''.join(means)}</tr></tfoot></table></div>"
    )


def video_blocks(page: Page) -> str:
    """For each video a block that opens: its curve in the summary, overlays and figures inside."""
    main = main_scores(page.runs)
    names = list(dict.fromkeys(video for _, found in main for video in found.videos))
    lead = lead_figure(main[0][1])
    blocks = []
    for i, name in enumerate(names):
        members = [(k, run, found.videos[name]) for k, (run, found) in enumerate(main) if name in found.videos]
        first = members[0][2]
        values = " / ".join(three_digits(video.figures[lead]) for _, _, video in members)
        summary = (
            f'<summary><span class="name">{escape(name)}</span>'
            f"{sparkline(first.per_frame[frame_measure(lead)], members[0][0] % COLOURS)}"
            f'<span class="value">{escape(display_name(lead))} {values}</span></summary>'
        )
        pager = ['<a href="#videos">All videos</a>']
        if i:
            pager.append(f'<a href="#{page.address(names[i - 1])}" rel="prev">\u2190 {escape(names[i - 1])}</a>')
        if i + 1 < len(names):
            pager.append(f'<a href="#{page.address(names[i + 1])}" rel="next">{escape(names[i + 1])} \u2192</a>')
        overlays = []
        for _, run, video in members:
            found = next(scores for member, scores in main if member is run)
            for which, frame in zip(("Worst", "Best"), worst_and_best(video, lead), strict=True):
                request = FrameRequest(run.name, name, video.pairs[frame], found.reading)
                label = f"{which} frame" + (f" of {run.name}" if len(page.runs) > 1 else "")
                overlays.append(_overlay(page, request, label, video, frame, link=False))
        content = _video_chart(page, name, members) + f"<div>{''.join(overlays)}</div>"
        blocks.append(
            f'<details class="video" id="{page.address(name)}" data-video="{escape(name)}">{summary}'
            f'<div class="inside">'
            f'{content}<nav class="pager" aria-label="Videos">{" ".join(pager)}</nav></div></details>'
        )
    reading = f"{main[0][1].protocol.name}, {main[0][1].reading} reading"
    return f"<h3>Over time {chip(reading)}</h3>{''.join(blocks)}"


def _video_chart(page: Page, name: str, members: Sequence[tuple[int, Run, VideoScores]]) -> str:
    measures = ("J", "F") if "J" in members[0][2].per_frame else ("S", "MAE")
    many = len(page.runs) > 1
    lines = []
    for number, run, video in members:
        for k, measure in enumerate(measures):
            label = f"{measure} {run.name}" if many else measure
            colour = number % COLOURS if many else k
            lines.append(Line(label, video.per_frame[measure], colour, "dashed" if k else "solid"))
    first = members[0][2]
    parts = []
    for _, run, video in members:
        values = video.per_frame[measures[0]]
        if np.isnan(values).all():
            continue
        low = int(np.nanargmin(values))
        parts.append(
            f"{run.name}: {measures[0]} {np.nanmean(values):.2f} on average, "
            f"lowest {values[low]:.2f} at {video.frames[low]}"
        )
    describe = f"{' and '.join(measures)} of {name} over {len(first.frames)} frames. " + "; ".join(parts)
    shaded = [not counted for counted in first.counted]
    return line_chart(lines, first.frames, describe=describe, x_label="frame", shaded=shaded)


def best_and_worst(page: Page) -> str:
    """Galleries of each run's worst and best frames."""
    parts = []
    main = {run.name: found for run, found in main_scores(page.runs)}
    for run in page.runs:
        found = main[run.name]
        for title, requests in zip(("Worst frames", "Best frames"), page.extremes[run.name], strict=True):
            figures = []
            for request in requests:
                video = found.videos[request.video]
                frame = video.pairs.index(request.pair)
                figures.append(_overlay(page, request, "", video, frame, link=True))
            if any(figures):
                of = f" of {escape(run.name)}" if len(page.runs) > 1 else ""
                parts.append(f'<h3>{title}{of}</h3><div class="gallery">{"".join(figures)}</div>')
    if not parts:
        return ""
    found = next(iter(main.values()))
    about = f"at most one of each video, {found.protocol.name}, {found.reading} reading"
    swatches = (
        '<p class="swatches"><span><i style="background:var(--found)"></i>found</span>'
        f'<span><i style="background:rgb{MISSED}"></i>missed</span>'
        f'<span><i style="background:rgb{FALSE_ALARM}"></i>false alarm</span></p>'
    )
    return (
        f"<p>By {escape(display_name(lead_figure(found)))}; {escape(about)}. Differences:</p>{swatches}{''.join(parts)}"
    )


def _overlay(page: Page, request: FrameRequest, label: str, video: VideoScores, frame: int, link: bool) -> str:
    overlay = page.overlays.get(request.key)
    if overlay is None:
        return ""
    name = f'<a href="#{page.address(request.video)}">{escape(request.video)}</a> ' if link else ""
    shown = [m for m in ("J", "F", "S", "MAE") if m in video.per_frame]
    values = ", ".join(f"{m} {three_digits(float(video.per_frame[m][frame]))}" for m in shown)
    width, height = overlay.size
    panels = "".join(
        f'<div><img src="{address}" width="{width}" height="{height}" loading="lazy" '
        f'alt="{escape(f"{panel} of {request.video}, frame {request.pair.frame}")}"><span>{panel}</span></div>'
        for panel, address in zip(PANELS, overlay.panels, strict=True)
    )
    head = f"{escape(label)} {name}{escape(request.pair.frame)}: {values}".strip()
    return f'<figure class="overlay"><figcaption>{head}</figcaption><div class="panels">{panels}</div></figure>'
