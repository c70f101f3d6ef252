"""What is read from a compiled program, loops counted: floating-point operations of matrix products and convolutions,
every exchange between chips with its bytes, and seconds by the TPU compiler's own estimate of every instruction.

That compiler notes estimated cycles with most instructions. Its figure for a whole program is of no use (it counts the
body of a loop once), so they are added up here, times the turns of loops. Sorts and copies between memories carry none:
sorts are bounded here by their comparisons, copies are taken to overlap.
"""

import json
import math
import re
from collections import Counter
from dataclasses import dataclass

import numpy as np

from hmhi_jax.tools.plan.hlo import Instruction, Program, Shape


def program_flops(program: Program) -> float:
    """FLOPs one chip executes: what is recomputed counts each time, elementwise work does not."""
    return float(
        sum(times * instruction_flops(i, computation) for i, computation, times in program.executed(fused=True))
    )


def instruction_flops(instruction: Instruction, computation: dict[str, Instruction]) -> int:
    """FLOPs of one execution of an instruction; 0 for everything else than products and convolutions."""
    if instruction.opcode not in ("dot", "convolution", "custom-call"):
        return 0
    operands = [computation[name].shapes[0] for name in instruction.operands if computation.get(name) is not None]
    if instruction.opcode == "dot":
        contracted = [
            int(n) for n in (instruction.attribute(r"lhs_contracting_dims=\{([\d,]*)\}") or "").split(",") if n
        ]
        return 2 * instruction.shapes[0].elements * math.prod(operands[0].sizes[int(n)] for n in contracted)
    if instruction.opcode == "convolution":
        return _convolution(instruction, operands[0], operands[1], instruction.shapes[0])
    target = instruction.attribute(r'custom_call_target="([^"]*)"') or ""
    if "gemm" in target or "cublas" in target:
        config = json.loads(instruction.attribute(r"backend_config=(\{.*\})") or "{}")
        numbers = config.get("gemm_backend_config", config).get("dot_dimension_numbers", {})
        contracted = [int(n) for n in numbers.get("lhs_contracting_dimensions", ())]
        return 2 * instruction.shapes[0].elements * math.prod(operands[0].sizes[n] for n in contracted)
    if target.startswith("__cudnn$conv"):
        # Forward: (input, kernel) -> output; the two gradients exchange the roles of result and operands.
        first, second, result = operands[0], operands[1], instruction.shapes[0]
        kernel, output = {
            "__cudnn$convBackwardFilter": (result, second),
            "__cudnn$convBackwardInput": (second, first),
        }.get(target, (second, result))
        labels = _labels(instruction)
        return 2 * output.elements * kernel.elements // kernel.sizes[labels[1].index("o")]
    return 0


def _labels(instruction: Instruction) -> tuple[str, str, str]:
    match = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.rest)
    if match is None:
        raise ValueError(f"the convolution {instruction.name} has no labels")
    return match[1], match[2], match[3]


def _convolution(instruction: Instruction, image: Shape, kernel: Shape, result: Shape) -> int:
    """As XLA counts: a product for every pair of output and kernel place that meets the input, not its padding or a
    hole of a dilation. (TPU programs write every matrix product as such a convolution.)"""
    image_labels, kernel_labels, result_labels = _labels(instruction)
    window = instruction.attribute(r"window=\{([^}]*)\}") or ""
    fields = dict(part.split("=") for part in window.split())
    spatial = sorted(c for c in result_labels if c.isdigit())

    def numbers(name: str, default: int) -> list[int]:
        return [int(n) for n in fields[name].split("x")] if name in fields else [default] * len(spatial)

    strides, holes, spread = numbers("stride", 1), numbers("lhs_dilate", 1), numbers("rhs_dilate", 1)
    pads = [int(pair.split("_")[0]) for pair in fields["pad"].split("x")] if "pad" in fields else [0] * len(spatial)
    flops = 2 * kernel.sizes[kernel_labels.index("i")]
    flops *= result.sizes[result_labels.index("b")] * result.sizes[result_labels.index("f")]
    for axis, label in enumerate(spatial):
        flops *= _meetings(
            image.sizes[image_labels.index(label)], kernel.sizes[kernel_labels.index(label)],
            result.sizes[result_labels.index(label)], strides[axis], pads[axis], holes[axis], spread[axis],
        )  # fmt: skip
    return flops


def _meetings(image: int, kernel: int, result: int, stride: int, pad: int, hole: int, spread: int) -> int:
    """Pairs of output and kernel places along one axis that meet an input element."""
    if stride == 1 and hole == 1 and spread == 1 and kernel > 4096:
        kernel, result = result, kernel  # the same count, the shorter loop
    total = 0
    for k in range(kernel):
        # Output o reads place o * stride + k * spread - pad of the input with hole - 1 zeros between its elements.
        offset = k * spread - pad
        first = max(0, -(offset // stride))
        last = min(result - 1, ((image - 1) * hole - offset) // stride)
        if hole == 1:
            total += max(0, last - first + 1)
        else:
            step = hole // math.gcd(hole, stride)
            near = range(first, min(first + step, last + 1))
            start = next((o for o in near if (o * stride + offset) % hole == 0), None)
            total += 0 if start is None else (last - start) // step + 1
    return total


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
    """Every collective operation of a program, equal ones added up, the largest first. `mesh`: sizes of the axes, in
    the mesh's order."""
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
