"""Memory freed in small pieces goes back to the system."""

import platform
import subprocess
import sys

import pytest

_PROGRAM = """
import numpy as np
from hmhi_jax.process import give_back_freed_memory

def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS"))

pieces = [np.ones(4096, np.uint8) for _ in range(40_000)]
last = pieces[-1]  # what stays at the end keeps the C library from giving back what is in front of it
del pieces
before = resident()
give_back_freed_memory()
print(before - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc" or sys.platform != "linux", reason="the GNU C library's")
def test_it_leaves_the_process():
    found = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True)
    assert int(found.stdout) > 100_000  # of the 160,000 KiB
