"""Sine and rotary codes."""

import jax
import jax.numpy as jnp
import numpy as np

from hmhi_jax.models.positions import halved, rotate_halves, sine_table


def pairs_turned(x, grid):
    """The definition: channels 2i and 2i + 1 are a complex number, turned by an angle of the column or of the row."""
    row, column = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
    frequency = 10000.0 ** (-4 * np.arange(x.shape[-1] // 4) / x.shape[-1])
    angle = np.concatenate([np.outer(column, frequency), np.outer(row, frequency)], -1)
    turned = (x[..., ::2] + 1j * x[..., 1::2]) * np.exp(1j * angle)
    return np.stack([turned.real, turned.imag], -1).reshape(x.shape)


def rotate(x, grid):
    """`rotate_halves` for channels in their own order."""
    halves = rotate_halves(halved(x), grid)
    return halves.reshape(*x.shape[:-1], 2, -1).swapaxes(-1, -2).reshape(x.shape)


def test_halved_order():
    np.testing.assert_array_equal(halved(jnp.arange(6.0)[None]), [[0, 2, 4, 1, 3, 5]])


def test_rotating_halves_is_rotating_pairs():
    x = jax.random.normal(jax.random.key(0), (2, 15, 8))
    np.testing.assert_allclose(
        rotate_halves(halved(x), (3, 5)), halved(jnp.asarray(pairs_turned(np.asarray(x), (3, 5)))), atol=1e-6
    )


def test_rotation_is_relative():
    """Scores depend on where the key stands relative to the query, not on where both stand."""
    q, k = jax.random.normal(jax.random.key(1), (2, 1, 8))
    grid = (4, 4)
    turned_q, turned_k = (rotate_halves(jnp.broadcast_to(x, (1, 16, 8)), grid)[0] for x in (q, k))
    scores = np.asarray(turned_q @ turned_k.T)
    for query, key, other_query, other_key in ((0, 5, 10, 15), (1, 4, 9, 12), (2, 2, 13, 13)):
        np.testing.assert_allclose(scores[query, key], scores[other_query, other_key], atol=1e-5)
    assert abs(scores[0, 1] - scores[0, 4]) > 1e-4


def test_codes_of_a_transposed_grid_have_their_halves_exchanged():
    """Rows are in one half of the channels and columns in the other."""

    def turned(x, grid):
        x = np.asarray(x).reshape(*grid, 8).swapaxes(0, 1)
        return np.concatenate([x[..., 4:], x[..., :4]], -1).reshape(-1, 8)

    np.testing.assert_allclose(sine_table(3, 5, 8), turned(sine_table(5, 3, 8), (5, 3)), rtol=1e-6)
    x = np.asarray(jax.random.normal(jax.random.key(2), (15, 8)))
    there = turned(rotate(jnp.asarray(turned(x, (3, 5)))[None], (5, 3))[0], (5, 3))
    np.testing.assert_allclose(there, rotate(jnp.asarray(x)[None], (3, 5))[0], rtol=1e-5, atol=1e-6)
