"""Position codes of tokens on a grid (docs/model.md 3.3). Tables are numpy constants: grids are static under `jit`."""

from functools import lru_cache

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


@lru_cache(maxsize=64)
def sine_table(height: int, width: int, channels: int) -> Float[np.ndarray, "N C"]:
    """Sine code of every token, row by row: first half of the channels for y, second half for x."""
    half = channels // 2
    index = np.arange(half)
    period = 10000.0 ** (2 * (index // 2) / half)

    def code(count: int) -> np.ndarray:
        position = (np.arange(count) + 1) / (count + 1e-6) * 2 * np.pi
        angle = position[:, None] / period
        return np.where(index % 2 == 0, np.sin(angle), np.cos(angle))

    rows = np.broadcast_to(code(height)[:, None], (height, width, half))
    columns = np.broadcast_to(code(width)[None], (height, width, half))
    return np.concatenate([rows, columns], -1).reshape(height * width, channels).astype(np.float32)


def rotate_halves(x: Float[Array, "B N C"], grid: tuple[int, int]) -> Float[Array, "B N C"]:
    """Axial rotary code: adjacent channel pairs are complex numbers turned by the token's column and row.

    Channels come in the order of `halved`, the first of every pair, then the second of every pair: swapping neighbours
    in the innermost axis is slow everywhere; halves are whole vectors.
    """
    first, second = jnp.split(x, 2, -1)
    cosine, sine = (jnp.asarray(table, x.dtype)[None] for table in _rotary_table(*grid, x.shape[-1]))
    return jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], -1)


def halved(x: Float[Array, "*n C"]) -> Float[Array, "*n C"]:
    """The last axis in the order (0, 2, 4, ..., 1, 3, 5, ...). Queries and keys in the same order have the same scores,
    so it is applied to the columns of the weights that make them, once and on a small array."""
    return x.reshape(*x.shape[:-1], -1, 2).swapaxes(-1, -2).reshape(x.shape)


@lru_cache(maxsize=64)
def _rotary_table(height: int, width: int, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines `[N, C / 2]` of every pair's angle."""
    frequency = 10000.0 ** (-4 * np.arange(channels // 4) / channels)
    row, column = np.divmod(np.arange(height * width), width)
    angle = np.concatenate([column[:, None] * frequency, row[:, None] * frequency], -1)
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
