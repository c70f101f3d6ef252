"""A comparison as one HTML page: verdict, figures, curves, and pictures of where the two sides differ."""

import base64
import html
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2330; max-width: 1080px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { font-size: 1.1rem; margin-top: 2.2rem; }
p.note { color: #5b6574; margin-top: .2rem; }
.verdict { padding: .7rem 1rem; border-radius: 6px; background: #e7f4ea; border-left: 5px solid #2e8b4f; }
.verdict.bad { background: #fbe9e7; border-color: #c0392b; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .8rem; text-align: right; border-bottom: 1px solid #e3e7ed; }
th:first-child, td:first-child { text-align: left; } th { font-weight: 600; color: #47515f; }
tr.bad td { color: #c0392b; font-weight: 600; }
.strip { display: grid; grid-template-columns: repeat(4, 1fr); gap: 6px; margin-bottom: 10px; }
.strip figure { margin: 0; } .strip img { width: 100%; display: block; border-radius: 3px; }
figcaption { font-size: .8rem; color: #5b6574; } .scroll { overflow-x: auto; } img.chart { max-width: 100%; }
"""


def render_page(
    title: str,
    facts: str,
    verdict: str,
    good: bool,
    tables: Sequence[tuple[str, str, list[dict[str, Any]]]],
    chart: bytes | None,
    strips: Sequence[tuple[str, Sequence[tuple[str, UInt8[np.ndarray, "H W 3"]]]]],
) -> str:
    """The page.

    Args:
        title, facts: headline and the line below it.
        verdict, good: the sentence in the box and its colour.
        tables: (heading, note, rows); a row with `within` False is marked.
        chart: a PNG.
        strips: (heading, pictures with captions), one strip per frame.
    """
    parts = [
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{html.escape(title)}</title>",
        f"<meta name='viewport' content='width=device-width'><style>{_STYLE}</style></head><body>",
        f"<h1>{html.escape(title)}</h1><p class='note'>{html.escape(facts)}</p>",
        f"<p class='verdict{'' if good else ' bad'}'>{html.escape(verdict)}</p>",
    ]
    for heading, note, rows in tables:
        if rows:
            parts.append(f"<h2>{html.escape(heading)}</h2>")
            parts += [f"<p class='note'>{html.escape(note)}</p>"] if note else []
            parts.append(_table(rows))
    if chart is not None:
        parts.append("<h2>Deviation by frame</h2>")
        parts.append(f"<img class='chart' alt='deviation of every map by frame' src='{_data(chart)}'>")
    if strips:
        parts.append(
            "<h2>Frames</h2><p class='note'>Probability of either side and the difference between them, "
            "brightened as its caption says; red: ours is higher, blue: the release's.</p>"
        )
    for heading, pictures in strips:
        figures = "".join(
            f"<figure><img alt='{html.escape(caption)}' src='{_data(_png(picture))}'>"
            f"<figcaption>{html.escape(caption)}</figcaption></figure>"
            for caption, picture in pictures
        )
        parts.append(f"<p class='note'>{html.escape(heading)}</p><div class='strip'>{figures}</div>")
    return "\n".join([*parts, "</body></html>\n"])


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
    """Grey, white for 1."""
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


def _table(rows: list[dict[str, Any]]) -> str:
    columns = [key for key in rows[0] if key != "within"]
    head = "".join(f"<th>{html.escape(key.replace('_', ' '))}</th>" for key in columns)
    body = "".join(
        f"<tr{'' if row.get('within', True) else ' class=bad'}>"
        + "".join(f"<td>{html.escape(shown(row[key]))}</td>" for key in columns)
        + "</tr>"
        for row in rows
    )
    return f"<div class='scroll'><table><tr>{head}</tr>{body}</table></div>"


def shown(value: Any) -> str:
    """A figure as people read it: three digits, scientific where small."""
    if not isinstance(value, float):
        return str(value)
    if value == 0 or 0.01 <= abs(value) < 1e5:
        return f"{value:.4g}"
    return f"{value:.1e}"


def _png(picture: np.ndarray) -> bytes:
    stream = io.BytesIO()
    image = Image.fromarray(picture)
    image.thumbnail((400, 400))
    image.save(stream, "PNG", optimize=True)
    return stream.getvalue()


def _data(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
