"""What `hmhi compare` prints and writes: tables, a JSON file, and one HTML page with verdict, figures, curves, and
pictures of where the two sides differ."""

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from rich.console import Console
from rich.table import Table
from scipy.special import expit

from hmhi_jax.complete_files import write_text
from hmhi_jax.data.preprocessing import resize_picture
from hmhi_jax.interop.weight_sources import read_source
from hmhi_jax.tools.compare import comparison
from hmhi_jax.tools.compare.comparison import Side
from hmhi_jax.tools.pages import data_address, render, shown


@dataclass(frozen=True)
class Findings:
    """What a comparison says.

    verdict, good  the sentence in the box and its colour
    tables         (heading, note, rows); a row with `within` False is marked, a table without rows left out
    chart          a PNG
    strips         (heading, pictures with captions), one strip per frame
    """

    verdict: str
    good: bool
    tables: Sequence[tuple[str, str, list[dict[str, Any]]]]
    chart: bytes | None = None
    strips: Sequence[tuple[str, Sequence[tuple[str, UInt8[np.ndarray, "H W 3"]]]]] = ()


def render_page(title: str, facts: str, found: Findings) -> str:
    """A comparison as HTML, with a headline and the line below it."""
    return render(
        "compare.html",
        title=title,
        facts=facts,
        verdict=found.verdict,
        good=found.good,
        tables=[(heading, note, columns(rows), rows) for heading, note, rows in found.tables if rows],
        chart=found.chart and data_address(found.chart, "png"),
        strips=[
            (heading, [(caption, data_address(_png(picture), "png")) for caption, picture in pictures])
            for heading, pictures in found.strips
        ],
    )


def columns(rows: list[dict[str, Any]]) -> list[str]:
    """Names of a table's columns; `within` marks rows and is none."""
    return [name for name in rows[0] if name != "within"]


def difference_picture(
    release: Float[np.ndarray, "H W"], ours: Float[np.ndarray, "H W"]
) -> tuple[UInt8[np.ndarray, "H W 3"], float]:
    """Red where ours is higher, blue where the release's is, on white; and the difference that gets full colour."""
    difference = ours - release
    full = float(max(np.abs(difference).max(), 1e-12))
    strength = np.abs(difference) / full
    picture = np.ones((*difference.shape, 3))
    picture[..., 1] -= strength
    picture[..., 0] -= np.where(difference < 0, strength, 0)
    picture[..., 2] -= np.where(difference > 0, strength, 0)
    return np.round(255 * picture.clip(0, 1)).astype(np.uint8), full


