"""Is what was killed and started again what it would have been? `kill -9` at random moments, many times.

    python benchmarks/kills.py train --kills 100
    python benchmarks/kills.py segment --kills 50
    python benchmarks/kills.py eval --kills 50 --minutes 20 --tally eval.json    # started again, it goes on

Each first runs undisturbed; then again and again in new folders, killed at random moments of what it takes until it
ends by itself. What is there in the end must be equal to the bit: losses, figures of evaluations and weights of a
training run; masks, contact sheet, overlay and areas of `hmhi segment`; predictions and scores of `eval.py`. No process
that a killed one had started may be left. Prints the count; ends with 1 if anything differs, and after `--minutes`.
With `--tally` the count is kept in a file after every run, and goes on from there; each run has moments of its own.

Processes are forked from one that has imported everything (but has not begun to compute), since importing takes longer
than the work.
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import runpy
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from small_videos import moving_square, save_network, write_video  # noqa: E402

from hmhi_jax import cli  # noqa: E402
from hmhi_jax.data.flow import FlowRecipe  # noqa: E402
from hmhi_jax.interop.weights import load_weights  # noqa: E402
from hmhi_jax.runs import evaluate, segment, train  # noqa: E402, F401 - what the forked processes need
from hmhi_jax.tools.synthetic.datasets import write_moving_blobs  # noqa: E402

WEIGHTS = "net.safetensors"
PATIENCE = 1800.0  # seconds after which an undisturbed run hangs, also where many others share the processor


def start(arguments: Sequence[str], log: Path) -> int:
    """Run a script of this project, or `hmhi`, in a forked process with a session of its own; its number."""
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in (1, 2):
        os.dup2(descriptor, number)
    code = 70
    try:
        sys.argv = list(arguments)
        if arguments[0] == "hmhi":
            cli.main()
        elif arguments[0] == "weights":  # made here, for JAX must not begin to compute in the parent
            save_network(Path(arguments[1]), FlowRecipe(preset="ultrafast"))
        else:
            runpy.run_path(str(ROOT / arguments[0]), run_name="__main__")
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def end(pid: int, seconds: float) -> int | None:
    """Its exit code if it ends by itself, None if it is killed after so many seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def left_over(session: int, seconds: float = 20) -> int:
    """How many processes of a session are still there after so long."""

    def alive() -> int:
        count = 0
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError, IndexError):
                count += stat.read_text().rpartition(")")[2].split()[3] == str(session)
        return count

    deadline = time.monotonic() + seconds
    while (number := alive()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return number


def hashes(folder: Path, *patterns: str) -> dict[str, str]:
    files = sorted(path for pattern in patterns for path in folder.glob(pattern) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def training(folder: Path) -> tuple[list[str], Callable[[Path], dict]]:
    """The command without its folder, and what to compare."""

    def result(run: Path) -> dict:
        rows = {}
        for line in (run / "metrics.jsonl").read_text().splitlines():
            row = json.loads(line)
            kept = {name: value for name, value in row.items() if "second" not in name and "wait" not in name}
            rows.setdefault(row["step"], {}).update(kept)
        weights = load_weights(run / "weights.safetensors")
        arrays = {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in weights.arrays.items()}
        return {"metrics": rows, "step": weights.extra["step"], "figures": weights.extra["figures"], **arrays}

    sets = "({'path': 'data', 'split': 'val', 'name': 'blobs'},)"
    config = ROOT / "tests" / "training" / "tiny_run_config.py"
    command = ["train.py", f"--config={config}", "--config.steps=24", "--config.evaluation.every_steps=8"]
    return [*command, f"--config.evaluation.sets={sets}", "--config.evaluation.workers=1", "--workdir"], result


def segmenting(folder: Path) -> tuple[list[str], Callable[[Path], dict]]:
    def result(run: Path) -> dict:
        area = json.loads((run / "summary.json").read_text())["area"]
        return {"area": area, **hashes(run, "masks/*", "soft/*", "sheet.png", "overlay.mp4")}

    clip = write_video(folder / "clip.mp4", moving_square(120))
    return [
        "hmhi",
        "segment",
        str(clip),
        "--weights",
        str(folder / WEIGHTS),
        "--soft",
        "--save-every",
        "20",
        "--out",
    ], result


def evaluating(folder: Path) -> tuple[list[str], Callable[[Path], dict]]:
    def result(run: Path) -> dict:
        figures = json.loads((run / "evaluation.json").read_text())["sets"]["blobs"]["figures"]
        pages = hashes(run, "predictions/**/*.png", "reports/blobs/*.csv")
        return {"figures": figures, **pages}

    write_moving_blobs(folder / "data", train=1, val=6, size=(48, 80))
    sets = f"({{'path': '{folder / 'data'}', 'split': 'val', 'name': 'blobs'}},)"
    config = [
        "--config=configs/davis_eval.py",
        f"--config.eval.sets={sets}",
        f"--config.eval.weights={folder / WEIGHTS}",
    ]
    return ["eval.py", *config, "--config.eval.extra=False", "--config.eval.workers=2", "--workdir"], result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train", "segment", "eval"))
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=1e6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tally", type=Path)
    given = parser.parse_args()
    os.chdir(ROOT)
    # All that the commands import; JAX itself begins to compute in the forked processes only.
    import small_network  # noqa: F401 - makes the network of `segmenting` known

    deadline = time.monotonic() + given.minutes * 60
    tally = {"kills": 0, "runs": 0, "different": 0}
    if given.tally and given.tally.exists():
        tally = json.loads(given.tally.read_text())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log = folder / "log"
        command, result = {"train": training, "segment": segmenting, "eval": evaluating}[given.what](folder)

        def finish(out: Path, seconds: float) -> int | None:
            """Start it, end it after so long; None if it was killed. Raises `SystemExit` for what must not happen."""
            pid = start([*command, str(out)], log)
            code = end(pid, seconds)
            if code is None and seconds >= PATIENCE:
                raise SystemExit(f"hangs: {log.read_text()[-2000:]}")
            if code:
                raise SystemExit(f"exit code {code}: {log.read_text()[-2000:]}")
            if number := left_over(pid):
                raise SystemExit(f"{number} processes were left behind")
            return code

        if given.what != "train" and end(start(["weights", str(folder / WEIGHTS)], log), PATIENCE) != 0:
            raise SystemExit(log.read_text())
        finish(folder / "warm", 2 * PATIENCE)  # programs are compiled and kept
        begin = time.monotonic()
        finish(folder / "whole", PATIENCE)
        takes = time.monotonic() - begin
        expected = result(folder / "whole")
        print(f"undisturbed: {takes:.1f} s, {len(expected)} things to compare", flush=True)
        while tally["kills"] < given.kills and time.monotonic() < deadline:
            chance = random.Random(f"{given.seed} {tally['runs']}")
            out, most = folder / f"run{tally['runs']}", min(20, given.kills - tally["kills"])
            kills = 0
            while kills < most and finish(out, chance.uniform(0, takes)) is None:
                kills += 1
            finish(out, PATIENCE)  # a finished one has nothing to do
            found = result(out)
            if found != expected:
                wrong = [key for key in expected | found if found.get(key) != expected.get(key)]
                print(f"run {tally['runs']} differs: {wrong[:5]}", flush=True)
            shutil.rmtree(out)
            tally["kills"] += kills
            tally["runs"] += 1
            tally["different"] += found != expected
            print(f"{tally['kills']} kills, {tally['runs']} runs, {tally['different']} of them differ", flush=True)
            if given.tally:
                given.tally.write_text(json.dumps(tally))
    sys.exit(tally["different"] > 0)


if __name__ == "__main__":
    main()
