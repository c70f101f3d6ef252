"""Accelerator chips and their published figures; and slices of them by name and shape ("v5e:16x16"), as devices a
program can be compiled for without having them."""

import contextlib
import importlib.util
import math
import os
import re
from dataclasses import dataclass
from typing import Any, Literal

from hmhi_jax.errors import InputError

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """One chip, which the compiler sees as one device.

    Attributes:
        name: as in `--topology`.
        platform: "tpu", "cuda" or "cpu".
        peak: of dense matrix products, FLOP/s, by compute type.
        memory: of the device, bytes.
        usable: share of it that a program gets.
        bandwidth: of that memory, bytes/s.
        link: bytes/s that a chip sends over all its links together (TPU: inter-chip interconnect; GPU: NVLink).
        clock: cycles/s, where the compiler estimates cycles.
        dimensions: numbers in a slice's shape.
    """

    name: str
    platform: Literal["tpu", "cuda", "cpu"]
    dimensions: int
    peak: dict[str, float] | None = None
    memory: int | None = None
    usable: float = 1.0
    bandwidth: float | None = None
    link: float | None = None
    clock: float | None = None


def _tpu(name: str, dimensions: int, peak: float, memory: int, bandwidth: float, link: float, clock: float) -> Chip:
    # The matrix units multiply bfloat16 numbers: three passes make a product of TensorFloat-32's precision, six one of
    # float32's.
    peaks = {"bfloat16": peak, "tensorfloat32": peak / 3, "float32": peak / 6}
    return Chip(name, "tpu", dimensions, peaks, memory * GIB, 1.0, bandwidth, link, clock)


def _gpu(name: str, peak: float, float32: float, memory: int, bandwidth: float, link: float) -> Chip:
    # The tensor units multiply TensorFloat-32 at half the rate of bfloat16; float32 runs outside of them. JAX takes
    # three quarters of a GPU's memory unless told otherwise (XLA_PYTHON_CLIENT_MEM_FRACTION).
    peaks = {"bfloat16": peak, "tensorfloat32": peak / 2, "float32": float32}
    return Chip(name, "cuda", 2, peaks, memory * GIB, 0.75, bandwidth, link)


# TPUs: the "system architecture" pages of Google Cloud; a v4 or v5p chip is one device of two cores. Clocks follow from
# peak = cycles/s * FLOP per cycle of the matrix units. GPUs: NVIDIA's data sheets of the 80 GB SXM modules, dense.
CHIPS: dict[str, Chip] = {
    chip.name: chip
    for chip in (
        _tpu("v4", 3, 275e12, 32, 1228e9, 300e9, 1.05e9),
        _tpu("v5e", 2, 197e12, 16, 819e9, 200e9, 1.5e9),
        _tpu("v5p", 3, 459e12, 95, 2765e9, 600e9, 1.75e9),
        _tpu("v6e", 2, 918e12, 32, 1640e9, 448e9, 1.75e9),
        _gpu("a100", 312e12, 19.5e12, 80, 2039e9, 300e9),
        _gpu("h100", 989e12, 67e12, 80, 3352e9, 450e9),
        # This machine's CPU, as many devices as XLA_FLAGS make it: shows shardings and collectives, nothing else.
        Chip("cpu", "cpu", 1),
    )
}


_EXTRAS = {"tpu": ("plan-tpu", "libtpu"), "cuda": ("plan-cuda", "jax_plugins.xla_cuda12")}
_EXAMPLES = {1: "cpu:8", 2: "v5e:16x16 or h100:4x8 (hosts x GPUs of one)", 3: "v5p:4x4x8"}


@dataclass(frozen=True)
class Topology:
    """Chips of one kind. `shape`: of a TPU slice in chips; hosts x GPUs of one host."""

    chip: Chip
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """How many chips there are."""
        return math.prod(self.shape)

    def __str__(self) -> str:
        return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"

    def single(self) -> "Topology":
        """One chip of the kind, for questions about what fits."""
        return Topology(self.chip, (1,) * self.chip.dimensions)


def parse_topology(text: str) -> Topology:
    """ "v5e:16x16" -> 256 chips. Raises `InputError` for chips and shapes that do not exist."""
    match = re.fullmatch(r"([a-z0-9]+)(?::(\d+(?:x\d+)*))?", text.strip().lower())
    chip = CHIPS.get(match[1]) if match else None
    if match is None or chip is None:
        raise InputError(f"--topology {text}: expected CHIP:SHAPE such as v5e:16x16, with a chip of {', '.join(CHIPS)}")
    shape = tuple(int(n) for n in match[2].split("x")) if match[2] else (1,) * chip.dimensions
    if chip.platform == "cuda" and len(shape) == 1:
        shape = (1, *shape)
    if len(shape) != chip.dimensions or min(shape) < 1:
        raise InputError(
            f"--topology {text}: the shape of {chip.name} chips has {chip.dimensions} numbers, "
            f"such as {_EXAMPLES[chip.dimensions]}"
        )
    return Topology(chip, shape)


def quiet_environment() -> None:
    """To be called before JAX is imported: no real accelerator is looked for, and libtpu keeps its notes to itself."""
    for name, value in {
        "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3", "TPU_MIN_LOG_LEVEL": "3", "TPU_STDERR_LOG_LEVEL": "3",
        "TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-1", "TPU_WORKER_HOSTNAMES": "localhost",
    }.items():  # fmt: skip
        os.environ.setdefault(name, value)


