"""Floating-point operations of matrix products and convolutions in a compiled program, loops counted."""

import json
import math
import re

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
