"""`hmhi report`: scores of any method's masks, as files and as a page to look at."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    folders: Annotated[
        list[Path],
        typer.Argument(
            help="Predictions of one or more methods, `<video>/<frame>.png`; the last folder is the ground truth "
            "unless --gt names it.",
            metavar="PRED... [GT]",
        ),
    ],
    gt: Annotated[
        Path | None, typer.Option(help="Ground truth: a data set's folder, or masks as `<video>/<frame>.png`.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("report"),
    protocol: Annotated[
        list[str] | None,
        typer.Option(
            help="davis16, davis16-inner, fbms, youtube-objects or vsod; repeat for several. Else davis16, vsod."
        ),
    ] = None,
    reading: Annotated[
        list[str] | None,
        typer.Option(
            help="plain: values as they are; release: every frame stretched to full contrast first. Both cut at "
            "128. Repeat for both; plain if not given."
        ),
    ] = None,
    name: Annotated[list[str] | None, typer.Option(help="A method's name, in order; else its folder's.")] = None,
    videos: Annotated[
        Path | None, typer.Option(help="Text file with the names of the videos to score, one a line.")
    ] = None,
    frames: Annotated[
        Path | None, typer.Option(help="RGB frames, `<video>/<frame>.jpg`, where they are not beside the masks.")
    ] = None,
    title: Annotated[str | None, typer.Option(help="Heading of the page.")] = None,
    void_label: Annotated[
        int | None, typer.Option(help="Value of pixels that do not count; 255 in palette pictures if not given.")
    ] = None,
    extra: Annotated[
        bool, typer.Option("--extra/--no-extra", help="With vsod: also mean and adaptive F and E and weighted F.")
    ] = True,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse gaps, other sizes and other names instead of listing them.")
    ] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; as many as cores if not given.")] = None,
) -> None:
    """Score masks of any method and write scores.json, scores.csv, scores.md and report.html.

    `hmhi report PRED GT` scores one method, `hmhi report A B --gt GT` compares several.
    """
    from hmhi_jax.errors import InputError
    from hmhi_jax.evaluation.frame_scores import Measures
    from hmhi_jax.evaluation.protocols import find_protocol
    from hmhi_jax.evaluation.scoring import evaluate
    from hmhi_jax.tools.report.report import write_report
    from hmhi_jax.tools.report.tables import Run

    if gt is None:
        if len(folders) < 2:
            raise InputError(f"{folders[0]}: only one folder was given; expected predictions and ground truth: PRED GT")
        *folders, gt = folders
    if name and len(name) != len(folders):
        raise InputError(f"--name: {len(name)} names for {len(folders)} folders of predictions; give one for each")
    protocols = [find_protocol(one) for one in protocol or ("davis16", "vsod")]
    kinds = {one.kind for one in protocols}
    measures = Measures("uvos" in kinds, "vsod" in kinds, "vsod" in kinds and extra)
    chosen = None if videos is None else _read_names(videos)
    label = "auto" if void_label is None else void_label
    runs = []
    for folder, called in zip(folders, name or _names(folders), strict=True):
        scores = evaluate(
            folder,
            gt,
            protocols,
            reading or ["plain"],
            measures,
            chosen,
            label,
            strict,
            workers,
            progress=True,
            frames_dir=frames,
        )
        runs.append(Run(called, tuple(scores)))
        for found in scores:
            print(f"{called}: {found}")
        for remark in [remark for remark in scores[0].remarks if remark.kind != "unused"][:5]:
            print(f"  {remark}")
    path = write_report(runs, out, title=title, void_label=label)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB; scores.json, scores.csv, frames.csv and scores.md beside it")


def _names(folders: list[Path]) -> list[str]:
    """Names of runs: their folders', with as many parents as it takes to tell them apart."""
    resolved = [folder.resolve() for folder in folders]
    for depth in range(1, max(len(path.parts) for path in resolved) + 1):
        names = ["/".join(path.parts[-depth:]) for path in resolved]
        if len(set(names)) == len(names):
            return names
    return [f"{path.name} ({i})" for i, path in enumerate(resolved, start=1)]


def _read_names(path: Path) -> list[str]:
    from hmhi_jax.errors import InputError

    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: cannot be read ({error}); expected a text file with a video's name on each line"
        ) from error
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise InputError(f"{path}: is empty; expected a video's name on each line")
    return names


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("report")(report)
