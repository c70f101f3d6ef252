"""Compiler flags of the tests and of the processes they start: compiling costs more than running what is compiled."""

import os
from importlib.metadata import version


def compiler_flags(devices: int) -> str:
    """XLA_FLAGS for so many CPU devices, compiled quickly; the numbers stay the same to rounding."""
    flags = [
        f"--xla_force_host_platform_device_count={devices}",
        "--xla_backend_optimization_level=0",
        "--xla_cpu_parallel_codegen_split_count=1",  # other tests keep the other cores busy
    ]
    if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11):  # an unknown flag would end the process
        flags.append("--xla_cpu_use_fusion_emitters=false")
    return " ".join(flags)


def with_given_flags(flags: str) -> str:
    """XLA_FLAGS of the environment behind these: they win, and `--xla_cpu_max_isa=SSE4_2` shows other roundings."""
    given = os.environ.get("XLA_FLAGS", "").removeprefix(flags)  # which the workers of a run inherit
    return f"{flags} {given}".strip()
