"""Runs a network block by block, equal blocks sharing one compiled program.

Compiling a network whole costs time that grows with its depth, though forty of its blocks are the same function. Here
every block of the encoder and the decoder, and every part around the memory, is a program of its own, found again by
its module's attributes and its inputs' shapes, in whichever network it stands. Gradients go through unchanged.
"""

import contextlib
from collections.abc import Iterator
from functools import cache
from typing import Any

import jax
from flax import linen as nn

_STACKS = ("encoder", "decoder")  # whose children are programs; other children of the network are programs themselves


@cache
def _program(module: nn.Module, method: str, static: tuple):
    def run(variables: Any, arrays: tuple) -> Any:
        arguments = iter(arrays)
        return module.apply(variables, *(next(arguments) if s is Ellipsis else s for s in static), method=method)

    return jax.jit(run)


class _Interceptor:
    def __init__(self) -> None:
        self.inside = False

    def __call__(self, next_function, args, kwargs, context):
        path = context.module.path
        is_block = len(path) == (2 if path[:1] and path[0] in _STACKS else 1) and path[-1] not in _STACKS
        if self.inside or not is_block or kwargs or context.method_name == "setup":
            return next_function(*args, **kwargs)
        static = tuple(x if isinstance(x, bool | int) else Ellipsis for x in args)
        arrays = tuple(x for x, s in zip(args, static, strict=True) if s is Ellipsis)
        program = _program(context.module.clone(parent=None, name=None), context.method_name, static)
        self.inside = True  # the modules inside a block are part of its program
        try:
            return program(context.module.variables, arrays)
        finally:
            self.inside = False


@contextlib.contextmanager
def block_programs() -> Iterator[None]:
    """A context in which networks are applied that way."""
    with nn.intercept_methods(_Interceptor()):
        yield


def forget_programs() -> None:
    """Free what was compiled."""
    _program.cache_clear()
    jax.clear_caches()
