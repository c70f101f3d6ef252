"""What tests of `hmhi segment` ask of a finished or refused command, and how they start one."""

import os
import re
import subprocess
import sys
from pathlib import Path

import av
import cv2
import jax
import numpy as np

TESTS = Path(__file__).resolve().parent


def refused(outcome, message, expected_code=2):
    """The exit code, and one line that matches."""
    code, _, err = outcome
    assert code == expected_code, err
    (line,) = [line for line in err.strip().splitlines() if not line.endswith(" left")]  # progress apart
    assert line.startswith("error: "), line
    assert re.search(message, line), line


def masks_of(folder):
    return {path.name: cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in sorted((folder / "masks").iterdir())}


def same_masks(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def frames_of(path):
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def start(*arguments, text=True, **streams):
    """The command in a process of its own."""
    code = (
        # Whoever runs the tests in the background may have them ignore SIGINT, which children inherit.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        f"import sys; sys.path.insert(0, {str(TESTS)!r}); import small_network; from hmhi_jax.cli import main; main()"
    )
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir}
    return subprocess.Popen(
        [sys.executable, "-c", code, "segment", *map(str, arguments)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=text, **streams,
    )  # fmt: skip
