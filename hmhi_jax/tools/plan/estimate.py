"""Seconds of a compiled program, by the TPU compiler's own estimate of every instruction.

The compiler notes estimated cycles with most instructions. Its figure for a whole program is of no use (it counts the
body of a loop once), so they are added up here, times the turns of loops. Sorts and copies between memories carry
none: sorts are bounded here by their comparisons, copies are taken to overlap.
"""

import math
from collections import Counter
from dataclasses import dataclass

from hmhi_jax.tools.plan.collectives import short_source
from hmhi_jax.tools.plan.hlo import Instruction, Program

_LANES = 1024  # elements a vector register holds, of 32 bits
_OPERATIONS = 8  # of a compare-exchange of two keys and values, at two a cycle


@dataclass(frozen=True)
class Estimate:
    """Seconds in all, of sorts (part of them), and by place of the program, the largest first."""

    seconds: float
    sorting: float
    places: list[tuple[str, float]]


def estimate(program: Program, clock: float, depth: int = 3) -> Estimate | None:
    """Seconds by the cycles that the compiler notes; None where it notes none (other platforms than TPU).

    Args:
        clock: cycles/s.
        depth: how many names of modules make a place.
    """
    places: Counter[str] = Counter()
    sorting = noted = 0
    for instruction, _, times in program.executed():
        if cycles := instruction.attribute(r'estimated_cycles":"(\d+)"'):
            noted += 1
            spent = int(cycles) * times
        elif instruction.opcode == "sort":
            spent = sort_cycles(instruction) * times
            sorting += spent
        else:
            continue
        place = "/".join(short_source(instruction.source).split("/")[:-1][:depth])
        places[place or instruction.opcode] += spent
    if not noted:
        return None
    total = sum(places.values())
    return Estimate(total / clock, sorting / clock, [(place, spent / clock) for place, spent in places.most_common()])


def sort_cycles(instruction: Instruction) -> int:
    """Cycles that a bitonic sort along one axis, padded to a power of two, takes at least."""
    shape = instruction.shapes[0]
    axis = int(instruction.attribute(r"dimensions=\{(\d+)\}") or 0)
    length = 1 << max(1, math.ceil(math.log2(max(2, shape.sizes[axis]))))
    stages = int(math.log2(length)) * (int(math.log2(length)) + 1) // 2
    elements = shape.elements // shape.sizes[axis] * length
    return stages * elements * _OPERATIONS // (2 * 2 * _LANES)
