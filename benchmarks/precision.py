"""How many pixels of the masks stay what they are in float32, in other numbers: on real videos, as `hmhi segment` runs.

    python benchmarks/precision.py FOLDER_OF_FRAMES... --weights small --frames 40

Each folder holds one video's pictures. On a GPU `tensorfloat32` and `bfloat16` are the card's own. A CPU computes
products in float32 whatever they are asked for, so there the operands of every product and convolution are rounded to
TensorFloat-32's 10 bits of mantissa first, in the formulations that GPUs run; it is slow.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import jax
import numpy as np
from jax import lax
from jax.extend.core import Jaxpr, Literal

from hmhi_jax import process
from hmhi_jax.inference.functions import Functions, functions_of
from hmhi_jax.inference.segmenter import VideoSegmenter, load_network

PRODUCTS = ("dot_general", "conv_general_dilated")
# Primitive -> the parameter with the function that it calls.
CALLS = {"jit": "jaxpr", "custom_vjp_call": "call_jaxpr", "custom_jvp_call": "call_jaxpr"}


def rounded(function: Callable) -> Callable:
    """`function` as a GPU computes it in TensorFloat-32."""

    def run(*arguments: Any) -> Any:
        traced, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
        outputs = _evaluate(traced.jaxpr, traced.consts, jax.tree.leaves(arguments))
        return jax.tree.unflatten(jax.tree.structure(shapes), outputs)

    return run


def _evaluate(jaxpr: Jaxpr, constants: list[Any], inputs: list[Any]) -> list[Any]:
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *inputs], strict=True))

    def value(each: Any) -> Any:
        return each.val if isinstance(each, Literal) else values[each]

    for equation in jaxpr.eqns:
        name, settings, operands = equation.primitive.name, equation.params, [value(x) for x in equation.invars]
        if name in CALLS:
            called = settings[CALLS[name]]
            outputs = _evaluate(called.jaxpr, called.consts, operands)
        elif name == "platform_index":
            platforms = settings["platforms"]
            outputs = [next(i for i, each in enumerate(platforms) if each is None or "cuda" in each)]
        elif name == "cond" and isinstance(operands[0], int):
            called = settings["branches"][operands[0]]
            outputs = _evaluate(called.jaxpr, called.consts, operands[1:])
        else:
            if name in PRODUCTS:
                operands = [lax.reduce_precision(x, 8, 10) for x in operands]
            result = equation.primitive.bind(*operands, **equation.primitive.get_bind_params(settings))
            outputs = result if equation.primitive.multiple_results else [result]
        values.update(zip(equation.outvars, outputs, strict=True))
    return [value(each) for each in jaxpr.outvars]


def segmenter_of(weights: str, numbers: str) -> VideoSegmenter:
    if numbers != "tensorfloat32" or jax.default_backend() != "cpu":
        return VideoSegmenter.load(weights, dtype=numbers)
    model, found = load_network(weights)
    own = functions_of(model)
    functions = Functions(*(rounded(each) for each in (own.encode, own.start, own.step)))
    return VideoSegmenter(
        None, found.fit(model), functions=functions, size=found.input_size, flow_recipe=found.flow_recipe,
        every=found.every, chunk=1,
    )  # fmt: skip


def pictures(folder: Path, frames: int) -> Iterator[np.ndarray]:
    for path in sorted(each for each in folder.iterdir() if each.suffix in (".jpg", ".png"))[:frames]:
        yield cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def main() -> None:
    process.enable_compilation_cache()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", type=Path, nargs="+")
    parser.add_argument("--weights", default="small")
    parser.add_argument("--frames", type=int, default=40, help="of each video")
    parser.add_argument("--numbers", nargs="+", default=["tensorfloat32", "bfloat16"])
    given = parser.parse_args()
    names = ["float32", *given.numbers]
    segmenters = {name: segmenter_of(given.weights, name) for name in names}
    agreeing, all_pixels = dict.fromkeys(given.numbers, 0), 0
    for folder in given.videos:
        masks = {
            name: np.stack([mask > 127 for mask in segmenter.stream(pictures(folder, given.frames))])
            for name, segmenter in segmenters.items()
        }
        all_pixels += masks["float32"].size
        told = []
        for name in given.numbers:
            same = int((masks[name] == masks["float32"]).sum())
            agreeing[name] += same
            told.append(f"{name} {same / masks[name].size:.3%}")
        print(f"{folder.name}: {', '.join(told)}", flush=True)
    print("all pixels:", ", ".join(f"{name} {same / all_pixels:.4%}" for name, same in agreeing.items()))


if __name__ == "__main__":
    main()
