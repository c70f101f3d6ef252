"""Damaged files of every kind, to every reader and to the commands: what comes of them?

    python benchmarks/fuzz.py --inputs 1000              # readers: videos, pictures, masks, flow, weights, ...
    python benchmarks/fuzz.py --inputs 300 --commands    # inspect, pack, flow, report, convert, segment as a whole

Files that are whole are cut, flipped, spliced, or claim what is not true (`tests/damaged_files.py`). Each input is
tried in a process of its own, forked from one that has imported everything: neither a crash nor a hang costs more than
itself. Counted are exit codes (0 read, 1 some of several, 2 refused), tracebacks, processes that die, hangs,
and inputs that take more than 2 GB. Ends with 1 if there is any of the last four; `--keep` keeps their files.
"""

import argparse
import collections
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from damaged_files import READERS, damaged, valid_files  # noqa: E402
from made_datasets import release_tree  # noqa: E402

from hmhi_jax import cli  # noqa: E402
from hmhi_jax.errors import InputError  # noqa: E402
from hmhi_jax.inference import export, video_job  # noqa: E402, F401 - what the forked processes need
from hmhi_jax.runs import datasets, flow, segment, weights  # noqa: E402, F401
from hmhi_jax.tools.report import report  # noqa: E402, F401

MOST_BYTES = 2 * 10**9
MOST_ADDRESSES = 16 * 2**30  # JAX sets much aside that it never touches
WAITING = 10  # times as long by the clock as in processor time: other programs may keep the machine busy
TRACEBACK, DIED, HUNG, LARGE = "traceback", "died", "hung", "over 2 GB"


def attempt(work: Callable[[], int], seconds: int) -> tuple[str, str]:
    """What came of `work` in a forked process: an exit code or what must not be, and what it printed."""
    with tempfile.TemporaryFile() as output:
        pid = os.fork()
        if not pid:
            resource.setrlimit(resource.RLIMIT_AS, (MOST_ADDRESSES, MOST_ADDRESSES))
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
            for number in (1, 2):
                os.dup2(output.fileno(), number)
            code = 70
            try:
                code = work()
            except SystemExit as stop:
                code = stop.code if isinstance(stop.code, int) else 0
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        deadline, ended = time.monotonic() + WAITING * seconds, 0
        while not ended and time.monotonic() < deadline:
            ended, status, usage = os.wait4(pid, os.WNOHANG)
            time.sleep(0.002)
        if not ended:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return HUNG, ""
        output.seek(0)
        text = output.read().decode(errors="replace")
    code = os.waitstatus_to_exitcode(status)
    if usage.ru_maxrss * 1024 > MOST_BYTES:
        return LARGE, text
    if code == -signal.SIGXCPU:
        return HUNG, text
    if code < 0:
        return f"{DIED} ({signal.Signals(-code).name})", text
    return TRACEBACK if code == 70 or "Traceback (most recent call last)" in text else str(code), text


def read(reader: Callable[[Path], object], path: Path) -> int:
    """As the command line does it."""
    try:
        reader(path)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def hmhi(*arguments: object) -> int:
    sys.argv = ["hmhi", *map(str, arguments)]
    cli.main()
    return 0


Kind = tuple[Path, str, Callable[[Path, Path], int]]
"""A folder that is whole, which of its files are spoilt, and what is done with a copy of it and a place to write to."""


def make(folder: Path) -> None:
    """The folders of `readers` and `commands`."""
    for kind, files in valid_files(folder / "files").items():
        (folder / "kinds" / kind).mkdir(parents=True)
        for path in files:
            shutil.copy(path, folder / "kinds" / kind)
    release_tree(folder / "set", 2, 3)
    for part in ("gt", "pred"):
        shutil.copytree(folder / "set/mask/train", folder / "scored" / part)
    for number in range(6):
        place = folder / f"flow/clip/{number:05d}.flo"
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "files/f.flo", place)
    (folder / "clip").mkdir()
    shutil.copy(folder / "files/clip.mp4", folder / "clip")


