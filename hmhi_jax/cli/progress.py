"""The progress bar of commands that go through frames."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def frame_progress(what: str, total: int, unit: str = "frames") -> Iterator[Callable[[int], None]]:
    """Show a bar with rate and time left; the value of the `with` is called with how many more are done."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    with Progress(*columns, TimeRemainingColumn()) as progress:
        task = progress.add_task(what, total=total, rate=unit)

        def advance(count: int) -> None:
            progress.advance(task, count)
            shown = progress.tasks[task]
            if shown.elapsed:
                progress.update(task, rate=f"{unit}, {shown.completed / shown.elapsed:.0f}/s")

        yield advance
