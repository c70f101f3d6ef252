"""Weights that anyone can draw from a seed with NumPy alone: what comparisons use where no trained ones are at hand."""

import zlib
from collections.abc import Mapping

import numpy as np


def recipe_weight(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """The value of state-dict entry `name` (PyTorch's layout), float32; each entry has its own stream of numbers.

    Matrices have the variance 2 / fan in that keeps signals alive through ReLU, norms stay near the identity, and
    position tables and layer scales are large enough to matter.
    """
    stream = np.random.PCG64(zlib.crc32(f"{seed}:{name}".encode()))
    x = np.random.Generator(stream).standard_normal(shape).astype(np.float32)
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if leaf == "running_var":
        return 1 + 0.1 * np.abs(x)
    if leaf in ("running_mean", "bias"):
        return 0.1 * x
    if leaf == "relative_position_bias_table":
        return 0.5 * x
    if leaf == "gamma":
        return 0.5 + 0.1 * x
    if len(shape) == 1:  # the scales of norms
        return 1 + 0.1 * x
    return x * np.float32(np.sqrt(2.0 / np.prod(shape[1:])))


def recipe_state_dict(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    """A state dict with every entry drawn from the seed."""
    return {name: recipe_weight(name, tuple(shape), seed) for name, shape in shapes.items()}
