"""Any methods' masks scored, and scores written as files: `scores.json`, `scores.csv`, `frames.csv`, `scores.md` and
the page `report.html`."""

import csv
import datetime
import io
import math
import re
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import hmhi_jax
from hmhi_jax.complete_files import write_text
from hmhi_jax.data.masks import VoidLabel
from hmhi_jax.errors import InputError
from hmhi_jax.evaluation.frame_scores import READINGS
from hmhi_jax.evaluation.protocols import display_name
from hmhi_jax.evaluation.scores import dump_json
from hmhi_jax.evaluation.scoring import evaluate
from hmhi_jax.tools.pages import six_digits
from hmhi_jax.tools.report.drawings import draw_overlays
from hmhi_jax.tools.report.page import (
    Run,
    combinations,
    ends_of,
    extremes,
    is_best,
    lead_figure,
    main_scores,
    ordered_figures,
    render,
)


def write_report(
    runs: Sequence[Run],
    out_dir: str | Path,
    *,
    title: str | None = None,
    void_label: VoidLabel = "auto",
    picture_budget: int = 6_000_000,
) -> Path:
    """Write the report of one run, or of several compared; with several, each also gets its own in `<out_dir>/<run>/`.

    Args:
        runs: `Run(name, scores)` with scores by the same protocols and readings, of `evaluate`.
        out_dir: folder to write to, made where missing. Files of an earlier report are replaced.
        title: heading of the page.
        void_label: as the scores were made with, for the pictures.
        picture_budget: bytes the embedded pictures of one page may take.

    Returns the page, `<out_dir>/report.html`. Raises `InputError` for no runs, two of one name, runs scored by
    different protocols, or a folder that cannot be written.
    """
    _check(runs)
    out_dir = Path(out_dir)
    main = main_scores(runs)
    ends = {run.name: ends_of(run, scores) for run, scores in main}
    shown = [frame for run, scores in main for frames in extremes(scores, ends[run.name]) for frame in frames]
    # Then those of every video, worst videos first: what a budget cuts is least missed.
    lead = lead_figure(main[0][1])
    of_videos = [pair for videos in ends.values() for pair in videos.values()]
    shown += chain.from_iterable(sorted(of_videos, key=lambda pair: pair[0].video.figures[lead]))
    overlays = draw_overlays(shown, void_label, picture_budget)
    created = f"hmhi-jax {hmhi_jax.__version__}, {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC"
    folders = _folder_names(runs)
    page = title or (
        f"Scores of {runs[0].name}" if len(runs) == 1 else " and ".join(run.name for run in runs) + " compared"
    )
    links = [(f"Report of {run.name}", f"{folder}/report.html") for run, folder in folders] if len(runs) > 1 else []
    path = _write(runs, out_dir, page, created, links, ends, overlays)
    for run, folder in folders if len(runs) > 1 else []:
        links = [("The comparison", "../report.html")]
        links += [(f"Report of {other.name}", f"../{name}/report.html") for other, name in folders if other is not run]
        _write([run], out_dir / folder, f"Scores of {run.name}", created, links, ends, overlays)
    return path


def _check(runs: Sequence[Run]) -> None:
    if not runs:
        raise InputError("report: no runs were given, expected at least one")
    name, count = Counter(run.name for run in runs).most_common(1)[0]
    if count > 1:
        raise InputError(f"report: two runs are called {name!r}; name them apart")
    kinds = [[(found.protocol.name, found.reading) for found in run.scores] for run in runs]
    for run, kind in zip(runs, kinds, strict=True):
        if kind != kinds[0] or not kind:
            raise InputError(
                f"report: {run.name!r} was scored by {_listed(kind)}, {runs[0].name!r} by {_listed(kinds[0])}; "
                "score all runs alike"
            )