def probability_picture(probability: Float[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W 3"]:
    """Probabilities as a grey picture, white for 1."""
    return np.repeat(np.round(255 * probability).astype(np.uint8)[..., None], 3, -1)


def deviation_chart(rows: Sequence[dict[str, Any]], tolerance: float) -> bytes:
    """Deviation of every map relative to its scale over the frames, on a logarithmic axis, as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10.5, 4.2), sharey=True, layout="constrained")
    stages = list(dict.fromkeys(row["stage"] for row in rows))
    colours = plt.get_cmap("tab20")(np.arange(len(stages)))
    for axis, key, name in ((axes[0], "quantile", "99 % of values"), (axes[1], "largest", "largest value")):
        for colour, stage in zip(colours, stages, strict=True):
            mine = [row for row in rows if row["stage"] == stage]
            relative = [max(row[key] / max(row["scale"], 1.0), 1e-9) for row in mine]
            axis.plot([row["frame"] for row in mine], relative, "o-", ms=3, lw=1.2, color=colour, label=stage)
        limit = tolerance * (1 if key == "quantile" else 100)
        axis.axhline(limit, color="#c0392b", ls="--", lw=1)
        axis.text(0, limit * 1.15, "tolerance", color="#c0392b", fontsize=8)
        axis.set(yscale="log", xlabel="frame", title=f"deviation / scale: {name}")
        axis.grid(alpha=0.25)
        axis.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=8, frameon=False)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=130)
    plt.close(figure)
    return stream.getvalue()


def _png(picture: np.ndarray) -> bytes:
    stream = io.BytesIO()
    image = Image.fromarray(picture)
    image.thumbnail((400, 400))
    image.save(stream, "PNG", optimize=True)
    return stream.getvalue()


_MOST_STRIPS = 8
_STAGES_NOTE = (
    "Absolute. quantile: 99 % of the values deviate less, in the worst frame; scale: root mean square of the release's "
    "map. Single large values in read_shallow, and what follows from them, are pairs of scores so close that rounding "
    "decides which of the two is among the highest that are kept."
)


def report_inference(
    folder: Path, facts: dict[str, Any], release: Side, ours: Side, pictures: list[np.ndarray], weights: Path
) -> bool:
    """Maps, masks, time and memory; prints the table, writes report.json and report.html, returns the verdict."""
    rows = comparison.compare_maps(release, ours, facts["tolerance"])
    masks = comparison.compare_masks(release, ours)
    outside = comparison.first_outside(rows)
    stages = comparison.summary(rows)
    problem = None if outside is None else f"first {outside.stage} of frame {outside.frame} ({outside})"
    agreement = [
        {
            "frame": row.frame,
            "sign agreement": f"{100 * row.sign_agreement:.4f} %",
            "J between the two": f"{row.jaccard:.6f}",
            "mask of the release": f"{100 * row.release_area:.2f} %",
            "ours": f"{100 * row.our_area:.2f} %",
        }
        for row in masks
    ]
    tables = [
        ("Deviation by map, over all frames", _STAGES_NOTE, stages),
        ("Masks", "Logit above 0, at the network's size.", agreement),
        ("Time and memory", "Frame by frame, one process each, after a warm-up.", _sides(release, ours)),
    ]
    frames = list(map(asdict, rows))
    found = Findings(
        *_verdict(f"{len(rows)} maps of {facts['frames']} frames", problem, facts), tables,
        deviation_chart(frames, facts["tolerance"]), _strips(release, ours, pictures),
    )  # fmt: skip
    data = {
        "settings": facts,
        "verdict": {"within": found.good, "text": found.verdict, "first_outside": outside and vars(outside)},
        "stages": stages,
        "frames": frames,
        "masks": list(map(asdict, masks)),
    }
    return _publish(folder, facts, data, (release, ours), found)


def report_training(
    folder: Path, facts: dict[str, Any], release: Side, ours: Side, pictures: list[np.ndarray], weights: Path
) -> bool:
    """Losses, gradients and drift; prints the tables, writes report.json and report.html, returns the verdict."""
    steps = comparison.compare_steps(release, ours)
    states = [
        read_source(path).entries for path in (weights, release.folder / "trained.pth", ours.folder / "trained.pth")
    ]
    modules = comparison.compare_parameters(*states, (release, ours))
    problem = comparison.steps_outside(steps, facts["tolerance"]) or comparison.parameters_outside(modules)
    losses = [
        {
            "step": row.step,
            "loss of the release": f"{row.release_loss:.6f}",
            "ours": f"{row.our_loss:.6f}",
            "relative difference": row.difference,
            "largest difference of a gradient norm": row.gradient,
            "in": row.worst_module,
        }
        for row in steps
    ]
    drift = [
        {
            "module": row.module,
            "gradient norm, release": row.release_norm,
            "ours": row.our_norm,
            "relative difference": abs(row.release_norm - row.our_norm) / max(row.release_norm, 1e-12),
            "parameters moved by": row.moved,
            "drift between the two": row.drift,
            "drift / moved": row.drift / max(row.moved, 1e-12),
        }
        for row in modules
    ]
    unread = release.report.get("without_gradient", [])
    note = f"Entries that never get a gradient in the release: {', '.join(unread)}" if unread else ""
    tables = [
        ("Training steps", "AdamW as the release sets it, no dropout, no drop path, one clip a step.", losses),
        ("Gradients of the first step, parameters after the last", note, drift),
        ("Time and memory", "Forward, backward and update; compilation apart.", _sides(release, ours)),
    ]
    found = Findings(*_verdict(f"{len(steps)} training steps", problem, facts), tables)
    data = {
        "settings": {**facts, "steps": len(steps)},
        "verdict": {"within": found.good, "text": found.verdict},
        "steps": list(map(asdict, steps)),
        "modules": list(map(asdict, modules)),
    }
    return _publish(folder, facts, data, (release, ours), found)


def _verdict(compared: str, problem: str | None, facts: dict[str, Any]) -> tuple[str, bool]:
    where = "within" if problem is None else "outside"
    return f"{where} the tolerance of {facts['tolerance']:g}: {problem or compared}", problem is None


def _sides(release: Side, ours: Side) -> list[dict[str, Any]]:
    unit = "frame" if "seconds_per_frame" in release.report else "step"
    return [
        {
            "side": name,
            f"seconds per {unit}": side.report[f"seconds_per_{unit}"],
            f"CPU seconds per {unit}": side.report[f"cpu_seconds_per_{unit}"],
            "peak memory (MiB)": round(side.report["peak_mib"]),
            "compilation (s)": side.report.get("compile_seconds") or "",
            "software": side.report["software"],
            "device": side.report["device"],
        }
        for name, side in (("release", release), ("ours", ours))
    ]


def _strips(release: Side, ours: Side, pictures: list[np.ndarray]) -> list[tuple[str, list[tuple[str, np.ndarray]]]]:
    theirs, mine = (expit(side.maps()["logits"][0, ..., 0].astype(np.float64)) for side in (release, ours))
    chosen = np.unique(np.linspace(0, len(pictures) - 1, min(len(pictures), _MOST_STRIPS)).round().astype(int))
    strips = []
    for t in chosen:
        difference, full = difference_picture(theirs[t], mine[t])
        flipped = int(((theirs[t] > 0.5) != (mine[t] > 0.5)).sum())
        shown_pictures = [
            ("frame", resize_picture(pictures[t], theirs[t].shape)),
            ("release", probability_picture(theirs[t])),
            ("ours", probability_picture(mine[t])),
            (f"difference, full colour is {full:.1e}; {flipped} pixels on the other side of 0.5", difference),
        ]
        strips.append((f"frame {t}", shown_pictures))
    return strips


def _publish(
    folder: Path, facts: dict[str, Any], data: dict[str, Any], sides: tuple[Side, Side], found: Findings
) -> bool:
    line = (
        f"{facts['backbone']}, memory of {facts['memory_frames']} frames, {facts['size']} x {facts['size']}, "
        f"{facts['video']} ({facts['frames']} frames), weights: {facts['weights']}, {joblib.cpu_count()} cores"
    )
    page = render_page("HMHI-Net: JAX and PyTorch", line, found)
    data |= {name: side.report for name, side in zip(("release", "ours"), sides, strict=True)}
    write_text(folder / "report.json", json.dumps(data, indent=1))
    write_text(folder / "report.html", page)
    console = Console()
    console.print(line, highlight=False)
    for heading, _, rows in found.tables:
        if not rows:
            continue
        names = columns(rows)
        table = Table(title=heading, title_justify="left", title_style="bold", box=None, pad_edge=False)
        for column in names:
            table.add_column(column.replace("_", " "), justify="left" if column == names[0] else "right")
        for row in rows:
            style = None if row.get("within", True) else "bold red"
            table.add_row(*(shown(row[key]) for key in names), style=style)
        console.print(table)
    console.print(found.verdict, style="green" if found.good else "bold red", highlight=False)
    return found.good
