"""Any methods' masks scored, and scores written as files: `scores.json`, `scores.csv`, `frames.csv`, `scores.md` and
the page `report.html`."""

import datetime
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hmhi_jax
from hmhi_jax.complete_files import write_text
from hmhi_jax.data.masks import VoidLabel
from hmhi_jax.errors import InputError
from hmhi_jax.evaluation.pictures import READINGS
from hmhi_jax.evaluation.scores import Scores, dump_json
from hmhi_jax.evaluation.scoring import evaluate
from hmhi_jax.tools.report import tables
from hmhi_jax.tools.report.page import render
from hmhi_jax.tools.report.pictures import FrameRequest, draw_overlays

_EXTREMES = 4


def write_report(
    runs: Sequence[tables.Run],
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
    main = tables.main_scores(runs)
    extremes = {run.name: _extremes(run, scores) for run, scores in main}
    requests = [request for worst, best in extremes.values() for request in (*worst, *best)]
    requests += _per_video(main)
    overlays = draw_overlays(requests, void_label, picture_budget)
    created = f"hmhi-jax {hmhi_jax.__version__}, {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC"
    folders = _folder_names(runs)
    page = title or (
        f"Scores of {runs[0].name}" if len(runs) == 1 else " and ".join(run.name for run in runs) + " compared"
    )
    links = [(f"Report of {run.name}", f"{folder}/report.html") for run, folder in folders] if len(runs) > 1 else []
    path = _write(runs, out_dir, page, created, links, extremes, overlays)
    for run, folder in folders if len(runs) > 1 else []:
        links = [("The comparison", "../report.html")]
        links += [(f"Report of {other.name}", f"../{name}/report.html") for other, name in folders if other is not run]
        _write([run], out_dir / folder, f"Scores of {run.name}", created, links, extremes, overlays)
    return path


def _check(runs: Sequence[tables.Run]) -> None:
    if not runs:
        raise InputError("report: no runs were given, expected at least one")
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        raise InputError(
            f"report: two runs are called {next(n for n in names if names.count(n) > 1)!r}; name them apart"
        )
    kinds = [[(found.protocol.name, found.reading) for found in run.scores] for run in runs]
    for run, kind in zip(runs, kinds, strict=True):
        if kind != kinds[0] or not kind:
            raise InputError(
                f"report: {run.name!r} was scored by {_listed(kind)}, {runs[0].name!r} by {_listed(kinds[0])}; "
                "score all runs alike"
            )


def _listed(kind: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{protocol} ({reading})" for protocol, reading in kind) or "nothing"


def _extremes(run: tables.Run, scores: Scores) -> tuple[list[FrameRequest], list[FrameRequest]]:
    """The worst and the best frames, each of another video."""
    figure = tables.lead_figure(scores)
    measure = tables.frame_measure(figure)
    ends = {name: tables.worst_and_best(video, figure) for name, video in scores.videos.items()}

    def request(name: str, end: int) -> FrameRequest:
        return FrameRequest(run.name, name, scores.videos[name].pairs[ends[name][end]], scores.reading)

    def value(name: str, end: int) -> float:
        return float(scores.videos[name].per_frame[measure][ends[name][end]])

    worst = sorted(ends, key=lambda name: value(name, 0))[:_EXTREMES]
    best = sorted(ends, key=lambda name: -value(name, 1))[:_EXTREMES]
    return [request(name, 0) for name in worst], [request(name, 1) for name in best]


def _per_video(main: Sequence[tuple[tables.Run, Scores]]) -> list[FrameRequest]:
    """The worst and best frame of every video of every run, worst videos first: what a budget cuts is least missed."""
    requests = []
    for run, scores in main:
        figure = tables.lead_figure(scores)
        for name, video in scores.videos.items():
            for frame in tables.worst_and_best(video, figure):
                requests.append(
                    (video.figures[figure], FrameRequest(run.name, name, video.pairs[frame], scores.reading))
                )
    return [request for _, request in sorted(requests, key=lambda item: item[0])]


def _folder_names(runs: Sequence[tables.Run]) -> list[tuple[tables.Run, str]]:
    """A folder for each run, from its name, unique whatever the file system makes of case."""
    names: list[str] = []
    for run in runs:
        plain = re.sub(r"[^\w.+-]+", "-", run.name).strip(".-") or "run"
        while plain.lower() in (name.lower() for name in names):
            plain += "-2"
        names.append(plain)
    return list(zip(runs, names, strict=True))


def _write(runs: Sequence[tables.Run], folder: Path, title: str, created: str, *shown: Any) -> Path:
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
        "scores.csv": tables.scores_csv(runs),
        "frames.csv": tables.frames_csv(runs),
        "scores.md": tables.scores_markdown(runs),
        "report.html": render(runs, title, created, *shown),
    }
    for name, text in files.items():
        write_text(folder / name, text, advice="choose another folder")
    return folder / "report.html"


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
        runs.append(tables.Run(name, tuple(scores)))
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
