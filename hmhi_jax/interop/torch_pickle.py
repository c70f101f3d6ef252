"""The pickle inside a PyTorch checkpoint, read by Python's machine with everything that could act taken out of it.

Python's own unpickler imports and calls whatever a file names. Here a name is looked up in a closed table (`Builders`),
and one outside it ends the reading with `ForbiddenName` before anything is called. Nothing is imported, no class is
ever on the stack, and no attribute is set. It is the unpickler written in Python, since only there single instructions
can be replaced: the one in C would set attributes, hash keys that overflow its stack and reserve what a file asks for.
"""

import io
import mmap
import pickle
import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np


class Constant(NamedTuple):
    """A name that is itself a value (`torch.float32`, a class of storages)."""

    value: Any


# What "module name" stands for: a function of the pickled arguments, or a constant.
Builders = Mapping[str, Callable[..., Any] | Constant]


class ForbiddenName(Exception):
    """The pickle names a callable outside the table, or one that it should have called; `args[0]` is `module.name`."""


class MalformedPickle(Exception):
    """The instructions do not form a value."""


class _Function:
    """A function of the table, waiting on the stack for its arguments; only `_Reader.call` can call it."""

    __slots__ = ("build", "name")

    def __init__(self, name: str, build: Callable[..., Any]) -> None:
        self.name, self.build = name, build


_KEY_TYPES = (str, int, float, bool, bytes, type(None))
_WHERE_KEYS_LIE = {  # of the instructions that hash: the part of the stack
    pickle.SETITEM: slice(-2, -1),
    pickle.SETITEMS: slice(0, None, 2),
    pickle.DICT: slice(0, None, 2),
    pickle.ADDITEMS: slice(None),
    pickle.FROZENSET: slice(None),
}
# What the machine raises for instructions that make no sense, or end too early.
_OF_DAMAGE = (
    pickle.PickleError, struct.error, ValueError, TypeError, LookupError, AttributeError, ArithmeticError,
    AssertionError, EOFError, RecursionError, MemoryError,
)  # fmt: skip
# Objects made without a function of the table, the extension registry, buffers of any size.
_LEFT_OUT = (
    pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.BYTEARRAY8, pickle.NEXT_BUFFER,
    pickle.READONLY_BUFFER,
)  # fmt: skip


def load_plain_pickle(data: bytes | mmap.mmap, builders: Builders, persistent: Callable[[Any], Any]) -> Any:
    """The value that `data` describes; of a mapped file, what stands at its position, which then moves to the end.

    `builders` maps `"module name"` to what it stands for; `persistent` turns a persistent id (a tensor's storage) into
    a value. Raises `ForbiddenName`, or `MalformedPickle` for anything that is not a well-formed pickle.
    """
    try:
        value = _Reader(io.BytesIO(data) if isinstance(data, bytes) else data, builders, persistent).load()
    except (ForbiddenName, MalformedPickle):
        raise
    except _OF_DAMAGE as error:
        raise MalformedPickle(f"{type(error).__name__}: {error}") from error
    if isinstance(value, _Function):
        raise ForbiddenName(value.name)
    return value


def checked_keys(keys: Iterable[Any]) -> list[Any]:
    """The keys, if all are flat: hashing a deeply nested tuple overflows the C stack. Raises `MalformedPickle`."""
    keys = list(keys)
    for key in keys:
        if not isinstance(key, _KEY_TYPES):
            raise MalformedPickle(f"{type(key).__name__} as a key")
    return keys


class _Reader(pickle._Unpickler):
    def __init__(self, file: Any, builders: Builders, persistent: Callable[[Any], Any]) -> None:
        super().__init__(file, encoding="latin1")
        self._builders, self._persistent = builders, persistent

    def persistent_load(self, pid: Any) -> Any:
        return self._persistent(pid)

    def find_class(self, module: str, name: str) -> Any:
        meaning = self._builders.get(f"{module} {name}")
        if meaning is None:
            raise ForbiddenName(f"{module}.{name}")
        return meaning.value if isinstance(meaning, Constant) else _Function(f"{module}.{name}", meaning)

    def call(self) -> None:
        arguments, function = self.stack.pop(), self.stack[-1]
        if not isinstance(function, _Function) or not isinstance(arguments, tuple):
            raise MalformedPickle("a call of something that is no function")
        self.stack[-1] = function.build(*arguments)

    def drop_state(self) -> None:
        # An ordered dictionary carries its attributes (`_metadata`) here, a type of NumPy the processor's byte order;
        # not needed, so no state is ever set.
        self.stack.pop()
        if not isinstance(self.stack[-1], dict | np.dtype):
            raise MalformedPickle(f"a state for {type(self.stack[-1]).__name__}")

    def stop(self) -> None:
        if len(self.stack) != 1 or self.metastack:
            raise MalformedPickle("it does not end with one value")
        self.load_stop()


def _with_flat_keys(code: bytes, where: slice) -> Callable[[_Reader], None]:
    inherited = pickle._Unpickler.dispatch[code[0]]

    def load(self: _Reader) -> None:
        checked_keys(self.stack[where])
        inherited(self)

    return load


_Reader.dispatch = {
    **{code: load for code, load in pickle._Unpickler.dispatch.items() if bytes([code]) not in _LEFT_OUT},
    **{code[0]: _with_flat_keys(code, where) for code, where in _WHERE_KEYS_LIE.items()},
    pickle.REDUCE[0]: _Reader.call,
    pickle.BUILD[0]: _Reader.drop_state,
    pickle.STOP[0]: _Reader.stop,
}
