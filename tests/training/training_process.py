"""Runs of `train.py` in processes of their own."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from quick_compiler import compiler_flags

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "tests" / "training" / "tiny_run_config.py"
EVALUATION = (
    "--config.evaluation.every_steps=6",
    "--config.evaluation.sets=({'path': 'data', 'split': 'val', 'name': 'blobs'},)",
    "--config.evaluation.workers=1",
)
CACHE = os.environ.get("HMHI_TEST_CACHE", str(Path.home() / ".cache" / "hmhi-jax" / "tests"))


def start(workdir: Path, *arguments: str, devices: int = 1, limit: int | None = None, config: Path = CONFIG):
    """Start a run; `limit` is the largest file it may write, in bytes."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": compiler_flags(devices),
        "JAX_COMPILATION_CACHE_DIR": CACHE,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
    }

    def limited() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), f"--config={config}", f"--workdir={workdir}", *arguments],
        env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        preexec_fn=limited if limit else None,
    )  # fmt: skip


def finish(process, code: int = 0) -> str:
    """Wait; the output, after checking the exit code and that nobody saw a traceback."""
    output, _ = process.communicate(timeout=600)
    assert process.returncode == code, output
    assert "Traceback" not in output, output
    return output


def train(workdir: Path, *arguments: str, code: int = 0, **options) -> str:
    """A whole run; its output."""
    return finish(start(workdir, *arguments, **options), code)


def losses(workdir: Path) -> dict[int, float]:
    """Step -> loss, from the run's log."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    rows = []
    for line in lines:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue  # being written
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


def signal_after(process, workdir: Path, step: int, number: signal.Signals) -> None:
    """Send a signal as soon as the log has `step`."""
    while process.poll() is None and step not in losses(workdir):
        time.sleep(0.02)
    if process.poll() is None:
        process.send_signal(number)


def checkpoint_steps(workdir: Path) -> list[int]:
    """Steps of the complete checkpoints."""
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit())


def evaluations(workdir: Path) -> dict[int, float]:
    """Step -> J&F of the evaluations, from the checkpoints."""
    figures = {step: workdir / "checkpoints" / str(step) / "metrics" / "metrics" for step in checkpoint_steps(workdir)}
    return {step: json.loads(path.read_text())["blobs/JF_mean"] for step, path in figures.items() if path.exists()}


def array_files(workdir: Path, step: int) -> list[Path]:
    """Files that hold a checkpoint's arrays, the largest first."""
    files = [path for path in (workdir / "checkpoints" / str(step) / "state").rglob("*") if path.is_file()]
    return sorted(files, key=lambda path: -path.stat().st_size)
