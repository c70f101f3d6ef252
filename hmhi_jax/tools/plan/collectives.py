"""What the chips of a program exchange: every collective operation with its bytes."""

import re
from dataclasses import dataclass

import numpy as np

from hmhi_jax.tools.plan.hlo import Instruction, Program

KINDS = (
    "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast",
    "ragged-all-to-all",
)  # fmt: skip


@dataclass(frozen=True)
class Collective:
    """One kind of exchange from one place of the program.

    Attributes:
        kind: of `KINDS`.
        axes: mesh axes it goes along, such as "data"; "?" where the groups fit none.
        chips: in a group.
        count: operations in a step, loops counted.
        bytes: sent into the operation by one chip in a step, over all `count`.
        source: the traced operation it comes from.
    """

    kind: str
    axes: str
    chips: int
    count: int
    bytes: int
    source: str

    def seconds(self, link: float) -> float:
        """The least time the exchange can take at `link` bytes/s a chip, as a ring or a tree."""
        n = self.chips
        factor = {"all-reduce": 2 * (n - 1) / n, "all-gather": n - 1.0, "reduce-scatter": (n - 1) / n}
        return self.bytes * factor.get(self.kind, 1.0) / link


def collectives(program: Program, mesh: dict[str, int]) -> list[Collective]:
    """Every collective operation of a program, equal ones added up, the largest first.

    Args:
        mesh: sizes of the axes, in the mesh's order.
    """
    found: dict[tuple, list[int]] = {}
    for instruction, computation, times in program.executed(fused=True):
        kind = instruction.opcode.removesuffix("-start")
        if kind not in KINDS:
            continue
        operands = (computation[name] for name in instruction.operands if name in computation)
        size = sum(shape.bytes for operand in operands for shape in operand.shapes)
        group = first_group(instruction)
        axes, chips = along(group, mesh), len(group) if group else int(np.prod(list(mesh.values())))
        if chips == 1:
            continue
        entry = found.setdefault((kind, axes, chips, short_source(instruction.source)), [0, 0])
        entry[0] += times
        entry[1] += size * times
    rows = [Collective(kind, axes, chips, *numbers, source) for (kind, axes, chips, source), numbers in found.items()]
    return sorted(rows, key=lambda row: -row.bytes)


def first_group(instruction: Instruction) -> list[int] | None:
    """Partitions that exchange with each other, one group of them; None: all."""
    text = instruction.rest
    if match := re.search(r"source_target_pairs=\{([\d,{}]*)\}", text):
        pairs = [[int(n) for n in pair] for pair in re.findall(r"\{(\d+),(\d+)\}", match[0])]
        return next((pair for pair in pairs if pair[0] != pair[1]), pairs[0])
    if match := re.search(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text):
        sizes = [int(n) for n in match[3].split(",")]
        ids = np.arange(np.prod(sizes)).reshape(sizes)
        if match[4]:
            ids = ids.transpose([int(n) for n in match[4].split(",")])
        return ids.reshape(int(match[1]), int(match[2]))[0].tolist()
    if match := re.search(r"replica_groups=\{\{([\d,]+)\}", text):
        return [int(n) for n in match[1].split(",")]
    return None


def along(group: list[int] | None, mesh: dict[str, int]) -> str:
    """Names of the axes whose coordinates differ within a group."""
    if group is None:
        return "+".join(name for name, size in mesh.items() if size > 1)
    places = np.stack(np.unravel_index(np.asarray(group), tuple(mesh.values())), 1)
    moved = (places != places[:1]).any(0)
    return "+".join(name for name, differs in zip(mesh, moved, strict=True) if differs) or "?"


def short_source(source: str) -> str:
    """The modules and the operation, without what tracing puts around them."""
    # Of operations that were merged the compiler names several, separated by ";" or ":".
    parts = [part for part in re.split(r"[;:]", source)[0].split("/") if part and not _NOISE.match(part)]
    return "/".join(parts[-5:])


_NOISE = re.compile(
    r"^(\(.*|jit\(.*\)|jvp\(.*|transpose\(.*|while|body|cond|closed_call|checkpoint|rematted_computation|branch_\d+_fun|"
    r"remat\d*|shmap_body|HMHINet\..*|custom_[vj][a-z]+_call.*)$"
)
