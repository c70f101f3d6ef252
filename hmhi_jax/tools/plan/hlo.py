"""Compiled programs as text (optimised HLO), read as far as planning needs: instructions, loops, shapes; and what
follows, loops counted: floating-point operations of matrix products and convolutions, and every exchange between chips
with its bytes."""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

_BITS = {
    "pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "f16": 16, "bf16": 16, "s32": 32, "u32": 32,
    "f32": 32, "s64": 64, "u64": 64, "f64": 64, "c64": 64, "c128": 128,
}  # fmt: skip
_ARRAY = re.compile(r"\b(pred|bf16|c64|c128|f\d+\w*|s\d+|u\d+)\[([\d,]*)\]")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{\s*$")
_CALLED = re.compile(
    r"\b(?:calls|to_apply|body|branch_computations|called_computations)=\{?%?([\w.\-]+(?:, ?%[\w.\-]+)*)"
)


@dataclass(frozen=True)
class Shape:
    """An array: its type and sizes."""

    dtype: str
    sizes: tuple[int, ...]

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.sizes)

    @property
    def bytes(self) -> int:
        """What they take, without padding."""
        return self.elements * _BITS.get(self.dtype, 8) // 8


def shapes_of(text: str) -> list[Shape]:
    """Arrays of an HLO type, those of a tuple one after the other."""
    return [
        Shape(dtype, tuple(int(n) for n in sizes.split(",")) if sizes else ()) for dtype, sizes in _ARRAY.findall(text)
    ]


@dataclass(frozen=True)
class Instruction:
    """One line: `%name = type opcode(%operands), attributes`."""

    name: str
    type: str
    opcode: str
    rest: str

    @cached_property
    def shapes(self) -> list[Shape]:
        """Arrays it computes."""
        return shapes_of(self.type)

    @cached_property
    def operands(self) -> list[str]:
        depth = 1
        for end, character in enumerate(self.rest):
            depth += (character in "([{") - (character in ")]}")
            if depth == 0:
                return re.findall(r"%([\w.\-]+)", self.rest[:end])
        return []

    @cached_property
    def called(self) -> list[str]:
        """Computations it runs once (loops: once per turn); a loop's condition is not among them."""
        found = _CALLED.findall(self.rest)
        return [name.strip().lstrip("%") for group in found for name in group.split(",")]

    def attribute(self, pattern: str) -> str | None:
        match = re.search(pattern, self.rest)
        return match[1] if match else None

    @property
    def source(self) -> str:
        """Where it comes from in the traced program."""
        return self.attribute(r'op_name="([^"]*)"') or ""


@dataclass
class Program:
    """A compiled program: its computations by name, each with its instructions by name."""

    entry: str
    computations: dict[str, dict[str, Instruction]] = field(default_factory=dict)

    def executed(self, fused: bool = False) -> Iterator[tuple[Instruction, dict[str, Instruction], int]]:
        """Every instruction with its computation and how often it runs; inside of fusions too if wanted.

        Of the branches of a condition, all are counted.
        """
        yield from self._executed(self.entry, 1, fused)

    def _executed(self, name: str, times: int, fused: bool):
        computation = self.computations[name]
        for instruction in computation.values():
            yield instruction, computation, times
            if instruction.opcode == "while":
                turns = self.turns(instruction) or 1
                body = instruction.attribute(r"\bbody=%?([\w.\-]+)") or ""
                yield from self._executed(body, times * turns, fused)
            elif instruction.opcode in ("call", "conditional", "async-start") or (
                fused and instruction.opcode == "fusion"
            ):
                for called in instruction.called:
                    if called in self.computations:
                        yield from self._executed(called, times, fused)

    def turns(self, loop: Instruction) -> int | None:
        """How often a `while` runs: as the compiler noted, or the limit its condition counts to; None: unknown."""
        if known := loop.attribute(r'known_trip_count":\s*\{"n":"(\d+)"'):
            return int(known)
        condition = self.computations[loop.attribute(r"\bcondition=%?([\w.\-]+)") or ""]
        noted = (i.attribute(r"^(\d+)\)") for i in condition.values() if i.opcode == "constant")
        constants = {int(constant) for constant in noted if constant}
        compares = any("direction=LT" in i.rest or i.opcode == "fusion" for i in condition.values())
        return constants.pop() if len(constants) == 1 and compares else None

    def unknown_loops(self) -> list[Instruction]:
        """Loops whose number of turns depends on the data; everything counts them once."""
        return [i for i, _, _ in self.executed() if i.opcode == "while" and self.turns(i) is None]


