"""From flow at an eighth of the size to flow of every pixel."""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

SCALE = 8


def convex_upsampling(flow: Float[Array, "B h w 2"], logits: Float[Array, "B h w 576"]) -> Float[Array, "B 8*h 8*w 2"]:
    """Every fine pixel's flow is a convex combination of the nine coarse vectors around it (section 3.3).

    Vectors beyond the edge are zero. `logits` are ordered by neighbour (rows first), then by row and column of the fine
    pixel in its coarse one.
    """
    batch, height, width, _ = flow.shape
    weights = jax.nn.softmax(logits.reshape(batch, height, width, 9, SCALE, SCALE), axis=3)
    padded = jnp.pad(SCALE * flow, ((0, 0), (1, 1), (1, 1), (0, 0)))
    neighbours = [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    components = []
    for component in range(2):
        terms = [n[..., component, None, None] * weights[:, :, :, k] for k, n in enumerate(neighbours)]
        components.append(sum(terms[1:], start=terms[0]))
    fine = jnp.stack(components, -1)  # [B, h, w, 8, 8, 2]
    return fine.transpose(0, 1, 3, 2, 4, 5).reshape(batch, SCALE * height, SCALE * width, 2)


@lru_cache(maxsize=64)
def _linear_matrix(size: int) -> Float[np.ndarray, "out in"]:
    position = np.arange(SCALE * size) * (size - 1) / (SCALE * size - 1)
    return np.maximum(0, 1 - np.abs(position[:, None] - np.arange(size))).astype(np.float32)


def bilinear_upsampling(flow: Float[Array, "B h w 2"]) -> Float[Array, "B 8*h 8*w 2"]:
    """Bilinear, the corner pixels of both grids on each other, as the small network was trained with."""
    rows, columns = (jnp.asarray(_linear_matrix(size)) for size in flow.shape[1:3])
    precise = jax.lax.Precision.HIGHEST
    tall = jnp.einsum("Hh,bhwc->bHwc", rows, SCALE * flow, precision=precise)
    return jnp.einsum("Ww,bHwc->bHWc", columns, tall, precision=precise)
