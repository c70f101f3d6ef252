"""What the report shows of each video: its curves over time, and its worst and best frames."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hmhi_jax.evaluation.scores import VideoScores
from hmhi_jax.tools.report.charts import COLOURS, Chart, Line, line_chart, path
from hmhi_jax.tools.report.pictures import FrameRequest, Overlay
from hmhi_jax.tools.report.selection import frame_measure, lead_figure, main_scores, video_names, worst_and_best
from hmhi_jax.tools.report.tables import Run

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


def addresses(runs: Sequence[Run]) -> dict[str, str]:
    """For every video an address inside the page, without characters that would need quoting."""
    videos = dict.fromkeys(name for run in runs for found in run.scores for name in found.videos)
    plain = ("".join(c if c.isascii() and c.isalnum() else "-" for c in name) for name in videos)
    return {name: f"video-{i}-{text}" for i, (name, text) in enumerate(zip(videos, plain, strict=True))}


def video_blocks(runs: Sequence[Run], overlays: Overlays) -> list[VideoBlock]:
    """A block for each video of the runs' main scores."""
    main = main_scores(runs)
    lead = lead_figure(main[0][1])
    blocks = []
    for name in video_names(main):
        members = [(k, run, found.videos[name]) for k, (run, found) in enumerate(main) if name in found.videos]
        frames = []
        for _, run, video in members:
            for which, position in zip(("Worst", "Best"), worst_and_best(video, lead), strict=True):
                request = FrameRequest(run.name, name, video.pairs[position], main[0][1].reading)
                label = f"{which} frame" + (f" of {run.name}" if len(runs) > 1 else "")
                frames += _figure(overlays, request, label, video, position)
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
    runs: Sequence[Run], extremes: dict[str, tuple[list[FrameRequest], list[FrameRequest]]], overlays: Overlays
) -> list[tuple[str, list[FrameFigure]]]:
    """Each run's worst and best frames under a heading; what has no overlay is left out."""
    shown = []
    for run, found in main_scores(runs):
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
