"""Any methods' masks scored and reported."""

from collections.abc import Sequence
from pathlib import Path

from hmhi_jax.errors import InputError
from hmhi_jax.evaluation.frame_scores import Measures
from hmhi_jax.evaluation.protocols import find_protocol
from hmhi_jax.evaluation.scoring import evaluate
from hmhi_jax.tools.report.report import write_report
from hmhi_jax.tools.report.tables import Run


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
    chosen = [find_protocol(name) for name in protocols]
    kinds = {protocol.kind for protocol in chosen}
    label = "auto" if void_label is None else void_label
    runs = []
    for folder, name in zip(folders, names or _names(folders), strict=True):
        scores = evaluate(
            folder,
            gt,
            chosen,
            readings,
            measures=Measures("uvos" in kinds, "vsod" in kinds, "vsod" in kinds and extra),
            videos=None if videos is None else _lines(videos),
            void_label=label,
            strict=strict,
            workers=workers,
            progress=True,
            frames_dir=frames,
        )
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
        lines = [line.strip() for line in path.read_text(encoding="utf-8").split("\n")]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: cannot be read ({error}); expected a text file with a video's name on each line"
        ) from error
    if not any(lines):
        raise InputError(f"{path}: is empty; expected a video's name on each line")
    return [line for line in lines if line]
