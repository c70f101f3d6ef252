"""Compiled programs as text (optimised HLO), read as far as planning needs: instructions, loops, shapes."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

_BITS = {
    "pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "f16": 16, "bf16": 16, "s32": 32, "u32": 32,
    "f32": 32, "s64": 64, "u64": 64, "f64": 64, "c64": 64, "c128": 128,
}  # fmt: skip
_ARRAY = re.compile(r"\b(pred|bf16|c64|c128|f\d+\w*|s\d+|u\d+)\[([\d,]*)\]")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
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
    root: bool

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
        constants = [i.attribute(r"^(\d+)\)") for i in condition.values() if i.opcode == "constant"]
        whole = {int(c) for c in constants if c is not None}
        compares = any("direction=LT" in i.rest for i in condition.values()) or any(
            i.opcode == "fusion" for i in condition.values()
        )
        return whole.pop() if len(whole) == 1 and compares else None

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
            root, name, type_, opcode, rest = match.groups()
            current[name] = Instruction(name, type_, opcode, rest, bool(root))
    if not program.entry:
        raise ValueError("no entry computation in this text")
    return program
