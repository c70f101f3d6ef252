"""Grids cut into the windows that attention stays inside of (Liu et al., ICCV 2021), and the mask where they shift."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

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
