"""The pickle inside a PyTorch checkpoint, read by Python's machine with everything that could act taken out of it.

Python's own unpickler imports and calls whatever a file names. Here a name is looked up in a closed table (`builders`),
and one outside it ends the reading with `ForbiddenName` before anything is called. Nothing is imported, no class is
ever on the stack, and no attribute is set. It is the unpickler written in Python, since only there single instructions
can be replaced: the one in C would set attributes, hash keys that overflow its stack and reserve what a file asks for.

The table has types, storages, and the functions that make tensors out of them; and what stands beside tensors: counters
and sets of schedulers, scores of NumPy, devices. Nothing makes more than it is given.
"""

import io
import math
import mmap
import pickle
import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import ml_dtypes
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


_ENCODINGS = ("latin1", "latin-1", "iso-8859-1", "utf-8", "ascii")


def _dictionary(items: Any = ()) -> dict[Any, Any]:
    pairs = [(key, value) for key, value in (items.items() if isinstance(items, dict) else items)]
    checked_keys(key for key, _ in pairs)
    return dict(pairs)


def _set(items: Iterable[Any] = ()) -> set[Any]:
    return set(checked_keys(items))


def _bytes(text: Any = b"", encoding: Any = "latin1") -> bytes:
    if isinstance(text, bytes):
        return text
    if not isinstance(text, str) or encoding not in _ENCODINGS:
        raise MalformedPickle("bytes made of something else")
    return text.encode(encoding)


def _complex(real: Any, imaginary: Any = 0.0) -> complex:
    if not isinstance(real, int | float) or not isinstance(imaginary, int | float):
        raise MalformedPickle("a complex number made of something else")
    return complex(real, imaginary)


def _numpy_type(name: Any, *_: Any) -> np.dtype:
    dtype = np.dtype(name) if isinstance(name, str) and len(name) < 4 else None
    if dtype is None or dtype.kind not in "fiub":
        raise MalformedPickle("a NumPy type that is no number")
    return dtype.newbyteorder("<")


def _numpy_scalar(dtype: Any, data: Any) -> Any:
    if not isinstance(dtype, np.dtype) or not isinstance(data, bytes) or len(data) != dtype.itemsize:
        raise MalformedPickle("a NumPy number without type or value")
    return np.frombuffer(data, dtype)[0].item()


def _device(*parts: Any) -> str:
    if not all(isinstance(part, str | int) for part in parts):
        raise MalformedPickle("a device without a name")
    return ":".join(str(part) for part in parts)


def _layout(name: Any) -> str:
    if not isinstance(name, str):
        raise MalformedPickle("a layout without a name")
    return name


# Broadcast tensors may have more elements than their storage; beyond this many it is an attack on the reader's memory.
_LARGEST_BROADCAST = 2**24

_NAMES = (
    "float64 float32 float16 bfloat16 float8_e4m3fn float8_e5m2 complex64 complex128 "
    "int64 int32 int16 int8 uint64 uint32 uint16 uint8 bool"
)
DTYPES: dict[str, np.dtype] = {name: np.dtype(getattr(ml_dtypes, name, name)) for name in _NAMES.split()}
STORAGES: dict[str, str] = {  # PyTorch's class of a storage -> element type
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}


class TorchDtype(NamedTuple):
    """A dtype named in a checkpoint, itself a value (`torch.float32`)."""

    name: str


class StorageType(NamedTuple):
    """A class of storages; `dtype` is None for PyTorch's untyped one, which counts bytes."""

    dtype: np.dtype | None


