"""What a run tells: a JSON line per step, TensorBoard, and a progress bar. Only process 0 of a run logs."""

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from jaxtyping import UInt8
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from hmhi_jax.complete_files import write_text

METRICS_FILE = "metrics.jsonl"


def last_logged_lines(path: Path, before_step: int) -> list[str]:
    """Complete lines of steps up to `before_step`: what a run that goes on from there keeps of its log."""
    if not path.exists():
        return []
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            step = json.loads(line)["step"]
        except (ValueError, KeyError, TypeError):
            continue  # cut off by a kill
        if step <= before_step:
            kept.append(line)
    return kept


class MetricsLog:
    """Writes `metrics.jsonl` and TensorBoard event files into the work directory."""

    def __init__(self, workdir: str | Path, start_step: int, *, tensorboard: bool = True, active: bool = True) -> None:
        """Lines of steps after `start_step`, from a run that was killed behind its last checkpoint, are dropped."""
        self._file: TextIO | None = None
        self._board = None
        if not active:
            return
        folder = Path(workdir).expanduser()
        path = folder / METRICS_FILE
        kept = last_logged_lines(path, start_step)
        write_text(path, "".join(line + "\n" for line in kept))
        self._file = path.open("a", encoding="utf-8")
        if tensorboard:
            from tensorboardX import SummaryWriter

            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=start_step + 1 if start_step else None)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One line `{"step": step, ...}`; numbers only, non-finite ones as strings so that the line stays JSON."""
        if self._file is None:
            return
        row = {name: float(value) for name, value in values.items()}
        safe = {name: value if np.isfinite(value) else str(value) for name, value in row.items()}
        self._file.write(json.dumps({"step": step, **safe}) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in row.items():
                self._board.add_scalar(name, value, step)

    def picture(self, step: int, name: str, picture: UInt8[np.ndarray, "H W 3"]) -> None:
        """A picture for TensorBoard."""
        if self._board is not None:
            self._board.add_image(name, picture, step, dataformats="HWC")

    def close(self) -> None:
        """Flush everything to disk."""
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()


class TrainingProgress:
    """A progress bar: step, loss, clips per second, share of time spent waiting for data, time left.

    Where the output is no terminal, a plain line every `seconds_between_lines` instead.
    """

    def __init__(self, total: int, start: int, *, active: bool = True, seconds_between_lines: float = 30.0) -> None:
        self._total = total
        self._console = Console(file=sys.stderr)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._active = active
        self._pause = seconds_between_lines
        self._last_line = 0.0
        self._start, self._began = start, time.monotonic()
        if active and self._console.is_terminal:
            self._bar = Progress(
                TextColumn("step"), MofNCompleteColumn(), BarColumn(bar_width=None),
                TextColumn("{task.fields[text]}"), TimeRemainingColumn(),
                console=self._console,
            )  # fmt: skip
            self._task = self._bar.add_task("train", total=total, completed=start, text="compiling")
            self._bar.start()

    def update(self, step: int, values: Mapping[str, float]) -> None:
        """Show the figures of a finished step."""
        if not self._active:
            return
        text = (
            f"loss {values['loss']:.4f}  {values['clips_per_second']:.2f} clips/s  "
            f"waiting {100 * values['data_wait_share']:.0f} %"
        )
        if self._bar is not None:
            self._bar.update(self._task, completed=step, text=text)
            return
        now = time.monotonic()
        if now - self._last_line >= self._pause or step == self._total:
            self._last_line = now
            left = (now - self._began) / max(1, step - self._start) * (self._total - step)
            minutes, seconds = divmod(round(left), 60)
            self._console.print(
                f"step {step}/{self._total}  {text}  {minutes // 60}:{minutes % 60:02}:{seconds:02} left",
                highlight=False, soft_wrap=True,
            )  # fmt: skip

    def say(self, text: str) -> None:
        """A line above the bar."""
        if self._active:
            self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()


def as_floats(scalars: Mapping[str, Any]) -> dict[str, float]:
    """Fetch scalars from the devices."""
    return {name: float(np.asarray(value)) for name, value in scalars.items()}