def devices_of(topology: Topology) -> list[Any]:
    """The topology's devices, to be used in a mesh like any others. Raises `InputError` if the compiler for the chip
    is not installed, is in use by another process, or knows no such shape."""
    import jax
    from jax.experimental import topologies

    chip = topology.chip
    if chip.platform == "cpu":
        devices = jax.devices("cpu")
        if topology.count > len(devices):
            raise InputError(
                f"--topology {topology}: this process has {len(devices)} CPU devices; set "
                f"XLA_FLAGS=--xla_force_host_platform_device_count={topology.count}"
            )
        return devices[: topology.count]
    check_installed(chip)
    options: dict[str, Any]
    if chip.platform == "cuda":
        hosts, gpus = topology.shape
        options = {"topology": f"1x{hosts}x{gpus}", "target_config": target_config(chip)}
    else:
        options = {"topology_name": str(topology)}
        if min(topology.shape) == 1 and topology.count < 4:
            options["chips_per_host_bounds"] = (*topology.shape, 1)[:3]
        if chip.name == "v4":
            options["chip_config_name"] = "megacore"  # both cores of a chip as one device
    try:
        devices = topologies.get_topology_desc(platform=chip.platform, **options).devices
    except (RuntimeError, ValueError) as error:
        text = str(error).splitlines()[0]
        if "lockfile" in text or "already in use" in text:
            raise InputError(
                "the TPU compiler serves one process at a time and another one uses it; wait for that one to end "
                "(or delete /tmp/libtpu_lockfile if there is none)"
            ) from error
        raise InputError(f"--topology {topology}: the compiler refuses it: {text}") from error
    return list(devices)


def check_installed(chip: Chip) -> None:
    """Raise `InputError`, saying what to install, where the chip's compiler is missing."""
    if chip.platform == "cpu":
        return
    extra, module = _EXTRAS[chip.platform]
    found = None
    with contextlib.suppress(ModuleNotFoundError):  # of what it is a part of
        found = importlib.util.find_spec(module)
    if found is None:
        raise InputError(
            f"planning for {chip.name} needs its compiler, which is not installed: pip install 'hmhi-jax[{extra}]'"
        )


# What XLA wants to know of a GPU (stream_executor's GpuTargetConfigProto), from NVIDIA's architecture papers.
_GPU_FIGURES: dict[str, dict[str, Any]] = {
    "a100": {
        "core_count": 108, "fpus_per_core": 64, "shared_memory_per_core": 167936, "l2_cache_size": 41943040,
        "clock_rate_ghz": 1.41, "shared_memory_per_block_optin": 166912, "capability": (8, 0),
        "description": "NVIDIA A100-SXM4-80GB",
    },
    "h100": {
        "core_count": 132, "fpus_per_core": 128, "shared_memory_per_core": 233472, "l2_cache_size": 52428800,
        "clock_rate_ghz": 1.98, "shared_memory_per_block_optin": 232448, "capability": (9, 0),
        "description": "NVIDIA H100 80GB HBM3",
    },
}  # fmt: skip
_CUDA = "12.8.0"
_CUDNN = (9, 8, 0)


def target_config(chip: Chip) -> str:
    """The description of a GPU that lets XLA compile for it without one."""
    if chip.bandwidth is None or chip.memory is None:
        raise ValueError(f"{chip.name} is no GPU")
    figures = dict(_GPU_FIGURES[chip.name])
    (major, minor), description = figures.pop("capability"), figures.pop("description")
    info = {
        "threads_per_block_limit": 1024, "threads_per_warp": 32, "threads_per_core_limit": 2048,
        "block_dim_limit_x": 2**31 - 1, "block_dim_limit_y": 65535, "block_dim_limit_z": 65535,
        "thread_dim_limit_x": 1024, "thread_dim_limit_y": 1024, "thread_dim_limit_z": 64,
        "shared_memory_per_block": 49152, "registers_per_core_limit": 65536, "registers_per_block_limit": 65536,
        "memory_bandwidth": int(chip.bandwidth), "device_memory_size": int(chip.memory * 0.99), **figures,
    }  # fmt: skip
    lines = [f"  {name}: {value}" for name, value in info.items()]
    lines += [f'  {name}: "{_CUDA}"' for name in ("driver_version", "runtime_version", "compile_time_toolkit_version")]
    lines += [f'  dnn_version: "{".".join(map(str, _CUDNN))}"']
    lines += [f"  cuda_compute_capability {{ major: {major} minor: {minor} }}"]
    versions = " ".join(f"{name}: {n}" for name, n in zip(("major", "minor", "patch"), _CUDNN, strict=True))
    return "\n".join(
        ["gpu_device_info {", *lines, "}", 'platform_name: "CUDA"', f"dnn_version_info {{ {versions} }}",
         f'device_description_str: "{description}"', ""]
    )  # fmt: skip


def memory_text(count: int | float | None) -> str:
    """A number of bytes in the unit that suits it, such as 1.50 GiB."""
    if count is None:
        return "unknown"
    for unit, size in (("GiB", GIB), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.2f} {unit}" if unit == "GiB" else f"{count / size:.1f} {unit}"
    return f"{count:.0f} B"
