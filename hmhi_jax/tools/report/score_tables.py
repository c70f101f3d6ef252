"""The report's tables, row by row; `templates/tables.html` draws them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from hmhi_jax.evaluation.figure_names import better, display_name, lower_is_better
from hmhi_jax.evaluation.scores import Scores
from hmhi_jax.tools.report.charts import COLOURS
from hmhi_jax.tools.report.selection import ordered_figures, protocol_and_reading
from hmhi_jax.tools.report.tables import Run

Members = Sequence[tuple[Run, Scores]]


@dataclass(frozen=True)
class Cell:
    """A number, NaN where there is none; `best` where no rival is better, `edge` at the start of a group of columns."""

    value: float
    best: bool = False
    edge: bool = False

    @property
    def classes(self) -> str:
        """Classes of the style sheet."""
        return " ".join(["best"] * self.best + ["group"] * self.edge)

    @property
    def number(self) -> str:
        """What sorting compares."""
        return "" if math.isnan(self.value) else f"{self.value:.6f}"


@dataclass(frozen=True)
class Row:
    """A named row: a run (with its colour), a class, or a video (with its address in the page and its frames)."""

    name: str
    cells: list[Cell]
    colour: int | None = None
    address: str = ""
    count: int | None = None


@dataclass(frozen=True)
class Table:
    """Rows under column heads."""

    heads: list[str]
    rows: list[Row]


@dataclass(frozen=True)
class SortedHead:
    """A column's head that sorts by it, at first in the direction `first`."""

    text: str
    first: str
    edge: bool = False


@dataclass(frozen=True)
class VideoTable:
    """All videos by one protocol and reading; with several runs each has a group of `figures_each` columns."""

    name: str
    heads: list[SortedHead]
    rows: list[Row]
    mean: Row
    groups: list[str] = field(default_factory=list)
    figures_each: int = 0


def run_table(members: Members, figures: Sequence[str]) -> Table:
    """Runs side by side: a row a run, a column a figure."""
    rows = []
    for k, (run, _) in enumerate(members):
        cells = [_rated([found.figures[figure] for _, found in members], figure)[k] for figure in figures]
        rows.append(Row(run.name, cells, k % COLOURS))
    return Table(["Run", *map(display_name, figures)], rows)


def class_table(members: Members) -> Table:
    """J of every class, a column a run."""
    names = dict.fromkeys(name for _, found in members for name in found.classes)
    heads = [f"J {run.name}" if len(members) > 1 else "J" for run, _ in members]
    values = {name: [found.classes.get(name, {}).get("J_mean", math.nan) for _, found in members] for name in names}
    return Table(["Class", *heads], [Row(name, _rated(values[name], "J_mean")) for name in names])


def video_table(members: Members, address: Callable[[str], str]) -> VideoTable:
    """All videos of scores by one protocol and reading; `address` is a video's place in the page."""
    first = members[0][1]
    many = len(members) > 1
    figures = [name for name in ordered_figures(first) if "class" not in name]
    if many:
        figures = [name for name in first.protocol.headline if name in figures]

    def in_groups(by_figure: list[list[Cell]]) -> list[Cell]:
        """Cells `[figure][run]` in the order of the columns."""
        return [
            Cell(by_figure[j][k].value, by_figure[j][k].best, many and j == 0)
            for k in range(len(members))
            for j in range(len(figures))
        ]

    rows = []
    for video in dict.fromkeys(video for _, found in members for video in found.videos):
        scores = [found.videos[video].figures if video in found.videos else {} for _, found in members]
        cells = in_groups([_rated([own.get(figure, math.nan) for own in scores], figure) for figure in figures])
        count = None if many else int(first.videos[video].scored.sum())
        rows.append(Row(video, cells, address=address(video), count=count))
    heads = [SortedHead("Video", "ascending"), *([] if many else [SortedHead("Frames", "descending")])]
    for _ in members:
        for j, figure in enumerate(figures):
            order = "ascending" if lower_is_better(figure) else "descending"
            heads.append(SortedHead(display_name(figure), order, many and j == 0))
    means = in_groups([[Cell(found.figures[figure]) for _, found in members] for figure in figures])
    mean = Row("Mean over videos", means, count=None if many else first.frame_count)
    groups = [run.name for run, _ in members] if many else []
    return VideoTable(protocol_and_reading(first), heads, rows, mean, groups, len(figures))


def _rated(values: Sequence[float], figure: str) -> list[Cell]:
    """A figure of every run; where there are several, the best are marked."""
    return [
        Cell(value, len(values) > 1 and not math.isnan(value) and not any(better(figure, v, value) for v in values))
        for value in values
    ]
