"""Accelerator chips and their published figures."""

from dataclasses import dataclass
from typing import Literal

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
