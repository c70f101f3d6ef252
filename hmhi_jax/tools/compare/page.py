"""A comparison as one HTML page: verdict, figures, curves, and pictures of where the two sides differ."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from hmhi_jax.tools.pages import data_address, render


def render_page(
    title: str,
    facts: str,
    verdict: str,
    good: bool,
    tables: Sequence[tuple[str, str, list[dict[str, Any]]]],
    chart: bytes | None,
    strips: Sequence[tuple[str, Sequence[tuple[str, UInt8[np.ndarray, "H W 3"]]]]],
) -> str:
    """A comparison as HTML.

    Args:
        title, facts: headline and the line below it.
        verdict, good: the sentence in the box and its colour.
        tables: (heading, note, rows); a row with `within` False is marked, a table without rows left out.
        chart: a PNG.
        strips: (heading, pictures with captions), one strip per frame.
    """
    return render(
        "compare.html",
        title=title,
        facts=facts,
        verdict=verdict,
        good=good,
        tables=[(heading, note, columns(rows), rows) for heading, note, rows in tables if rows],
        chart=chart and data_address(chart, "png"),
        strips=[
            (heading, [(caption, data_address(_png(picture), "png")) for caption, picture in pictures])
            for heading, pictures in strips
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
