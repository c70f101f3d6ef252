"""Progress bars of commands that go through frames, of one data set or of several videos."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

_SILENCE = 10.0  # seconds between plain lines


@contextmanager
def frame_progress(what: str, total: int, unit: str = "frames") -> Iterator[Callable[[int], None]]:
    """Show a bar with rate and time left; the value of the `with` is called with how many more are done."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    with Progress(*columns, TimeRemainingColumn()) as progress:
        task = progress.add_task(what, total=total, rate=unit)

        def advance(count: int) -> None:
            progress.advance(task, count)
            shown = progress.tasks[task]
            if shown.elapsed:
                progress.update(task, rate=f"{unit}, {shown.completed / shown.elapsed:.0f}/s")

        yield advance


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f} frames/s" if task.speed else "starting", style="progress.data.speed")


class VideoProgress:
    """A bar for each video with frames per second and time left, or plain lines where there is no terminal.

    Use as a context manager; may be told of progress from several threads.
    """

    def __init__(self) -> None:
        self._console = Console(stderr=True, soft_wrap=True, highlight=False)
        self._results: list[str] = []
        self._lock = threading.Lock()
        self._bars: Progress | None = None
        if self._console.is_terminal:
            self._bars = Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn(),
                console=self._console, speed_estimate_period=60,
            )  # fmt: skip

    def __enter__(self) -> "VideoProgress":
        if self._bars:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars:
            self._bars.stop()
        for line in self._results:
            print(line)

    def video(self, name: str, frames: int | None) -> Callable[[int], None]:
        """A bar for a video of about so many frames; returns what is to be called with the number that are done."""
        if self._bars:
            bars, task = self._bars, self._bars.add_task(name, total=frames)
            return lambda done: bars.update(task, completed=done, total=max(done, frames) if frames else None)
        return _PlainLines(name, frames, self.print)

    def print(self, line: str) -> None:
        """A line on standard error, above the bars."""
        with self._lock:
            self._console.print(line, markup=False)

    def print_result(self, folder: Any, summary: dict[str, Any]) -> None:
        """Where to look, on standard output, once the bars are gone."""
        rate = summary["frames_per_second"]
        what = [str(folder.masks) + "/", str(folder.overlay) if folder.overlay.exists() else "", str(folder.sheet)]
        with self._lock:
            self._results.append(
                f"{summary['input']}: {summary['frames']} frames, {rate:.2f} frames/s, object covers "
                f"{summary['mean_area']:.1%} on average\n  " + "\n  ".join(filter(None, what))
            )


class _PlainLines:
    """Now and then a line such as "clip: 120 of 300 frames, 1.6 frames/s, 1:53 left"."""

    def __init__(self, name: str, frames: int | None, say: Callable[[str], None]) -> None:
        self._name, self._frames, self._say = name, frames, say
        self._said = time.monotonic()
        self._calls = 0

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        self._calls += 1
        if self._calls <= 2:  # where it begins; and the first frame, which compiling came before
            self._first, self._begin = done, now
        if now - self._said < _SILENCE or done == self._first:
            return
        self._said = now
        rate = (done - self._first) / (now - self._begin)
        line = f"{self._name}: {done} frames, {rate:.1f} frames/s"
        if self._frames and self._frames >= done:
            left = round((self._frames - done) / rate)
            line = (
                f"{self._name}: {done} of {self._frames} frames, {rate:.1f} frames/s, {left // 60}:{left % 60:02d} left"
            )
        self._say(line)
