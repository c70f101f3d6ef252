"""The second half of a flow recipe on the device: the camera's part taken away, and the picture drawn.

`data/camera.py` and `data/flow.py` define both; this gives their pictures, with no level off by more than 1. The
camera's model itself is fitted on the host, to the thousand vectors that `camera_grid` picks: whether a vector just
above or below the axis of the colour wheel's seam remains is decided by its last bit, so the model has to be the same.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, UInt8

from hmhi_jax.data.camera import camera_positions
from hmhi_jax.data.flow import colour_wheel


def without_camera(flow: Float[Array, "B h w 2"], models: Float[Array, "B 3 2"]) -> Float[Array, "B h w 2"]:
    """What is left of each flow without the affine motion `[1, x, y] @ model` (`data.camera.camera_flow`)."""
    rows, columns = (jnp.asarray(axis)[None, ..., None] for axis in camera_positions(*flow.shape[1:3]))
    constant, by_x, by_y = (models[:, None, None, i] for i in range(3))
    # Products are rounded before they are added, as NumPy does it; a compiler would fuse the two.
    across, down = lax.optimization_barrier((columns * by_x, rows * by_y))
    return flow - (constant + across + down)


def shorter_flow(one: Float[Array, "B h w 2"], other: Float[Array, "B h w 2"]) -> Float[Array, "B h w 2"]:
    """At every pixel the shorter of two vectors, the first where they are equally long."""
    squares = [lax.optimization_barrier(jnp.square(flow)).sum(-1, keepdims=True) for flow in (one, other)]
    return jnp.where(squares[0] <= squares[1], one, other)


def draw(flow: Float[Array, "B h w 2"], *, normalisation: str, least_motion: float) -> UInt8[Array, "B h w 3"]:
    """Middlebury colours of known flow, each picture's length of full colour as a recipe's `normalisation` says."""
    height, width = flow.shape[1:3]
    u, v = flow[..., 0], flow[..., 1]
    length = jnp.hypot(u, v)
    flat = length.reshape(length.shape[0], -1)
    if normalisation == "max":
        radius = flat.max(1)
    else:
        least = jnp.float32(least_motion * (height**2 + width**2) ** 0.5)
        radius = jnp.maximum(jnp.percentile(flat, 99, axis=1), least)
    saturation = jnp.minimum(length / (radius[:, None, None] + jnp.float32(1e-5)), 1)[..., None]
    position = (jnp.arctan2(-v, -u) / jnp.float32(jnp.pi) + 1) / 2 * 54
    lower = jnp.clip(position.astype(jnp.int32), 0, 54)
    fraction = (position - lower)[..., None]
    wheel = jnp.asarray(colour_wheel())
    hue = (1 - fraction) * wheel[lower] + fraction * wheel[lower + 1]
    return jnp.floor(255 * (1 - saturation * (1 - hue))).astype(jnp.uint8)


draw_pictures = jax.jit(draw, static_argnames=("normalisation", "least_motion"))
