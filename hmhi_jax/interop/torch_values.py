"""What stands beside the tensors of a checkpoint: counters and sets of schedulers, scores of NumPy, devices.

Each of these names becomes a plain value of Python; nothing here makes more than it is given.
"""

from collections.abc import Callable, Iterable
from typing import Any

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
