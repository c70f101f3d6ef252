"""Several data sets trained on as one, each repeated: the release's list of data sets and list of repeats."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hmhi_jax.data.layouts import Dataset, VideoRecord, open_dataset
from hmhi_jax.errors import InputError


@dataclass(frozen=True)
class Source:
    """A data set of a mixture: arguments of `layouts.open_dataset`, how often an epoch goes through it, and which of
    its videos are used: only those of `videos` (None: all), but not those of `without`."""

    path: str | Path
    repeats: int = 1
    split: str | None = None
    layout: str | None = None
    flows: str | Path | None = None
    name: str | None = None
    videos: tuple[str, ...] | None = None
    without: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """One clip of an epoch: a video, and the name of the data set it is from."""

    dataset: str
    video: VideoRecord

    @property
    def name(self) -> str:
        """`<data set>/<video>`, for error reports."""
        return f"{self.dataset}/{self.video.name}"


def open_sources(sources: Iterable[Source]) -> list[tuple[Dataset, int]]:
    """Open the data sets of a mixture; each with its repeats. Raises InputError."""
    return [
        (
            open_dataset(
                source.path, layout=source.layout, split=source.split, flows=source.flows, name=source.name
            ).chosen(source.videos, source.without),
            source.repeats,
        )
        for source in sources
    ]  # fmt: skip


def entries_of(datasets: Sequence[tuple[Dataset, int]]) -> tuple[Entry, ...]:
    """The clips of one epoch, before shuffling: every video as often as its data set is repeated.

    Raises InputError when a number of repeats is negative, or nothing remains.
    """
    entries: list[Entry] = []
    for dataset, repeats in datasets:
        if repeats < 0:
            raise InputError(f"{dataset.root}: repeats is {repeats}, expected 0 or more")
        entries += repeats * [Entry(dataset.name, video) for video in dataset.videos]
    if not entries:
        where = ", ".join(str(dataset.root) for dataset, _ in datasets) or "no data set"
        raise InputError(f"{where}: no video to train on")
    return tuple(entries)
