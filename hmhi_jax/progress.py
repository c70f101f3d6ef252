"""Progress of everything that takes long: bars on standard error, or plain lines where that is no terminal.

Before there is anything to count, a spinner says what is being done (`doing`); the first bars end it.
"""

import atexit
import functools
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar, runtime_checkable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

_Bars = TypeVar("_Bars", bound="Bars")


@runtime_checkable
class Report(Protocol):
    """To be called with how many parts are done and what to show beside (the rate, if empty). None for the number
    leaves it as it is: what comes before the first part is told on terminals."""

    def __call__(self, done: int | None, /, text: str = "") -> None: ...


class _Spinner:
    """That of the process, which has one terminal."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, soft_wrap=True, highlight=False)
        self._shown: Progress | None = None
        atexit.register(self.stop)

    def say(self, text: str, tell: bool) -> None:
        if not self._console.is_terminal:
            if tell:
                self._console.print(text, markup=False)
            return
        if self._shown is None:
            columns = SpinnerColumn(), TextColumn("{task.description}", markup=False)
            # What goes to standard output stays there, in a pipe or a file.
            self._shown = Progress(*columns, console=self._console, transient=True, redirect_stdout=False)
            self._shown.add_task(text)
            self._shown.start()
        self._shown.update(self._shown.task_ids[0], description=text)

    def stop(self) -> None:
        shown, self._shown = self._shown, None
        if shown is not None:
            shown.stop()


@functools.cache
def _spinner() -> _Spinner:
    return _Spinner()


def doing(text: str, *, tell: bool = False) -> None:
    """On a terminal, show a spinner beside what is being done, until bars are shown or the process ends.

    Elsewhere nothing is shown, or, with `tell`, a line: of what takes long.
    """
    _spinner().say(text, tell)


class Bars:
    """A bar for each thing that goes on, with its rate and the time left; a plain line now and then without a terminal.

    Use as a context manager; may be told of progress from several threads.

    Args:
        unit: what is counted, such as "frames".
        silence: seconds between plain lines.
    """

    def __init__(self, unit: str = "frames", *, silence: float = 10.0) -> None:
        self._unit, self._silence = unit, silence
        self._console = Console(stderr=True, soft_wrap=True, highlight=False)
        self._lock = threading.Lock()
        self._bars: Progress | None = None
        if self._console.is_terminal:
            self._bars = Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[text]}"),
                TimeRemainingColumn(), console=self._console, speed_estimate_period=60,
            )  # fmt: skip

    def __enter__(self: _Bars) -> _Bars:
        _spinner().stop()
        if self._bars:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars:
            self._bars.stop()

    def track(self, name: str, total: int | None, done: int = 0) -> Report:
        """A bar for something of about `total` parts, if that is known, `done` of which need no doing any more."""
        if not self._bars:
            return _PlainLines(name, total, self._unit, self._silence, self.print)
        bars, task = self._bars, self._bars.add_task(name, total=total, completed=done, text="starting")

        def update(done: int | None, text: str = "") -> None:
            if done is None:
                bars.update(task, text=text)
                return
            speed = bars.tasks[task].speed
            rate = f"{speed:.1f} {self._unit}/s" if speed else "starting"
            bars.update(task, completed=done, total=max(done, total) if total else None, text=text or rate)

        return update

    def print(self, line: str) -> None:
        """A line on standard error, above the bars."""
        with self._lock:
            self._console.print(line, markup=False)


class _PlainLines:
    """Now and then a line such as "clip 120/300 frames, 1.6 frames/s, 1:53 left"."""

    def __init__(self, name: str, total: int | None, unit: str, silence: float, say: Callable[[str], None]) -> None:
        self._name, self._total, self._unit, self._silence, self._say = name, total, unit, silence, say
        self._said = time.monotonic()
        self._calls = 0

    def __call__(self, done: int | None, text: str = "") -> None:
        if done is None:
            return
        now = time.monotonic()
        self._calls += 1
        if self._calls <= 2:  # where it begins; and the first part, which compiling came before
            self._first, self._begin = done, now
        ends = done == self._total and text
        if not ends and (now - self._said < self._silence or done == self._first):
            return
        self._said = now
        rate = (done - self._first) / max(now - self._begin, 1e-9)
        known = self._total is not None and self._total >= done
        parts = [f"{self._name} {done}{f'/{self._total}' if known else ''} {self._unit}".strip()]
        parts.append(text or f"{rate:.1f} {self._unit}/s")
        if self._total is not None and known and (rate or ends):
            left = round((self._total - done) / rate) if rate else 0
            hours = f"{left // 3600}:{left // 60 % 60:02d}" if left >= 3600 else f"{left // 60}"
            parts.append(f"{hours}:{left % 60:02d} left")
        self._say(", ".join(parts))


@contextmanager
def frame_progress(what: str, total: int, unit: str = "frames") -> Generator[Report]:
    """Show one bar; the value of the `with` is called with how many more are done."""
    with Bars(unit) as bars:
        show, done = bars.track(what, total), 0

        def advance(count: int | None, text: str = "") -> None:
            nonlocal done
            done += count or 0
            show(done if count is not None else None, text)

        yield advance


class VideoProgress(Bars):
    """Bars of several videos, and their results once the bars are gone."""

    def __init__(self) -> None:
        super().__init__()
        self._results: list[str] = []

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        for line in self._results:
            print(line)

    def video(self, name: str, frames: int | None) -> Report:
        """A bar for a video of about so many frames; returns what is to be called with the number that are done."""
        return self.track(name, frames)

    def print_result(self, folder: Any, summary: dict[str, Any]) -> None:
        """Where to look, on standard output, once the bars are gone."""
        rate = summary["frames_per_second"]
        what = [f"{path}/" if path.is_dir() else str(path) for path in folder.to_look_at()]
        with self._lock:
            self._results.append(
                f"{summary['input']}: {summary['frames']} frames, {rate:.2f} frames/s, object covers "
                f"{summary['mean_area']:.1%} on average\n  " + "\n  ".join(what)
            )


class TrainingProgress:
    """The bar of a training run: step, loss, clips per second, share of time spent waiting for data, time left.

    Args:
        total: the last step.
        start: the step to go on from.
        active: whether this process tells anything.
    """

    def __init__(self, total: int, start: int, *, active: bool = True) -> None:
        self._bars = Bars("", silence=30.0) if active else None
        if self._bars:
            self._bars.__enter__()
            self._show = self._bars.track("step", total, start)

    def update(self, step: int, values: Mapping[str, float]) -> None:
        """Show the figures of a finished step."""
        if self._bars:
            waiting = f"waiting {values['data_wait_share']:.0%}"
            self._show(step, f"loss {values['loss']:.4f}, {values['clips_per_second']:.2f} clips/s, {waiting}")

    def say(self, text: str) -> None:
        """A line above the bar."""
        if self._bars:
            self._bars.print(text)

    def close(self) -> None:
        """Leave the terminal as it was before."""
        if self._bars:
            self._bars.__exit__()
