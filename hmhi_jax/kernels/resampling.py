"""From coarse maps to pixels (docs/model.md 5). Bicubic enlargement is PyTorch's: half-pixel centres, a = -0.75, edges
clamped, no antialiasing."""

from functools import lru_cache

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


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
