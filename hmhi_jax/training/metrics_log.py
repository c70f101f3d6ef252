"""What a run tells: a JSON line per step, and TensorBoard. Only process 0 of a run logs."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from jaxtyping import UInt8

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


def as_floats(scalars: Mapping[str, Any]) -> dict[str, float]:
    """Fetch scalars from the devices."""
    return {name: float(np.asarray(value)) for name, value in scalars.items()}
