"""The pickle inside a PyTorch checkpoint, read by a machine that can build nothing but plain values.

Python's own unpickler calls whatever a file names. This one knows the instructions that build numbers, strings and
containers, and a closed table of names (`Builders`); a name outside the table ends the reading with `ForbiddenName`
before anything is called. Nothing is imported and no attribute is set: there is no object an instruction could act on.
Dictionary keys are restricted to flat values because hashing a deeply nested tuple overflows the C stack.
"""

import mmap
import pickletools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Constant(NamedTuple):
    """A name that is itself a value (`torch.float32`, a class of storages)."""

    value: Any


# What "module name" stands for: a function of the pickled arguments, or a constant.
Builders = Mapping[str, Callable[..., Any] | Constant]


class ForbiddenName(Exception):
    """The pickle names a callable outside the table; `args[0]` is `module.name`."""


class MalformedPickle(Exception):
    """The instructions do not form a value."""


class _Mark:
    __slots__ = ()


class _Named:
    """A function of the table, waiting on the stack for its arguments."""

    __slots__ = ("build",)

    def __init__(self, build: Callable[..., Any]) -> None:
        self.build = build


_MARK = _Mark()
_KEY_TYPES = (str, int, float, bool, bytes, type(None))
_LITERALS = frozenset(
    {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
    | {"STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
    | {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8"}
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_DICT": dict, "EMPTY_SET": set}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def load_plain_pickle(data: bytes | mmap.mmap, builders: Builders, persistent: Callable[[Any], Any]) -> Any:
    """The value that `data` describes; of a mapped file, what stands at its position, which then moves to the end.

    `builders` maps `"module name"` to what it stands for; `persistent` turns a persistent id (a tensor's storage) into
    a value. Raises `ForbiddenName`, or `MalformedPickle` for anything that is not a well-formed pickle.
    """
    try:
        return _run(data, builders, persistent)
    except (ForbiddenName, MalformedPickle):
        raise
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError) as error:
        raise MalformedPickle(f"{type(error).__name__}: {error}") from error


def _run(data: bytes | mmap.mmap, builders: Builders, persistent: Callable[[Any], Any]) -> Any:
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    for opcode, argument, _ in pickletools.genops(data):
        name = opcode.name
        if name in _LITERALS:
            stack.append(argument)
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(memo[argument])
        elif name == "MARK":
            stack.append(_MARK)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in _TUPLES:
            count = _TUPLES[name]
            items = tuple(stack[-count:])
            if len(items) != count:
                raise MalformedPickle("a tuple longer than the stack")
            stack[-count:] = [items]
        elif name == "TUPLE":
            stack.append(tuple(_pop_mark(stack)))
        elif name == "LIST":
            stack.append(_pop_mark(stack))
        elif name == "FROZENSET":
            stack.append(frozenset(_keys(_pop_mark(stack))))
        elif name == "DICT":
            items = _pop_mark(stack)
            stack.append({})
            _set_items(stack[-1], items)
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            _set_items(stack[-1], [key, value])
        elif name == "SETITEMS":
            items = _pop_mark(stack)
            _set_items(stack[-1], items)
        elif name == "APPEND":
            value = stack.pop()
            _expect(stack[-1], list).append(value)
        elif name == "APPENDS":
            items = _pop_mark(stack)
            _expect(stack[-1], list).extend(items)
        elif name == "ADDITEMS":
            items = _pop_mark(stack)
            _expect(stack[-1], set).update(_keys(items))
        elif name == "GLOBAL":
            module, _, attribute = argument.partition(" ")
            stack.append(_named(module, attribute, builders))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(_named(_expect(module, str), _expect(attribute, str), builders))
        elif name in ("INST", "OBJ"):
            module, _, attribute = str(argument or "an object").partition(" ")
            raise ForbiddenName(f"{module}.{attribute}" if attribute else module)
        elif name == "BINPERSID":
            stack.append(persistent(stack.pop()))
        elif name == "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            if not isinstance(function, _Named) or not isinstance(arguments, tuple):
                raise MalformedPickle("a call of something that is no function")
            stack.append(function.build(*arguments))
        elif name == "BUILD":
            # An ordered dictionary carries its attributes (`_metadata`) here; not needed, so no state is ever set.
            stack.pop()
            _expect(stack[-1], dict)
        elif name == "POP":
            stack.pop()
        elif name == "POP_MARK":
            _pop_mark(stack)
        elif name == "DUP":
            stack.append(stack[-1])
        elif name in ("PROTO", "FRAME"):
            pass
        elif name == "STOP":
            if len(stack) != 1 or isinstance(stack[0], _Mark):
                raise MalformedPickle("it does not end with one value")
            return stack[0]
        else:
            raise MalformedPickle(f"instruction {name} does not belong into a checkpoint")
    raise MalformedPickle("it has no end")


def _named(module: str, attribute: str, builders: Builders) -> Any:
    meaning = builders.get(f"{module} {attribute}")
    if meaning is None:
        raise ForbiddenName(f"{module}.{attribute}")
    return meaning.value if isinstance(meaning, Constant) else _Named(meaning)


def _pop_mark(stack: list[Any]) -> list[Any]:
    for index in range(len(stack) - 1, -1, -1):
        if stack[index] is _MARK:
            items = stack[index + 1 :]
            del stack[index:]
            return items
    raise MalformedPickle("a container without a beginning")


def _expect(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise MalformedPickle(f"{type(value).__name__} where {kind.__name__} was expected")
    return value


def _keys(items: list[Any]) -> list[Any]:
    for key in items:
        if not isinstance(key, _KEY_TYPES):
            raise MalformedPickle(f"{type(key).__name__} as a key")
    return items


def _set_items(target: Any, items: list[Any]) -> None:
    _expect(target, dict)
    if len(items) % 2:
        raise MalformedPickle("a key without a value")
    _keys(items[::2])
    target.update(zip(items[::2], items[1::2], strict=True))
