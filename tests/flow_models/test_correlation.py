"""The look-up of correlations: its forms against the definition, in pieces against the whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hmhi_jax.flow_models import correlation
from hmhi_jax.flow_models.correlation import (
    correlate,
    look_up,
    sample_by_products,
    sample_by_reading,
    sample_by_windows,
    volume_bytes,
)

READING = [sample_by_reading, sample_by_windows]


def drawn(shape, seed=0, scale=1.0):
    return jnp.asarray(scale * np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def places_around(height, width, seed=1):
    """Inside, at whole pixels, across every edge, and far away."""
    rng = np.random.default_rng(seed)
    places = rng.uniform(-12, max(height, width) + 12, (2, 30, 2))
    places[0, :4] = [[0, 0], [width - 1, height - 1], [2.5, 0], [-1, height]]
    places[1, :3] = [[1e9, -1e9], [-40.5, 3.25], [3e4, 2]]
    return jnp.asarray(places, jnp.float32)


@pytest.mark.parametrize("form", READING)
@pytest.mark.parametrize(("height", "width", "radius"), [(16, 20, 4), (2, 3, 3), (7, 5, 4)])
def test_reading_is_weighing_the_whole_map(height, width, radius, form):
    values, places = drawn((2, 30, height, width)), places_around(height, width)
    found = form(values, places, radius)
    expected = sample_by_products(values, places, radius)
    assert found.shape == (2, 30, 2 * radius + 1, 2 * radius + 1)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert np.abs(expected).max() > 1


@pytest.mark.parametrize("form", READING)
def test_samples_are_ordered_by_x_then_y(form):
    values = jnp.zeros((1, 1, 8, 8)).at[0, 0, 3, 5].set(1.0)  # row 3, column 5
    found = form(values, jnp.array([[[4.0, 4.0]]]), 2)
    assert np.argwhere(np.asarray(found[0, 0])).tolist() == [[3, 1]]  # x offset +1, y offset -1


def test_all_forms_have_the_same_gradient():
    values, places = drawn((2, 30, 9, 11)), places_around(9, 11)
    weights = drawn((2, 30, 7, 7), 2)
    gradients = [
        jax.grad(lambda v, form=form: (weights * form(v, places, 3)).sum())(values)
        for form in (*READING, sample_by_products)
    ]
    for gradient in gradients[:2]:
        np.testing.assert_allclose(gradient, gradients[2], atol=1e-5)


def test_pooled_maps_are_the_correlation_with_pooled_features():
    first, second = drawn((1, 16, 18, 8)), drawn((1, 16, 18, 8), 1)
    maps = correlate(first, second).maps
    whole = np.einsum("bijc,bklc->bijkl", first, second) / np.sqrt(8)
    np.testing.assert_allclose(maps[0].reshape(whole.shape), whole, atol=1e-5)
    for level in range(1, 4):
        rows, columns = whole.shape[3] // 2 * 2, whole.shape[4] // 2 * 2
        whole = whole[:, :, :, :rows, :columns]
        whole = (whole[..., ::2, ::2] + whole[..., 1::2, ::2] + whole[..., ::2, 1::2] + whole[..., 1::2, 1::2]) / 4
        np.testing.assert_allclose(maps[level].reshape(whole.shape), whole, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 5])
def test_pieces_are_the_whole(monkeypatch, rows):
    batch, height, width = 2, 17, 20
    first, second = drawn((batch, height, width, 8)), drawn((batch, height, width, 8), 1)
    places = drawn((batch, height, width, 2), 2, 10.0) + 8
    volume = volume_bytes(batch, height, width)
    monkeypatch.setattr(correlation, "PIECE", volume * rows // height + 1)
    assert correlation._rows_of_a_piece(batch, height, width) <= rows
    whole, pieces = correlate(first, second), correlate(first, second, largest_volume=volume - 1)
    assert whole.maps
    assert not pieces.maps
    assert sum(level.nbytes for level in whole.maps) == volume
    expected, found = (look_up(each, places, 3) for each in (whole, pieces))
    np.testing.assert_allclose(found, expected, atol=1e-6)

    def total(features, limit):
        return (look_up(correlate(features, second, largest_volume=limit), places, 3) ** 2).sum()

    gradients = [jax.grad(total)(first, limit) for limit in (volume, 0)]
    np.testing.assert_allclose(*gradients, rtol=1e-4, atol=1e-4)


def test_the_volume_of_a_large_picture_is_not_made():
    """At 1080p the compiled look-up needs a fraction of the volume's memory."""
    height, width = 1080 // 8, 1920 // 8
    features = jax.ShapeDtypeStruct((1, height, width, 16), jnp.float32)
    places = jax.ShapeDtypeStruct((1, height, width, 2), jnp.float32)
    program = jax.jit(lambda a, b, p: look_up(correlate(a, b, largest_volume=2**30), p, 4))
    memory = program.lower(features, features, places).compile().memory_analysis()
    assert volume_bytes(1, height, width) > 5 * 2**30
    assert memory.temp_size_in_bytes < 2**30
