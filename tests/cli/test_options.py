"""What the commands' options take, said without loading JAX."""

import os
import subprocess
import sys

import pytest

from hmhi_jax.cli.options import COMPUTE_DTYPES
from hmhi_jax.kernels.platforms import DTYPES


def test_the_network_computes_in_what_the_commands_offer():
    assert COMPUTE_DTYPES == DTYPES


@pytest.mark.parametrize(
    "arguments", [["--help"], ["segment", "--help"], ["segment", "a.mp4", "-o", "b", "--dtype", "x"]]
)
def test_a_help_and_a_wrong_option_wait_for_nothing_heavy(arguments):
    script = (
        "import sys\nfrom hmhi_jax.cli import main\ntry: main()\nexcept SystemExit: pass\n"
        "heavy = {'jax', 'flax', 'numpy', 'cv2', 'matplotlib', 'joblib'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a disk that is always full is Linux's")
def test_a_full_disk_behind_standard_output_is_one_line():
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-c", "from hmhi_jax.cli import main; main()", "--version"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "error: standard output: no space left on its disk\n")
