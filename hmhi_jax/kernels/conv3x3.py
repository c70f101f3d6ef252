"""The 3x3 convolutions between wide maps, where most of the network's arithmetic is; on CPUs with a quarter of the
multiplications: Winograd's minimal filtering F(4x4, 3x3).

A 4x4 tile of outputs depends on a 6x6 tile of inputs. Both the kernel and the tile are evaluated at six points along
each axis (as polynomials are for multiplication), multiplied channel by channel at the 36 pairs of points, and the
products interpolated: 36 multiplications where the definition takes 144. Over all tiles the products of one pair of
points are a matrix product; what surrounds them is elementwise. Algebraically this is the convolution; in float32 the
rounding error is 1e-6 of the outputs' spread, four to five times that of the plain sum. (Lavin and Gray, "Fast
Algorithms for Convolutional Neural Networks", 2016.)

Evaluating a tile is linear, and so is bicubic enlargement: an enlarged map is evaluated from the small one, without
ever being made.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from hmhi_jax.kernels.convolution import dense_kernel_gradient, plain_conv, transposed_kernel
from hmhi_jax.kernels.grids import cubic_matrix, enlarge
from hmhi_jax.kernels.platforms import by_platform, define_gradient

TILE = 4  # outputs per tile and axis
POINTS = TILE + 2
# Five finite points; the sixth is infinity. Zero and two pairs of opposite, dyadic points near one: with 0, +-1, +-2,
# the textbook's choice, the error is twice as large, and five times at its largest.
_FINITE = (0.0, 0.625, -0.625, 1.5, -1.5)
# Tiles of a band. With fewer, the matrix products spend their time on arranging the kernel; with more, memory grows:
# inputs and products at all points take 72 MiB with 256 channels on either side.
BAND_TILES = 1024

_LOW_STEP, _LOW_TAPS = TILE // 2, 6  # pixels of the small map from tile to tile, and those that one tile depends on


def _powers(count: int) -> Float[np.ndarray, "6 count"]:
    """Powers of the points, row by row; at infinity only the highest counts."""
    rows = [[point**power for power in range(count)] for point in _FINITE]
    return np.array([*rows, [0.0] * (count - 1) + [1.0]])


OUTPUT_TRANSFORM = _powers(TILE).T  # [4, 6]
KERNEL_TRANSFORM = _powers(3)  # [6, 3]
INPUT_TRANSFORM = np.linalg.inv(_powers(POINTS)).T  # [6, 6]


def transform_kernel(kernel: Float[Array, "3 3 C D"]) -> Float[Array, "6 6 C D"]:
    """The kernel at all pairs of points, along the width first."""
    at_columns = [_combine(row, [kernel[:, j] for j in range(3)]) for row in KERNEL_TRANSFORM]
    return jnp.stack([jnp.stack([_combine(row, list(x)) for row in KERNEL_TRANSFORM]) for x in at_columns])


def winograd_conv(
    x: Float[Array, "B H W C"], transformed: Float[Array, "6 6 _ D"], small: Float[Array, "B h w E"] | None = None
) -> Float[Array, "B H W D"]:
    """Stride 1, zero padding that keeps the size, for a kernel from `transform_kernel`; with `small`, enlarged to twice
    its size (`grids.enlarge`), as further channels."""
    kernels = jnp.split(transformed, [x.shape[-1]], 2) if small is not None else [transformed]
    return _in_bands(x.shape[1:3], _sources(x, small), kernels)


def winograd_input_gradient(
    cotangent: Float[Array, "B H W D"], kernel: Float[Array, "3 3 C D"]
) -> Float[Array, "B H W C"]:
    """Of `winograd_conv` for this kernel: a convolution with the kernel turned round, whose products take the kernel's
    other channels. To exchange the two beforehand would take longer than all the rest on small maps."""
    transformed = transform_kernel(kernel[::-1, ::-1])
    return _in_bands(cotangent.shape[1:3], [_plain_source(cotangent)], [transformed], "ptd,pcd->ptc")


def winograd_kernel_gradient(
    x: Float[Array, "B H W C"], cotangent: Float[Array, "B H W D"], small: Float[Array, "B h w E"] | None = None
) -> Float[Array, "3 3 _ D"]:
    """Of `winograd_conv`: the transposes of its steps, with as few products.

    What a pair of points contributes to the kernel there is the product of all tiles' inputs with the cotangent of
    their products, which is the cotangent's tile evaluated as `_interpolated` weighs it.
    """
    sources = _sources(x, small)
    padding = [(0, -side % TILE) for side in x.shape[1:3]]
    given = jnp.pad(cotangent, ((0, 0), *padding, (0, 0)))
    totals = None
    for first, count, columns in _bands(x.shape):
        pieces = [_rows(source, first, count) for source in sources]
        given_piece = given[:, TILE * first : TILE * (first + count)]
        if totals is not None:
            (pieces, given_piece), totals = lax.optimization_barrier(((pieces, given_piece), totals))
        by_place = _at_points(given_piece, TILE, OUTPUT_TRANSFORM.T, count, columns)
        parts = [
            [
                _product("ptc,ptd->pcd", tiles, products)
                for tiles, products in zip(source.at_points(piece, first, count, columns), by_place, strict=True)
            ]
            for source, piece in zip(sources, pieces, strict=True)
        ]
        totals = parts if totals is None else jax.tree.map(jnp.add, totals, parts)
    at_points = [jnp.concatenate(list(of_sources), 1) for of_sources in zip(*totals, strict=True)]
    across = [_combine(column, at_points) for column in KERNEL_TRANSFORM.T]  # 3 x [6, C, D]
    return jnp.stack([jnp.stack([_combine(column, list(x)) for x in across]) for column in KERNEL_TRANSFORM.T])


class _Source(NamedTuple):
    """A padded map, how its rows belong to rows of tiles, and how six arrays [6, tiles, C] come of a band of it: the
    tiles at each point along the width (the list) and the height (in front)."""

    padded: Float[Array, "B _ _ C"]
    step: int
    overlap: int
    at_points: Callable[[Array, int, int, int], list[Array]]


def _in_bands(
    size: tuple[int, int], sources: list[_Source], kernels: list[Array], product: str = "ptc,pcd->ptd"
) -> Float[Array, "B H W D"]:
    batch = sources[0].padded.shape[0]
    outputs = []
    for first, count, columns in _bands((batch, *size)):
        pieces = [_rows(source, first, count) for source in sources]
        if outputs:  # one band after the other, so that their buffers are the same memory
            pieces, outputs[-1] = lax.optimization_barrier((pieces, outputs[-1]))
        tiles = [s.at_points(piece, first, count, columns) for s, piece in zip(sources, pieces, strict=True)]
        outputs.append(_interpolated(tiles, kernels, product, (batch, count, columns)))
    joined = outputs[0] if len(outputs) == 1 else jnp.concatenate(outputs, 1)
    return joined[:, : size[0], : size[1]]


def _bands(shape: tuple[int, ...]) -> Iterator[tuple[int, int, int]]:
    """(first row of tiles, number of rows, tiles in a row) of every band of maps `[B, H, W, ...]`."""
    rows, columns = (-(-side // TILE) for side in shape[1:3])
    band = max(1, BAND_TILES // (shape[0] * columns))
    for first in range(0, rows, band):
        yield first, min(band, rows - first), columns


def _rows(source: _Source, first: int, count: int) -> Float[Array, "B _ _ C"]:
    """What these rows of tiles depend on."""
    return source.padded[:, source.step * first : source.step * (first + count) + source.overlap]


def _interpolated(
    tiles: list[list[Array]], kernels: list[Array], product: str, grid: tuple[int, int, int]
) -> Float[Array, "B H W D"]:
    """Products at all points, summed over the sources, and from them the pixels."""
    products = []
    for place in range(POINTS):
        parts = [_product(product, source[place], kernel[place]) for source, kernel in zip(tiles, kernels, strict=True)]
        products.append(sum(parts[1:], start=parts[0]))
    batch, rows, columns = grid
    across = [_combine(row, products) for row in OUTPUT_TRANSFORM]  # 4 x [6, B * rows * columns, D]
    outputs = jnp.stack([jnp.stack([_combine(row, list(x)) for x in across], 1) for row in OUTPUT_TRANSFORM])
    # [4 in a tile's height, tiles, 4 in its width, D] to rows of pixels
    outputs = outputs.reshape(TILE, batch, rows, columns * TILE, -1)
    return outputs.transpose(1, 2, 0, 3, 4).reshape(batch, rows * TILE, columns * TILE, -1)


def _sources(x: Array, small: Array | None) -> list[_Source]:
    return [_plain_source(x), *([] if small is None else [_enlarged_source(small)])]


def _plain_source(x: Float[Array, "B H W C"]) -> _Source:
    padding = [(1, 1 + -side % TILE) for side in x.shape[1:3]]

    def at_points(padded: Array, first: int, rows: int, columns: int) -> list[Float[Array, "6 T C"]]:
        return _at_points(padded, POINTS, INPUT_TRANSFORM, rows, columns)

    return _Source(jnp.pad(x, ((0, 0), *padding, (0, 0))), TILE, 2, at_points)


def _at_points(
    pixels: Float[Array, "B h w C"], side: int, weights: Float[np.ndarray, "6 side"], rows: int, columns: int
) -> list[Float[Array, "6 T C"]]:
    """Tiles of `side` pixels, one every four, at each point along the width (the list) and the height (in front)."""
    high = [pixels[:, i : i + TILE * (rows - 1) + 1 : TILE] for i in range(side)]
    at_rows = jnp.stack([_combine(row, high) for row in weights])  # [6, B, rows, w, C]
    wide = [at_rows[:, :, :, j : j + TILE * (columns - 1) + 1 : TILE] for j in range(side)]
    return [_combine(row, wide).reshape(POINTS, -1, pixels.shape[-1]) for row in weights]


def _enlarged_source(small: Float[Array, "B h w C"]) -> _Source:
    height, width = small.shape[1:3]
    # Two rows in front of the first tile's, and as many behind as the last tile sees.
    padding = [(2, 2 + side % 2) for side in (height, width)]
    at_points = partial(_enlarged_tiles, _enlarged_transform(height), _enlarged_transform(width))
    return _Source(jnp.pad(small, ((0, 0), *padding, (0, 0))), _LOW_STEP, _LOW_TAPS - _LOW_STEP, at_points)


def _enlarged_tiles(
    high_weights: np.ndarray, wide_weights: np.ndarray, padded: Array, first: int, rows: int, columns: int
) -> list[Float[Array, "6 T C"]]:
    def evaluate(weights: np.ndarray, taps: list[Array], axis: int) -> list[Array]:
        shape = [1] * taps[0].ndim
        shape[axis] = -1
        factors = jnp.asarray(weights, padded.dtype).reshape(POINTS, _LOW_TAPS, *shape)
        return [sum(tap * factor for tap, factor in zip(taps, row, strict=True)) for row in factors]

    high = [padded[:, i : i + _LOW_STEP * (rows - 1) + 1 : _LOW_STEP] for i in range(_LOW_TAPS)]
    at_rows = jnp.stack(evaluate(high_weights[:, :, first : first + rows], high, 1))
    wide = [at_rows[:, :, :, j : j + _LOW_STEP * (columns - 1) + 1 : _LOW_STEP] for j in range(_LOW_TAPS)]
    return [x.reshape(POINTS, -1, padded.shape[-1]) for x in evaluate(wide_weights, wide, 3)]


@lru_cache(maxsize=64)
def _enlarged_transform(size: int) -> Float[np.ndarray, "6 6 tiles"]:
    """For every point, pixel of the small map, and tile, the weight of the pixel in the enlarged tile's value at the
    point. All tiles have the same weights but the first and the last, where enlargement clamps and convolution pads."""
    tiles = -(-2 * size // TILE)
    enlarged = np.zeros((TILE * tiles + 2, size))
    enlarged[1 : 2 * size + 1] = cubic_matrix(size, 2)
    weights = np.zeros((POINTS, _LOW_TAPS, tiles))
    for tile in range(tiles):
        from_all = INPUT_TRANSFORM @ enlarged[TILE * tile : TILE * tile + POINTS]
        for tap in range(_LOW_TAPS):
            pixel = _LOW_STEP * tile - 2 + tap
            if 0 <= pixel < size:
                weights[:, tap, tile] = from_all[:, pixel]
    return weights


def _product(subscripts: str, x: Array, y: Array) -> Array:
    """Summed in float32 at least."""
    return jnp.einsum(subscripts, x, y, preferred_element_type=jnp.promote_types(x.dtype, jnp.float32))


def _combine(weights: Float[np.ndarray, "n"], arrays: list[Array]) -> Array:
    """Weighted sum without the terms that are zero."""
    total = None
    for weight, array in zip(weights.tolist(), arrays, strict=True):
        if abs(weight) > 1e-9:
            term = array if weight == 1.0 else array * weight
            total = term if total is None else total + term
    return total


# Measured on CPU: with fewer tiles, transforming the kernel costs more than the products it saves; with fewer channels,
# the transforms of inputs and outputs do.
FEWEST_TILES = 64
FEWEST_CHANNELS = 64


def plain_conv3x3(
    x: Float[Array, "B H W C"], kernel: Float[Array, "3 3 _ D"], small: Float[Array, "B h w E"] | None = None
) -> Float[Array, "B H W D"]:
    """The plain form of `conv3x3`."""
    return plain_conv(_joined(x, small), kernel)


@jax.custom_vjp
def conv3x3(
    x: Float[Array, "B H W C"], kernel: Float[Array, "3 3 _ D"], small: Float[Array, "B h w E"] | None = None
) -> Float[Array, "B H W D"]:
    """Stride 1, zero padding that keeps the size; of `x` and, where it is given, `small`, enlarged bicubically to twice
    its size, as further channels.

    On CPU a value in float32 is computed with a quarter of the multiplications, and so are all gradients. Half
    precision (whose rounding the transforms would enlarge) and accelerators, whose convolutions are better fed than
    small matrix products, take the plain form.
    """
    return by_platform(
        x, kernel, small, cpu=_transformed if _pays(x, kernel) else plain_conv3x3, accelerator=plain_conv3x3
    )


def _backward(residuals: tuple[Array, Array, Array | None], cotangent: Array) -> tuple[Array, Array, Array | None]:
    x, kernel, small = residuals
    cpu = _transformed_gradients if _pays(x, kernel) else _plain_gradients
    dx, dkernel = by_platform(x, kernel, small, cotangent, cpu=cpu, accelerator=_plain_gradients)
    if small is None:
        return dx, dkernel, None
    dx, denlarged = jnp.split(dx, [x.shape[-1]], -1)
    (dsmall,) = jax.linear_transpose(partial(enlarge, scale=2), small)(denlarged)
    return dx, dkernel, dsmall


def _transformed_gradients(x: Array, kernel: Array, small: Array | None, cotangent: Array) -> tuple[Array, Array]:
    return winograd_input_gradient(cotangent, kernel), winograd_kernel_gradient(x, cotangent, small)


def _plain_gradients(x: Array, kernel: Array, small: Array | None, cotangent: Array) -> tuple[Array, Array]:
    return plain_conv(cotangent, transposed_kernel(kernel)), dense_kernel_gradient(_joined(x, small), kernel, cotangent)


define_gradient(conv3x3, _backward)


def _joined(x: Array, small: Array | None) -> Array:
    return x if small is None else jnp.concatenate([x, enlarge(small, 2)], -1)


def _pays(x: Array, kernel: Array) -> bool:
    tiles = x.shape[0] * (x.shape[1] // TILE) * (x.shape[2] // TILE)
    return x.dtype == jnp.float32 and tiles >= FEWEST_TILES and min(kernel.shape[2:]) >= FEWEST_CHANNELS


def _transformed(x: Array, kernel: Array, small: Array | None) -> Array:
    return winograd_conv(x, transform_kernel(kernel), small)
