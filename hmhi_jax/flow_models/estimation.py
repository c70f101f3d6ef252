"""Pictures in, flow out, any size, one compilation for each; and the second half of a flow recipe on the device: the
camera's part taken away, and the picture drawn.

`data/camera.py` and `data/flow.py` define the latter two; this gives their pictures, with no level off by more than 1.
The camera's model itself is fitted on the host, to the thousand vectors that `camera_grid` picks: whether a vector just
above or below the axis of the colour wheel's seam remains is decided by its last bit, so the model has to be the same.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Num, UInt8

from hmhi_jax.data.camera import camera_positions
from hmhi_jax.data.flow import SMALLEST, check_frame_sizes, colour_wheel
from hmhi_jax.errors import InputError
from hmhi_jax.flow_models.raft import RAFT

_STRIDE = 8

Pictures = Num[Array, "B H W 3"] | Num[np.ndarray, "B H W 3"]
Others = Num[Array, "B2 H2 W2 3"] | Num[np.ndarray, "B2 H2 W2 3"]  # unequal sizes are told in a sentence


def estimate_flow(
    flow_model: RAFT, variables: Any, first: Pictures, second: Others, iterations: int = 12
) -> Float[Array, "B H W 2"]:
    """Optical flow from `first` to `second`: where each pixel of the first picture is found in the second.

    Args:
        flow_model: from `build_flow_model`.
        variables: from `hmhi.interop.flow_from_torch`.
        first, second: RGB pictures, uint8 or float32 in [-1, 1], of any equal size from 128 x 128 pixels up. Where a
            side is no multiple of 8, edges are repeated on both sides, as evenly as possible, and cut off afterwards.
        iterations: how often the flow is improved; 12 is usual for speed, 20 to 32 for the published errors.

    Returns:
        float32 (u to the right, v down) in pixels.

    Raises:
        InputError: for pictures that are too small, of unequal sizes or of another type, and fewer than one iteration.
    """
    _check(first, second, iterations)
    return _estimate(flow_model, variables, first, second, iterations)


def forward_and_backward_flow(
    flow_model: RAFT, variables: Any, first: Pictures, second: Others, iterations: int = 12
) -> tuple[Float[Array, "B H W 2"], Float[Array, "B H W 2"]]:
    """`estimate_flow` of both directions, first to second and second to first, in one pass: each picture is encoded
    once. Arguments and errors are those of `estimate_flow`."""
    _check(first, second, iterations)
    return _both_ways(flow_model, variables, first, second, iterations)


@partial(jax.jit, static_argnums=(0, 4))
def _estimate(flow_model: RAFT, variables: Any, first: Array, second: Array, iterations: int) -> Array:
    flow = flow_model.apply(variables, prepared(first), prepared(second), iterations)
    return cropped(flow, first.shape[1:3])


@partial(jax.jit, static_argnums=(0, 4))
def _both_ways(flow_model: RAFT, variables: Any, first: Array, second: Array, iterations: int) -> tuple[Array, Array]:
    batch, *size = first.shape[:3]
    pictures = jnp.concatenate([prepared(first), prepared(second)])
    features = flow_model.apply(variables, pictures, method="encode")
    context = flow_model.apply(variables, pictures, method="encode_context")
    turned = jnp.roll(features, batch, axis=0)
    match, state = flow_model.apply(variables, features, turned, context, method="start")
    state = flow_model.apply(variables, match, state, iterations, method="refine")
    flow = cropped(flow_model.apply(variables, state, method="upsample"), tuple(size))
    return flow[:batch], flow[batch:]


def prepared(pictures: Num[Array, "B H W 3"]) -> Float[Array, "B H8 W8 3"]:
    """As float32 in [-1, 1], sides made multiples of 8 by repeating edges."""
    x = pictures.astype(jnp.float32)
    if pictures.dtype == jnp.uint8:
        x = x / 127.5 - 1
    around = [_around(side) for side in x.shape[1:3]]
    return jnp.pad(x, ((0, 0), *around, (0, 0)), mode="edge") if any(map(any, around)) else x


def cropped(flow: Float[Array, "B H8 W8 2"], size: tuple[int, int]) -> Float[Array, "B H W 2"]:
    """Without what `prepared` put around pictures of `size` = (height, width)."""
    (top, _), (left, _) = (_around(side) for side in size)
    return flow[:, top : top + size[0], left : left + size[1]]


def _around(side: int) -> tuple[int, int]:
    missing = -side % _STRIDE
    return missing // 2, missing - missing // 2


def _check(first: Any, second: Any, iterations: int) -> None:
    for name, pictures in (("first", first), ("second", second)):
        if pictures.ndim != 4 or pictures.shape[3] != 3 or pictures.dtype not in (np.uint8, np.float32):
            raise InputError(
                f"optical flow: the {name} pictures are {pictures.dtype} {tuple(pictures.shape)}, expected uint8 or "
                "float32 (batch, height, width, 3)"
            )
    check_sizes(first.shape[1:3], second.shape[1:3])
    if len(first) != len(second):
        raise InputError(f"optical flow: {len(first)} first and {len(second)} second pictures, expected equal numbers")
    if iterations < 1:
        raise InputError(f"optical flow: {iterations} iterations, expected at least 1")


def check_sizes(first: tuple[int, int], second: tuple[int, int], resized: tuple[int, int] | None = None) -> None:
    """Raises `InputError` for pictures (height, width) of unequal or too small a size; `resized` is what they are
    brought to before, if they are."""
    advice = " for RAFT; enlarge them, or take the estimator dis"
    check_frame_sizes(first, second, SMALLEST["raft"], resized, advice)


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


@partial(jax.jit, static_argnames=("normalisation", "least_motion"))
def draw_pictures(flow: Float[Array, "B h w 2"], *, normalisation: str, least_motion: float) -> UInt8[Array, "B h w 3"]:
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
