"""All-pairs correlation and its look-up, RAFT's cost volume (Teed and Deng, ECCV 2020, section 3.2).

The correlation of a pixel of the first picture with all pixels of the second is a map; pooled by 2, 4 and 8 it is a
pyramid. Around the place where the flow points, (2r + 1)^2 samples are taken of every level, bilinearly, zero outside.

Two things make this fast. Pooling is linear: a pooled map is the correlation with pooled features, so every level is
one matrix product, and no level has to be kept to make the next. And the samples around a place have one common
fraction of a pixel: they are a window of (2r + 2)^2 whole pixels, mixed along each axis.

Where the maps of all pixels would not fit, they are made for some rows of the first picture at a time, looked up and
forgotten, in every iteration anew.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from hmhi_jax.kernels.platforms import by_platform

LEVELS = 4
# Bytes of all pixels' maps beyond which they are made in pieces, and of one piece.
LARGEST_VOLUME = 6 * 2**30
PIECE = 256 * 2**20


class Correlation(NamedTuple):
    """What a flow can be looked up in.

    features   of the first picture, `[B, h, w, C]`
    pooled     of the second picture, pooled by 1, 2, 4, 8: `[B, h_l, w_l, C]` each
    maps       `[B, h w, h_l, w_l]` for each level, or none where they are made in pieces
    """

    features: Float[Array, "B h w C"]
    pooled: tuple[Float[Array, "B _ _ C"], ...]
    maps: tuple[Float[Array, "B P _ _"], ...]


def correlate(
    first: Float[Array, "B h w C"], second: Float[Array, "B h w C"], *, largest_volume: int = LARGEST_VOLUME
) -> Correlation:
    """Prepare the look-up of correlations between two pictures' features, in float32.

    `largest_volume` is in bytes; a volume that would be larger is not made, and looked up in pieces.
    """
    pooled = [second]
    for _ in range(LEVELS - 1):
        pooled.append(_pooled(pooled[-1]))
    whole = volume_bytes(*first.shape[:3]) <= largest_volume
    maps = tuple(_maps(first.reshape(first.shape[0], -1, first.shape[3]), level) for level in pooled) if whole else ()
    return Correlation(first, tuple(pooled), maps)


def volume_bytes(batch: int, height: int, width: int) -> int:
    """Bytes of the maps of all pixels on all levels, for features of this size."""
    return 4 * batch * height * width * sum((height >> level) * (width >> level) for level in range(LEVELS))


def look_up(correlation: Correlation, places: Float[Array, "B h w 2"], radius: int) -> Float[Array, "B h w K"]:
    """Correlations around `places` (x, y) in pixels of the finest level.

    K is 4 (2 radius + 1)^2: for each level, for each offset in x, for each offset in y.
    """
    batch, height, width, _ = places.shape
    side = 2 * radius + 1
    if correlation.maps:
        found = _look_up_maps(correlation.maps, places.reshape(batch, -1, 2), radius)
        return found.reshape(batch, height, width, LEVELS * side**2)

    rows = _rows_of_a_piece(batch, height, width)

    def piece(inputs: tuple[Array, Array]) -> Array:
        features, there = inputs  # [B, rows, w, C], [B, rows, w, 2]
        flat = features.reshape(batch, -1, features.shape[-1])
        maps = tuple(_maps(flat, level) for level in correlation.pooled)
        return _look_up_maps(maps, there.reshape(batch, -1, 2), radius)

    def pieces(x: Array) -> Array:
        padded = jnp.pad(x, ((0, 0), (0, -height % rows), (0, 0), (0, 0)))
        return jnp.moveaxis(padded.reshape(batch, -1, rows, width, x.shape[-1]), 1, 0)

    # What a piece makes is made again when differentiated: to keep it would be to keep the volume.
    found = lax.map(jax.checkpoint(piece), (pieces(correlation.features), pieces(places)))
    found = jnp.moveaxis(found, 0, 1).reshape(batch, -1, width, LEVELS * side**2)
    return found[:, :height]


def _rows_of_a_piece(batch: int, height: int, width: int) -> int:
    """As few rows as whole pieces allow, so that the last one is not padded much."""
    most = max(1, PIECE * height // volume_bytes(batch, height, width))
    count = -(-height // most)
    return -(-height // count)


def _pooled(features: Float[Array, "B h w C"]) -> Float[Array, "B h2 w2 C"]:
    """Means of 2 x 2 pixels; an odd last row or column is left out."""
    batch, height, width, channels = features.shape
    rows, columns = height // 2, width // 2
    x = features[:, : 2 * rows, : 2 * columns].reshape(batch, rows, 2, columns, 2, channels)
    return x.astype(jnp.float32).mean((2, 4)).astype(features.dtype)


def _maps(first: Float[Array, "B P C"], second: Float[Array, "B h w C"]) -> Float[Array, "B P h w"]:
    batch, height, width, channels = second.shape
    flat = second.reshape(batch, -1, channels)
    scaled = first * jnp.asarray(channels**-0.5, first.dtype)
    products = jnp.einsum("bpc,bqc->bpq", scaled, flat, preferred_element_type=jnp.float32)
    return products.reshape(batch, -1, height, width)


def _look_up_maps(
    maps: tuple[Float[Array, "B P _ _"], ...], places: Float[Array, "B P 2"], radius: int
) -> Float[Array, "B P K"]:
    found = []
    for level, values in enumerate(maps):
        there = places * jnp.float32(0.5**level)
        found.append(
            by_platform(
                values,
                there,
                cpu=lambda v, p: sample_by_windows(v, p, radius),
                accelerator=lambda v, p: sample_by_reading(v, p, radius),
                tpu=lambda v, p: sample_by_products(v, p, radius),
            )
        )
    return jnp.concatenate([x.reshape(*x.shape[:2], -1) for x in found], -1)


def sample_by_products(
    values: Float[Array, "B P h w"], places: Float[Array, "B P 2"], radius: int
) -> Float[Array, "B P kx ky"]:
    """The definition: each axis weighed by how near its pixels are to the samples, which is zero from one pixel on.

    Two matrix products over the whole map, what units without fast random access want.
    """

    def nearness(centre: Array, size: int) -> Array:
        offsets = jnp.arange(-radius, radius + 1, dtype=jnp.float32)[None, None]
        samples = centre[..., None] + offsets
        pixels = jnp.arange(size, dtype=jnp.float32)[None, None, None]
        return jnp.maximum(0, 1 - jnp.abs(samples[..., None] - pixels))

    along_x = nearness(places[..., 0], values.shape[3])
    along_y = nearness(places[..., 1], values.shape[2])
    of_columns = jnp.einsum("bphw,bpxw->bpxh", values, along_x, precision=lax.Precision.HIGHEST)
    return jnp.einsum("bpxh,bpyh->bpxy", of_columns, along_y, precision=lax.Precision.HIGHEST)


def sample_by_windows(
    values: Float[Array, "B P h w"], places: Float[Array, "B P 2"], radius: int
) -> Float[Array, "B P kx ky"]:
    """The definition in the (2r + 2)^2 pixels around each place, moved inside where they would cross the edge: they
    are read as blocks, in less than half the time that a CPU takes to read them one by one."""
    side = 2 * radius + 2
    values = jnp.pad(values, ((0, 0), (0, 0), *((0, max(0, side - size)) for size in values.shape[2:])))
    height, width = values.shape[2:]
    corner = jnp.clip(jnp.floor(places) - radius, 0, jnp.array([[[width - side, height - side]]], jnp.float32))

    def window(image: Array, first: Array) -> Array:
        return lax.dynamic_slice(image, (first[1], first[0]), (side, side))

    windows = jax.vmap(jax.vmap(window))(values, corner.astype(jnp.int32))
    return sample_by_products(windows, places - corner, radius)


def sample_by_reading(
    values: Float[Array, "B P h w"], places: Float[Array, "B P 2"], radius: int
) -> Float[Array, "B P kx ky"]:
    """The (2r + 2)^2 whole pixels around each place, mixed along x and then along y."""
    height, width = values.shape[2:]
    # Far outside everything is zero: cut there, so that places become whole numbers whatever the flow is.
    limits = jnp.array([[[width, height]]], jnp.float32)
    places = jnp.clip(places, -(radius + 2.0), limits + (radius + 1.0))
    corner = jnp.floor(places)
    fraction = places - corner
    first = corner.astype(jnp.int32) - radius
    reach = jnp.arange(2 * radius + 2, dtype=jnp.int32)[None, None]
    columns, rows = first[..., 0, None] + reach, first[..., 1, None] + reach  # [B, P, 2r + 2]
    inside_x, inside_y = (columns >= 0) & (columns < width), (rows >= 0) & (rows < height)
    index = jnp.clip(columns, 0, width - 1)[..., :, None] + jnp.clip(rows, 0, height - 1)[..., None, :] * width
    flat = values.reshape(*values.shape[:2], -1)
    read = jnp.take_along_axis(flat, index.reshape(*index.shape[:2], -1), axis=2, mode="promise_in_bounds")
    window = jnp.where(inside_x[..., :, None] & inside_y[..., None, :], read.reshape(index.shape), 0)
    right, down = fraction[..., 0, None, None], fraction[..., 1, None, None]
    of_columns = window[..., :-1, :] * (1 - right) + window[..., 1:, :] * right
    return of_columns[..., :-1] * (1 - down) + of_columns[..., 1:] * down
