"""Everything that is to be known of an accelerator, in one run: is it exact, how fast is it, where does the time go.

    python benchmarks/accelerator.py --out RESULTS [--release CLONE --python PYTHON_WITH_TORCH --clip CLIP.mp4]

Sections, in this order: `card` (versions, ceilings), `goldens` (outputs of the release, on the card), `frames` (a
frame of MiT-b1 at 512 x 512, beside the release), `training` (a training step, beside the release), `forms`
(formulations side by side), `profile` (the dearest kernels, time by part), `segment` (`hmhi segment` of a 720p clip),
`loader` (clips per second of the processor). Each runs as a process of its own with a time limit and writes
`RESULTS/NAME.json` as it goes, so that whatever fails costs its own section only; `--only` and `--skip` choose. What
takes long to compile is compiled beforehand, all at once, into a cache that the sections share. With --release the
authors' release is timed in turns with this package: its programs, eager and compiled, stay ready in processes of their
own while the others work.

Times are of whole samples, each synchronised at its end, after warming up; given are the median and the fastest.
`--small` runs all of it at a size for a CPU, to see that it works.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
# Section -> seconds it may take.
SECTIONS = {
    "card": 40, "goldens": 150, "frames": 200, "training": 150,
    "forms": 100, "profile": 90, "segment": 180, "loader": 40,
}  # fmt: skip
SHARED = ("goldens", "frames")  # sections of several processes on the card at once
PREPARATION = 150  # seconds for the programs of the training step
SMALL = 4  # times as long for all of them, where a CPU has two cores for what an accelerator's machine has many


def main() -> None:
    """Run the sections and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for results")
    parser.add_argument("--release", type=Path, help="clone of the authors' release, to compare with")
    parser.add_argument("--python", default=sys.executable, help="a Python with torch, for the release")
    parser.add_argument("--clip", type=Path, help="a 720p video for `segment`, which is left out without one")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), metavar="SECTION")
    parser.add_argument("--skip", nargs="+", choices=SECTIONS, default=[], metavar="SECTION")
    parser.add_argument("--seconds", type=float, default=480, help="for all sections together")
    parser.add_argument("--small", action="store_true", help="small sizes, to try the script on a CPU")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    begin = time.perf_counter()
    patience = SMALL if arguments.small else 1
    wanted = [name for name in arguments.only if name not in arguments.skip]
    environment = os.environ | {
        "HMHI_BENCHMARK_CACHE": str((arguments.out.parent / "programs").resolve()),
        "HMHI_CACHE": str((arguments.out.parent / "kept").resolve()),
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        # Trying out Triton's matrix products takes minutes for every program.
        "XLA_FLAGS": os.environ.get("XLA_FLAGS") or ("" if arguments.small else "--xla_gpu_enable_triton_gemm=false"),
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "PYTHONPATH": os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")]),
    }
    request = {
        "out": str(arguments.out.resolve()),
        "release": str(arguments.release.resolve()) if arguments.release else None,
        "python": arguments.python,
        "clip": str(arguments.clip.resolve()) if arguments.clip else None,
        "small": arguments.small,
        "patience": patience,
    }

    def command(section: str) -> list[str]:
        script = ["accelerator_forms.py"] if section == "forms" else ["accelerator_sections.py", section]
        return [sys.executable, str(HERE / script[0]), *script[1:], json.dumps(request)]

    preparation = None
    for name in wanted:
        left = patience * arguments.seconds - (time.perf_counter() - begin)
        if left < 5:
            print(f"{name}: no time left", flush=True)
            continue
        if name == "goldens" and "training" in wanted:
            preparation = _start(command("prepare"), arguments.out / "prepare.log", environment)
        if name == "frames" and preparation is not None:  # it would disturb the times
            _wait(preparation, min(patience * PREPARATION, left))
            preparation = None
        section_begin = time.perf_counter()
        # Where several processes compile at once, each trial of a convolution would take what the others need.
        share = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.2"} if name in SHARED else {}
        process = _start(command(name), arguments.out / f"{name}.log", environment | share)
        ended = _wait(process, min(patience * SECTIONS[name], left))
        seconds = time.perf_counter() - section_begin
        print(f"{name}: {ended}, {seconds:.0f} s", flush=True)
        if ended != "done":
            print((arguments.out / f"{name}.log").read_text()[-1500:], flush=True)
    for name in wanted:
        path = arguments.out / f"{name}.json"
        if path.exists():
            print(f"\n== {name}")
            _show(json.loads(path.read_text()))


def _start(command: list[str], log: Path, environment: dict[str, str]) -> subprocess.Popen:
    with log.open("wb") as stream:
        return subprocess.Popen(
            command, stdout=stream, stderr=stream, stdin=subprocess.DEVNULL, env=environment, start_new_session=True
        )


def _wait(process: subprocess.Popen, seconds: float) -> str:
    try:
        code = process.wait(seconds)
        return "done" if code == 0 else f"failed with {code}"
    except subprocess.TimeoutExpired:
        return "out of time"
    finally:  # what it started goes with it
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _show(value: object, name: str = "", depth: int = 0) -> None:
    """Nested figures as indented lines; a dictionary of plain values in one."""
    if not isinstance(value, dict):
        print(f"{'  ' * depth}{name}: {_text(value)}")
    elif all(not isinstance(inner, dict) for inner in value.values()):
        print(f"{'  ' * depth}{name}: " + ", ".join(f"{key} {_text(inner)}" for key, inner in value.items()))
    else:
        if name:
            print(f"{'  ' * depth}{name}")
        for key, inner in value.items():
            _show(inner, key, depth + bool(name))


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
