"""What a process asks of the system: cores, devices, large memory pages, memory given back, a place for programs.

XLA's CPU backend asks the C library for its temporary memory, hundreds of megabytes, at every call of a compiled
program, and gives it back afterwards. As pages of 4 KiB all of it would be handed out, zeroed and looked up anew for
every frame, a twelfth of a frame's time; as pages of 2 MiB that is nearly free. The GNU C library asks for them if an
environment variable says so before the process starts (glibc 2.35 and later; older ones ignore it). Kernels set to
`always` or `madvise` grant them.
"""

import ctypes
import os
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hmhi_jax.errors import InputError

_VARIABLE, _SETTING = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"
_KERNEL = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def large_pages_environment(given: Mapping[str, str]) -> dict[str, str]:
    """`given`, asking for large pages. What it says about them already stays."""
    tunables = given.get(_VARIABLE, "")
    if _SETTING not in tunables:
        tunables = ":".join(filter(None, [tunables, f"{_SETTING}=1"]))
    return {**given, _VARIABLE: tunables}


def restart_with_large_pages() -> None:
    """Start the running Python program over with `large_pages_environment`, as the same process; only where that
    changes anything, so once at most. To be called before anything is done or read."""
    wanted = large_pages_environment(os.environ)
    if wanted == dict(os.environ) or not _granted():
        return
    os.execve(sys.executable, sys.orig_argv, wanted)


def _granted() -> bool:
    try:
        return "[never]" not in _KERNEL.read_text()
    except OSError:  # not Linux
        return False


def give_back_freed_memory() -> None:
    """Hand freed memory back to the system, where the C library is GNU's; elsewhere nothing happens.

    Compiling a large program frees gigabytes in small pieces. Kept for later, they would add to what running it takes.
    """
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)


def available_memory() -> float:
    """Bytes that this process may still take: of the machine and of its container (Linux; elsewhere without end)."""
    free = float("inf")
    try:
        meminfo = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = 1024.0 * int(meminfo["MemAvailable"].split()[0])
        group = Path("/sys/fs/cgroup")
        used = int((group / "memory.current").read_text())
        free = min(free, float((group / "memory.max").read_text()) - used)
    except (OSError, ValueError, KeyError):  # no such file, or "max"
        pass
    return free


def cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def devices_here(most: int | None) -> list[Any]:
    """The first `most` of JAX's devices here, None for all; `InputError` that names `--devices` if there are fewer."""
    import jax

    there = jax.local_devices()
    if most is not None and most > len(there):
        raise InputError(f"--devices {most}: there are {len(there)} here ({there[0].platform}), expected at most that")
    return there[:most]


def cache_folder() -> Path:
    """`$HMHI_CACHE`, else `$XDG_CACHE_HOME/hmhi-jax`, else `~/.cache/hmhi-jax`."""
    if folder := os.environ.get("HMHI_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hmhi-jax"


def private_cache() -> Path | None:
    """The folder for compiled programs, `programs` in `cache_folder`; made if need be. None where it cannot be had or
    others than the user may look into it: what lies there is run."""
    folder = cache_folder() / "programs"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
    except OSError:
        return None
    if not stat.S_ISDIR(status.st_mode):
        return None
    if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & 0o077):
        return None
    return folder


def enable_compilation_cache() -> None:
    """Keep what is compiled on this machine, so that the second start of a command does not compile.

    Turns JAX's persistent compilation cache on, unless the user already chose a folder; where it is on, whole programs
    are kept too (`kept_programs`).
    """
    import jax

    if jax.config.jax_compilation_cache_dir is None and (folder := private_cache()) is not None:
        jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def gpu_compiler_options(platform: str) -> dict[str, str | bool] | None:
    """What XLA is told when it compiles the network for a GPU: to leave matrix products to cuBLAS.

    Otherwise it writes Triton kernels for each of some hundred products, and compiles and times dozens of tilings of
    every one: on an H200 the network's frame had not compiled after 150 seconds; with cuBLAS it took 60.
    """
    return {"xla_gpu_enable_triton_gemm": False} if platform in ("gpu", "cuda") else None