class Storage(NamedTuple):
    """Flat bytes of one storage with the element type the file gives it, if any."""

    raw: np.ndarray
    dtype: np.dtype | None
    swapped: bool  # the file's byte order is not this machine's


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, dtype: np.dtype | None = None) -> np.ndarray:
    """A strided view of a storage; every number comes from the file and is checked."""
    if not isinstance(storage, Storage):
        raise MalformedPickle("a tensor without a storage")
    size, stride = tuple(size), tuple(stride)
    numbers = (offset, *size, *stride)
    if len(size) != len(stride) or len(size) > 32 or not all(type(n) is int and 0 <= n < 2**62 for n in numbers):
        raise MalformedPickle("a tensor with an impossible shape")
    dtype = storage.dtype if storage.dtype is not None else dtype
    if dtype is None:
        raise MalformedPickle("a tensor without a type")
    raw = storage.raw[: storage.raw.size // dtype.itemsize * dtype.itemsize]
    if storage.swapped:  # by bytes, because bfloat16 has no byte order in NumPy; a complex number is two
        unit = dtype.itemsize // (2 if dtype.kind == "c" else 1)
        raw = np.ascontiguousarray(raw.reshape(-1, unit)[:, ::-1]).reshape(-1)
    flat = raw.view(dtype)
    elements = math.prod(size)
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if elements and last >= flat.size:
        raise MalformedPickle(f"a tensor of {size} reaches past its storage of {flat.size} elements")
    if elements > max(flat.size, _LARGEST_BROADCAST):
        raise MalformedPickle(f"a tensor of {size} repeats a storage of {flat.size} elements too often")
    if not elements:
        return np.zeros(size, dtype)
    byte_strides = tuple(s * dtype.itemsize for s in stride)
    return np.lib.stride_tricks.as_strided(flat[offset:], size, byte_strides, writeable=False)


def _rebuild_tensor_v2(
    storage: Any, offset: Any, size: Any, stride: Any, _grad: Any = False, _hooks: Any = None, marks: Any = None
) -> np.ndarray:
    array = _tensor(storage, offset, size, stride)
    marks = marks if isinstance(marks, dict) else {}
    array = np.conj(array) if marks.get("conj") else array
    return np.negative(array) if marks.get("neg") else array


def _rebuild_tensor_v3(
    storage: Any, offset: Any, size: Any, stride: Any, _grad: Any, _hooks: Any, dtype: Any, _marks: Any = None
) -> np.ndarray:
    if not isinstance(dtype, TorchDtype):
        raise MalformedPickle("a tensor without a type")
    return _tensor(storage, offset, size, stride, DTYPES[dtype.name])


def _rebuild_parameter(data: Any, *_: Any) -> np.ndarray:
    if not isinstance(data, np.ndarray):
        raise MalformedPickle("a parameter without a tensor")
    return data


def builders() -> dict[str, Any]:
    """Every name a checkpoint may use, and what becomes of it."""
    builtin = {"set": _set, "frozenset": _set, "bytearray": _bytes, "complex": _complex}
    table: dict[str, Any] = {
        **{f"{module} {name}": make for module in ("builtins", "__builtin__") for name, make in builtin.items()},
        "collections OrderedDict": _dictionary,
        "collections Counter": _dictionary,
        "_codecs encode": _bytes,
        "numpy dtype": _numpy_type,
        **{f"numpy.{core}.multiarray scalar": _numpy_scalar for core in ("core", "_core")},
        "torch Size": lambda items=(): tuple(items),
        "torch device": _device,
        "torch.serialization _get_layout": _layout,
        "torch._utils _rebuild_tensor": _rebuild_tensor_v2,
        "torch._utils _rebuild_tensor_v2": _rebuild_tensor_v2,
        "torch._utils _rebuild_tensor_v3": _rebuild_tensor_v3,
        "torch._utils _rebuild_parameter": _rebuild_parameter,
        "torch._utils _rebuild_parameter_with_state": _rebuild_parameter,
        "torch.storage UntypedStorage": Constant(StorageType(None)),
    }
    table |= {f"torch {storage}": Constant(StorageType(DTYPES[name])) for storage, name in STORAGES.items()}
    return table | {f"torch {name}": Constant(TorchDtype(name)) for name in DTYPES}