def _listed(kind: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{protocol} ({reading})" for protocol, reading in kind) or "nothing"


def _folder_names(runs: Sequence[Run]) -> list[tuple[Run, str]]:
    """A folder for each run, from its name, unique whatever the file system makes of case."""
    names: list[str] = []
    for run in runs:
        plain = re.sub(r"[^\w.+-]+", "-", run.name).strip(".-") or "run"
        while plain.lower() in (name.lower() for name in names):
            plain += "-2"
        names.append(plain)
    return list(zip(runs, names, strict=True))


def _write(runs: Sequence[Run], folder: Path, title: str, created: str, *shown: Any) -> Path:
    protocols = {found.protocol.name: found.protocol.description for run in runs for found in run.scores}
    readings = {found.reading: READINGS[found.reading] for run in runs for found in run.scores}
    document = {
        "title": title,
        "created": created,
        "protocols": protocols,
        "readings": readings,
        "runs": {run.name: [found.to_json() for found in run.scores] for run in runs},
    }
    files = {
        "scores.json": dump_json(document),
        "scores.csv": scores_csv(runs),
        "frames.csv": frames_csv(runs),
        "scores.md": scores_markdown(runs),
        "report.html": render(runs, title, created, *shown),
    }
    for name, text in files.items():
        write_text(folder / name, text, advice="choose another folder")
    return folder / "report.html"


def scores_csv(runs: Sequence[Run]) -> str:
    """A row per run, protocol, reading and data set, class or video, with all figures; `level` says which."""
    all_scores = [(run, found) for run in runs for found in run.scores]
    figures = list(dict.fromkeys(figure for _, found in all_scores for figure in found.figures))
    rows = []
    for run, found in all_scores:
        start = run.name, found.protocol.name, found.reading
        listed: list[tuple[Any, ...]] = [("data set", "", found.frame_count, found.figures)]
        listed += [("class", name, "", values) for name, values in found.classes.items()]
        listed += [("video", name, int(one.scored.sum()), one.figures) for name, one in found.videos.items()]
        for *where, values in listed:
            rows.append([*start, *where, *(six_digits(values.get(figure, math.nan)) for figure in figures)])
    return _write_csv(["run", "protocol", "reading", "level", "name", "frames", *figures], rows)


def frames_csv(runs: Sequence[Run]) -> str:
    """A row per run, reading, video and frame, with every per-frame measure; J and F beside MAE, S and the others."""
    frames: dict[tuple[str, str, str, str], dict[str, float]] = {}
    for run in runs:
        for found in run.scores:
            for name, video in found.videos.items():
                for i, frame in enumerate(video.frames):
                    row = frames.setdefault((run.name, found.reading, name, frame), {})
                    row |= {measure: float(values[i]) for measure, values in video.per_frame.items()}
    measures = list(dict.fromkeys(measure for row in frames.values() for measure in row))
    rows = [[*key, *(six_digits(row.get(measure, math.nan)) for measure in measures)] for key, row in frames.items()]
    return _write_csv(["run", "reading", "video", "frame", *measures], rows)


def _write_csv(header: list[str], rows: list[list]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return buffer.getvalue()


def scores_markdown(runs: Sequence[Run]) -> str:
    """One table per protocol and reading: a row per run, the best figure of each column in bold; then classes."""
    parts = []
    for members in combinations(runs):
        first = members[0][1]
        gaps = [run.name for run, found in members if not found.complete]
        parts.append(
            f"**{first.protocol.name}**, {first.reading} reading, {len(first.videos)} videos"
            + (f" (incomplete: {', '.join(gaps)})" if gaps else "")
            + "\n"
        )
        figures = [n for n in ordered_figures(first) if n in first.protocol.headline or "class" not in n]
        parts.append(_markdown_table("method", [(run.name, found.figures) for run, found in members], figures))
        if first.classes:
            names = list(first.classes)
            rows = [
                (run.name, {name: found.classes[name]["J_mean"] for name in names if name in found.classes})
                for run, found in members
            ]
            parts.append(f"J per class, {first.protocol.name}, {first.reading} reading\n")
            parts.append(_markdown_table("method", rows, names))
    return "\n".join(parts)


def _markdown_table(corner: str, rows: Sequence[tuple[str, dict[str, float]]], figures: Sequence[str]) -> str:
    lines = ["| " + " | ".join([corner, *map(display_name, figures)]) + " |", "|---|" + "---:|" * len(figures)]
    for name, values in rows:
        cells = []
        for figure in figures:
            value, column = values.get(figure, math.nan), [other.get(figure, math.nan) for _, other in rows]
            text = "" if math.isnan(value) else f"{value:.3f}"
            cells.append(f"**{text}**" if is_best(figure, value, column) else text)
        lines.append("| " + " | ".join([name.replace("|", "\\|"), *cells]) + " |")
    return "\n".join(lines) + "\n"


def report(
    folders: Sequence[Path],
    *,
    gt: Path | None,
    out: Path,
    protocols: Sequence[str],
    readings: Sequence[str],
    names: Sequence[str],
    videos: Path | None,
    frames: Path | None,
    title: str | None,
    void_label: int | None,
    extra: bool,
    strict: bool,
    workers: int | None,
) -> bool:
    """Do what `hmhi report` was asked for; the arguments are its options. Returns whether all files could be read."""
    if gt is None:
        if len(folders) < 2:
            raise InputError(f"{folders[0]}: only one folder was given; expected predictions and ground truth: PRED GT")
        *folders, gt = folders
    if names and len(names) != len(folders):
        raise InputError(f"--name: {len(names)} names for {len(folders)} folders of predictions; give one for each")
    label = "auto" if void_label is None else void_label
    runs = []
    for folder, name in zip(folders, names or _names(folders), strict=True):
        scores = evaluate(
            folder, gt, protocols, readings, extra=extra, videos=None if videos is None else _lines(videos),
            void_label=label, strict=strict, workers=workers, progress=True, frames_dir=frames,
        )  # fmt: skip
        runs.append(Run(name, tuple(scores)))
        for found in scores:
            print(f"{name}: {found}")
        for remark in [remark for remark in scores[0].remarks if remark.kind != "unused"][:5]:
            print(f"  {remark}")
    path = write_report(runs, out, title=title, void_label=label)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB; scores.json, scores.csv, frames.csv and scores.md beside it")
    return not any(remark.broken for run in runs for found in run.scores for remark in found.remarks)


def _names(folders: Sequence[Path]) -> list[str]:
    """Names of runs: their folders', with as many parents as it takes to tell them apart."""
    resolved = [folder.resolve() for folder in folders]
    for depth in range(1, max(len(path.parts) for path in resolved) + 1):
        names = ["/".join(path.parts[-depth:]) for path in resolved]
        if len(set(names)) == len(names):
            return names
    return [f"{path.name} ({i})" for i, path in enumerate(resolved, start=1)]


def _lines(path: Path) -> list[str]:
    """Videos' names from a text file."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").split("\n")]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: cannot be read ({error}); expected a text file with a video's name on each line"
        ) from error
    if not any(lines):
        raise InputError(f"{path}: is empty; expected a video's name on each line")
    return [line for line in lines if line]
