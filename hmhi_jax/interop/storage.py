"""How arrays of weights are stored, and what they are in memory: float32, but for what counts (steps, flags)."""

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from hmhi_jax.errors import InputError

STORED = {"float32": np.dtype("float32"), "bfloat16": np.dtype(ml_dtypes.bfloat16), "float16": np.dtype("float16")}


def as_float32(array: np.ndarray) -> np.ndarray:
    """The array in memory; a float32 array stays the one it is."""
    return array if _counts(array) else array.astype(np.float32, copy=False)


def stored(arrays: Mapping[str, Any], dtype: str) -> dict[str, np.ndarray]:
    """Arrays by name, contiguous, floating-point ones as a type of `STORED`. Raises `InputError` for another."""
    if dtype not in STORED:
        raise InputError(f"dtype is {dtype!r}, expected one of {', '.join(STORED)}")
    numpy = {name: np.asarray(array) for name, array in arrays.items()}
    return {
        name: np.asarray(array, None if _counts(array) else STORED[dtype], order="C") for name, array in numpy.items()
    }


def _counts(array: np.ndarray) -> bool:
    """NumPy does not know bfloat16 as floating, so ask this way round."""
    return array.dtype.kind in "iub"
