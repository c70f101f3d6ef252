"""Memory in large pages for programs on a CPU.

XLA's CPU backend asks the C library for its temporary memory, hundreds of megabytes, at every call of a compiled
program, and gives it back afterwards. As pages of 4 KiB all of it would be handed out, zeroed and looked up anew for
every frame, a twelfth of a frame's time; as pages of 2 MiB that is nearly free. The GNU C library asks for them if an
environment variable says so before the process starts (glibc 2.35 and later; older ones ignore it). Kernels set to
`always` or `madvise` grant them.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

_VARIABLE, _SETTING = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"
_KERNEL = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """`given`, asking for large pages. What it says about them already stays."""
    tunables = given.get(_VARIABLE, "")
    if _SETTING not in tunables:
        tunables = ":".join(filter(None, [tunables, f"{_SETTING}=1"]))
    return {**given, _VARIABLE: tunables}


def restart() -> None:
    """Start the running Python program over with `environment`, as the same process; only where that changes anything,
    so once at most. To be called before anything is done or read."""
    wanted = environment(os.environ)
    if wanted == dict(os.environ) or not _granted():
        return
    os.execve(sys.executable, sys.orig_argv, wanted)


def _granted() -> bool:
    try:
        return "[never]" not in _KERNEL.read_text()
    except OSError:  # not Linux
        return False