def readers(folder: Path) -> dict[str, Kind]:
    def kind(name: str) -> Kind:
        return folder / "kinds" / name, "*", lambda at, out: read(READERS[name], spoilt_in(at))

    return {name: kind(name) for name in READERS}


def commands(folder: Path) -> dict[str, Kind]:
    network, clip, one = folder / "files/net.safetensors", folder / "files/clip.mp4", ("--workers", 1)
    quiet = ("--no-overlay", "--max-frames", 2, "-o")

    def segment_with(at: Path, out: Path) -> int:
        return hmhi("segment", clip, "--weights", at / network.name, *quiet, out)

    def segment_flow(at: Path, out: Path) -> int:
        return hmhi("segment", clip, "--weights", network, "--flow", at / "clip", *quiet, out)

    return {
        "inspect": (folder / "set", "**/*.*", lambda at, out: hmhi("inspect", at)),
        "inspect packed": (folder / "kinds/packed", "*", lambda at, out: hmhi("inspect", at)),
        "pack": (folder / "set", "**/*.*", lambda at, out: hmhi("pack", at, out, "--workers", 0)),
        "flow": (folder / "set", "frame/**/*.jpg", lambda at, out: hmhi("flow", at, "--out", out, *one)),
        "report": (
            folder / "scored",
            "**/*.png",
            lambda at, out: hmhi("report", at / "pred", at / "gt", "--out", out, *one),
        ),
        "convert": (folder / "kinds/weights", "*", lambda at, out: hmhi("convert", "--check", spoilt_in(at))),
        "segment": (folder / "clip", "*", lambda at, out: hmhi("segment", at, "--weights", network, *quiet, out)),
        "segment --flow": (folder / "flow", "**/*.flo", segment_flow),
        "segment --weights": (folder / "kinds/weights", network.name, segment_with),
    }


SPOILT = ".spoilt"


def spoilt_in(folder: Path) -> Path:
    return folder / (folder / SPOILT).read_text()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1000)
    parser.add_argument("--commands", action="store_true", help="whole commands instead of readers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=int, default=60, help="of processor time, after which an input hangs")
    parser.add_argument("--minutes", type=float, default=1e6, help="after which no further input is tried")
    parser.add_argument("--only", nargs="*", help="these kinds or commands")
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args()
    chance, latest = random.Random(given.seed), time.monotonic() + given.minutes * 60
    counts: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # JAX must not begin to compute in this process, which is forked.
        made = os.fork()
        if not made:
            make(folder)
            os._exit(0)
        os.waitpid(made, 0)
        known = commands(folder) if given.commands else readers(folder)
        names = [kind for kind in known if not given.only or kind in given.only]
        for number in range(given.inputs):
            if time.monotonic() > latest:
                break
            kind = names[number % len(names)]
            source, pattern, work = known[kind]
            at, out = folder / f"input{number}", folder / f"output{number}"
            shutil.copytree(source, at)
            files = sorted(path for path in at.glob(pattern) if path.is_file())
            target = chance.choice(files)
            target.write_bytes(damaged(target.read_bytes(), chance, chance.choice(files).read_bytes()))
            (at / SPOILT).write_text(str(target.relative_to(at)))
            outcome, text = attempt(lambda work=work, at=at, out=out: work(at, out), given.seconds)
            counts[kind][outcome] += 1
            if not outcome.isdigit():
                print(f"{kind}, input {number} ({target.name}): {outcome}\n{text[-3000:]}", flush=True)
                if given.keep:
                    shutil.copytree(at, given.keep / f"{kind}-{number}")
            shutil.rmtree(at)
            shutil.rmtree(out, ignore_errors=True)
    outcomes = list(dict.fromkeys(outcome for found in counts.values() for outcome in sorted(found)))
    print(f"{'kind':20}" + "".join(f"{outcome:>18}" for outcome in outcomes))
    for kind, found in counts.items():
        print(f"{kind:20}" + "".join(f"{found[outcome]:18}" for outcome in outcomes))
    sys.exit(any(not outcome.isdigit() for outcome in outcomes))


if __name__ == "__main__":
    main()
