"""Grids of pixels laid out anew: enlarged, unfolded, cut into windows.

Bicubic enlargement is PyTorch's (docs/model.md 5): half-pixel centres, a = -0.75, edges clamped, no antialiasing.
"""

from functools import lru_cache

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


@lru_cache(maxsize=64)
def cubic_matrix(size: int, scale: int) -> Float[np.ndarray, "out in"]:
    """The linear map along one axis, from `size` samples to `scale * size`."""
    a = -0.75
    position = (np.arange(size * scale) + 0.5) / scale - 0.5
    base = np.floor(position).astype(int)
    matrix = np.zeros((size * scale, size))
    for tap in range(-1, 3):
        distance = np.abs(position - (base + tap))
        near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
        far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
        weight = np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))
        np.add.at(matrix, (np.arange(size * scale), np.clip(base + tap, 0, size - 1)), weight)
    return matrix.astype(np.float32)


def enlarge(x: Float[Array, "B H W C"], scale: int) -> Float[Array, "B h w C"]:
    """Enlarge by an integer factor. Two small constant matrix products: the fastest exact form on CPU and native
    to the matrix units of accelerators."""
    rows, columns = (jnp.asarray(cubic_matrix(size, scale), x.dtype) for size in x.shape[1:3])
    return jnp.einsum("Ww,bHwc->bHWc", columns, jnp.einsum("Hh,bhwc->bHwc", rows, x))


def unfolded(blocks: Float[Array, "B h w S"], side: int) -> Float[Array, "B H W 1"]:
    """Every place's `side` x `side` channels laid out as pixels."""
    batch, height, width, _ = blocks.shape
    pixels = blocks.reshape(batch, height, width, side, side).swapaxes(2, 3)
    return pixels.reshape(batch, height * side, width * side, 1)


WINDOW = 7
MASKED = -100.0  # added to scores across the seam of a shift; the release's value, which leaves e^-100 of weight


def relative_position_index() -> Int[np.ndarray, "49 49"]:
    """Row of the bias table for every (query, key) of a window: rows count `13 * (dy + 6) + (dx + 6)`."""
    y, x = np.divmod(np.arange(WINDOW**2), WINDOW)
    dy, dx = y[:, None] - y[None], x[:, None] - x[None]
    return (dy + WINDOW - 1) * (2 * WINDOW - 1) + dx + WINDOW - 1


def to_windows(x: Float[Array, "N H W C"]) -> Float[Array, "N n 49 C"]:
    """Cut a grid whose sides are multiples of 7 into its n windows, row by row."""
    rows, height, width, channels = x.shape
    x = x.reshape(rows, height // WINDOW, WINDOW, width // WINDOW, WINDOW, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(rows, -1, WINDOW**2, channels)


def from_windows(windows: Float[Array, "N n 49 C"], height: int, width: int) -> Float[Array, "N H W C"]:
    """The inverse of `to_windows`."""
    rows, channels = windows.shape[0], windows.shape[-1]
    x = windows.reshape(rows, height // WINDOW, width // WINDOW, WINDOW, WINDOW, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(rows, height, width, channels)


def seam_mask(height: int, width: int, shift: int) -> Float[Array, "n 49 49"]:
    """What is added to scores after a cyclic shift: tokens that came together over the edge do not see each other."""

    def band(size: int) -> Array:  # 0: untouched, 1: last window before the seam, 2: behind the seam
        position = jnp.arange(size)
        return (position >= size - WINDOW).astype(jnp.float32) + (position >= size - shift)

    region = 3 * band(height)[:, None] + band(width)[None]
    region = to_windows(region[None, :, :, None])[0, :, :, 0]
    return jnp.where(region[:, :, None] == region[:, None, :], 0.0, MASKED)