def parse(text: str) -> Program:
    """The program that `compiled.as_text()` prints. Raises `ValueError` for a text without an entry computation."""
    program, current = Program(""), None
    for line in text.splitlines():
        if current is None or line.startswith(("%", "ENTRY")):
            if (match := _HEADER.match(line)) and not line.startswith("HloModule"):
                current = program.computations.setdefault(match[2], {})
                if match[1]:
                    program.entry = match[2]
            continue
        if line.startswith("}"):
            current = None
        elif match := _INSTRUCTION.match(line):
            current[match[1]] = Instruction(*match.groups())
    if not program.entry:
        raise ValueError("no entry computation in this text")
    return program


def program_flops(program: Program) -> float:
    """FLOPs one chip executes: what is recomputed counts each time, elementwise work does not."""
    return float(
        sum(times * instruction_flops(i, computation) for i, computation, times in program.executed(fused=True))
    )


def instruction_flops(instruction: Instruction, computation: dict[str, Instruction]) -> int:
    """FLOPs of one execution of an instruction; 0 for everything else than products and convolutions."""
    if instruction.opcode not in ("dot", "convolution", "custom-call"):
        return 0
    operands = [computation[name].shapes[0] for name in instruction.operands if name in computation]
    if instruction.opcode == "dot":
        contracted = re.findall(r"\d+", instruction.attribute(r"lhs_contracting_dims=\{([\d,]*)\}") or "")
        return 2 * instruction.shapes[0].elements * math.prod(operands[0].sizes[int(n)] for n in contracted)
    if instruction.opcode == "convolution":
        return _convolution(instruction, operands[0], operands[1], instruction.shapes[0])
    target = instruction.attribute(r'custom_call_target="([^"]*)"') or ""
    if "gemm" in target or "cublas" in target:
        config = json.loads(instruction.attribute(r"backend_config=(\{.*\})") or "{}")
        numbers = config.get("gemm_backend_config", config).get("dot_dimension_numbers", {})
        contracted = numbers.get("lhs_contracting_dimensions", ())
        return 2 * instruction.shapes[0].elements * math.prod(operands[0].sizes[int(n)] for n in contracted)
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


def _labels(instruction: Instruction) -> list[str]:
    """Letters of the axes of image, kernel and result."""
    return re.split("_|->", instruction.attribute(r"dim_labels=(\w+_\w+->\w+)") or "")


def _convolution(instruction: Instruction, image: Shape, kernel: Shape, result: Shape) -> int:
    """As XLA counts: a product for every pair of output and kernel place that meets the input, not its padding or a
    hole of a dilation. (TPU programs write every matrix product as such a convolution.)"""
    image_labels, kernel_labels, result_labels = _labels(instruction)
    fields = dict(part.split("=") for part in (instruction.attribute(r"window=\{([^}]*)\}") or "").split())
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
    # Output o reads place o * stride + offset of the input with hole - 1 zeros between its elements.
    offsets = np.arange(kernel) * spread - pad
    if hole > 1:
        places = np.add.outer(np.arange(result) * stride, offsets)
        return int(((places % hole == 0) & (places >= 0) & (places <= (image - 1) * hole)).sum())
    first = np.maximum(0, -(offsets // stride))
    last = np.minimum(result - 1, (image - 1 - offsets) // stride)
    return int(np.maximum(0, last - first + 1).sum())


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
