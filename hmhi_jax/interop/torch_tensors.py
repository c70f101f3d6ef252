"""What a PyTorch checkpoint's pickle may name: types, storages, and the functions that make tensors out of them; and
what stands beside tensors: counters and sets of schedulers, scores of NumPy, devices. Nothing makes more than it is
given."""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from hmhi_jax.interop.torch_pickle import Constant, MalformedPickle, checked_keys

_ENCODINGS = ("latin1", "latin-1", "iso-8859-1", "utf-8", "ascii")


def value_builders() -> dict[str, Callable[..., Any] | Constant]:
    """Names of the closed table that concern no tensor, see `torch_pickle.Builders`."""
    sets = {f"{module} {name}": _set for module in ("builtins", "__builtin__") for name in ("set", "frozenset")}
    scalars = {f"numpy.{core}.multiarray scalar": _numpy_scalar for core in ("core", "_core")}
    return {
        "collections OrderedDict": _dictionary,
        "collections Counter": _dictionary,
        **sets,
        **{f"{module} bytearray": _bytes for module in ("builtins", "__builtin__")},
        **{f"{module} complex": _complex for module in ("builtins", "__builtin__")},
        "_codecs encode": _bytes,
        "numpy dtype": _numpy_type,
        **scalars,
        "torch Size": lambda items=(): tuple(items),
        "torch device": _device,
        "torch.serialization _get_layout": _layout,
    }


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

DTYPES: dict[str, np.dtype] = {
    name: np.dtype(dtype)
    for name, dtype in {
        "float64": np.float64,
        "float32": np.float32,
        "float16": np.float16,
        "bfloat16": ml_dtypes.bfloat16,
        "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
        "float8_e5m2": ml_dtypes.float8_e5m2,
        "complex64": np.complex64,
        "complex128": np.complex128,
        "int64": np.int64,
        "int32": np.int32,
        "int16": np.int16,
        "int8": np.int8,
        "uint64": np.uint64,
        "uint32": np.uint32,
        "uint16": np.uint16,
        "uint8": np.uint8,
        "bool": np.bool_,
    }.items()
}
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
    table: dict[str, Any] = value_builders() | {
        "torch._utils _rebuild_tensor": _rebuild_tensor_v2,
        "torch._utils _rebuild_tensor_v2": _rebuild_tensor_v2,
        "torch._utils _rebuild_tensor_v3": _rebuild_tensor_v3,
        "torch._utils _rebuild_parameter": _rebuild_parameter,
        "torch._utils _rebuild_parameter_with_state": _rebuild_parameter,
        "torch.storage UntypedStorage": Constant(StorageType(None)),
    }
    table |= {f"torch {storage}": Constant(StorageType(DTYPES[name])) for storage, name in STORAGES.items()}
    return table | {f"torch {name}": Constant(TorchDtype(name)) for name in DTYPES}
