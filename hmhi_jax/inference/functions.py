"""The network as pure functions of weights and of one video's frames, and its weights in the types they are read in."""

import functools
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Var
from jaxtyping import Array, Bool, Float, UInt8

from hmhi_jax import kept_programs
from hmhi_jax.data.preprocessing import STRIDE, normalise
from hmhi_jax.models import Features, HMHINet, Memory, frame
from hmhi_jax.models.backbones import described

Advanced = tuple[Memory, Float[Array, "1 H W 1"]]  # the memory after a frame, and the frame's logits


class Functions(NamedTuple):
    """The network as pure functions of one video, variables first.

    encode    (frames, flows) uint8 `[T, H, W, 3]` each -> the maps of each of the T frames
    start     (features) -> the memory after the first frame, its logits `[1, H, W, 1]`
    step      (memory, features) -> likewise of one more frame
    advance   (memory, features, fresh) -> as `start` where `fresh`, as `step` elsewhere, in one program; None where
              there is no such function, and frames have to be handed in one by one
    empty     (features) -> a memory without entries; without variables, and there wherever `advance` is
    what      says, together with this package's sources, all that they compute, so that their programs can be kept
              (see `kept_programs`); None where that cannot be said
    dtype     of the maps, see `read_as`
    """

    encode: Callable[..., tuple[Features, ...]]
    start: Callable[..., Advanced]
    step: Callable[..., Advanced]
    advance: Callable[..., Advanced] | None = None
    empty: Callable[..., Memory] | None = None
    what: str | None = None
    dtype: Any = jnp.float32


@functools.lru_cache(maxsize=64)
def functions_of(model: HMHINet) -> Functions:
    """A model's functions; the same ones for equal models, so that they are compiled once."""

    def encode(variables: Any, frames: UInt8[Array, "T H W 3"], flows: UInt8[Array, "T H W 3"]) -> tuple[Features, ...]:
        features = model.apply(variables, normalise(frames)[None], normalise(flows)[None], method="encode")
        return tuple(frame(features, t) for t in range(frames.shape[0]))

    def start(variables: Any, features: Features) -> Advanced:
        return model.apply(variables, features, method="start")

    def step(variables: Any, memory: Memory, features: Features) -> Advanced:
        return model.apply(variables, memory, features, method="step")

    def advance(variables: Any, memory: Memory, features: Features, fresh: Bool[Array, ""]) -> Advanced:
        # What a first frame reads is thrown away; it reads at least one entry, so that it stays finite.
        readable = memory.replace(written=jnp.maximum(memory.written, 1))
        read = model.apply(variables, readable, features, method="read")
        maps = jax.tree.map(lambda own, refined: jnp.where(fresh, own, refined), features, read)
        memory = memory.replace(written=jnp.where(fresh, 0, memory.written))
        return model.apply(variables, memory, maps, method="finish")

    def empty(features: Features) -> Memory:
        return model.apply({}, features, method="empty_memory")

    backbone = described(model.backbone)
    return Functions(encode, start, step, advance, empty, backbone and f"{backbone} {model}", model.dtype)


def read_as(functions: Functions, variables: Any, devices: Sequence[jax.Device]) -> Any:
    """Shapes of the variables, each with the type that the network reads it in: those that it converts wherever it
    reads them can be converted once, and on GPUs each would be one more kernel of every frame. Others, such as those
    of normalisations, keep their own."""
    if functions.dtype == jnp.float32 or functions.advance is None:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), variables)

    def derive() -> Any:
        picture = jax.ShapeDtypeStruct((1, 2 * STRIDE, 2 * STRIDE, 3), jnp.uint8)  # types are those of every size
        features = jax.eval_shape(functions.encode, variables, picture, picture)[0]
        memory = jax.eval_shape(functions.empty, features)
        fresh = jax.ShapeDtypeStruct((), jnp.bool_)
        calls = (functions.encode, picture, picture), (functions.advance, memory, features, fresh)
        return _types_read(variables, *calls)

    what = functions.what and f"types {functions.what}"
    return kept_programs.shapes(what, (variables,), derive, devices)


def _types_read(variables: Any, *calls: tuple) -> Any:
    """Shapes of the variables, each with the one type that all calls, functions with further arguments, convert it to
    before anything else, or its own."""
    leaves, structure = jax.tree.flatten(variables)
    read: dict[int, set[Any]] = defaultdict(set)
    for function, *arguments in calls:
        jaxpr = jax.make_jaxpr(function)(variables, *arguments).jaxpr
        places = {variable: place for place, variable in enumerate(jaxpr.invars[: len(leaves)])}
        for equation in jaxpr.eqns:
            converts = equation.primitive.name == "convert_element_type"
            for each in equation.invars:
                if isinstance(each, Var) and (place := places.get(each)) is not None:
                    read[place].add(equation.params["new_dtype"] if converts else leaves[place].dtype)
    types = [read[place].pop() if len(read[place]) == 1 else leaf.dtype for place, leaf in enumerate(leaves)]
    shapes = [jax.ShapeDtypeStruct(leaf.shape, dtype) for leaf, dtype in zip(leaves, types, strict=True)]
    return jax.tree.unflatten(structure, shapes)
