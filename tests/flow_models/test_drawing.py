"""Camera removal and drawing on the device give the pictures that NumPy gives."""

import jax.numpy as jnp
import numpy as np
import pytest

from hmhi_jax.data.camera import camera_flow, fit_camera, remove_camera
from hmhi_jax.data.flow import FlowRecipe, draw_flow
from hmhi_jax.flow_models.estimation import draw_pictures, shorter_flow, without_camera


def flows(count=3, height=96, width=130):
    """A camera's motion, an object that moves otherwise, noise, and vectors along every axis."""
    made = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        model = rng.normal(0, 3, (3, 2)).astype(np.float32)
        flow = camera_flow(model, (height, width)) + 0.05 * rng.standard_normal((height, width, 2))
        flow[20:50, 30:70] += rng.normal(0, 6, 2)
        flow[:4, :4] = [[[x, y] for x in (-1, 0, 1, 2)] for y in (-1, 0, 1, 2)]
        made.append(flow.astype(np.float32))
    return np.stack(made)


@pytest.mark.parametrize("camera", ["none", "affine"])
@pytest.mark.parametrize("normalisation", ["max", "robust"])
def test_no_level_is_off_by_more_than_one(camera, normalisation):
    recipe, made = FlowRecipe(camera=camera, normalisation=normalisation), flows()
    expected = np.stack([draw_flow(flow, recipe) for flow in made])
    moving = jnp.asarray(made)
    if camera == "affine":
        moving = without_camera(moving, jnp.stack([fit_camera(flow) for flow in made]))
    drawn = np.asarray(draw_pictures(moving, normalisation=normalisation, least_motion=recipe.least_motion))
    difference = np.abs(drawn.astype(int) - expected)
    assert difference.max() <= 1
    assert difference.mean() < 0.01
    assert np.ptp(expected) > 100


def test_the_camera_is_taken_away_as_numpy_does():
    made = flows()
    found = without_camera(jnp.asarray(made), jnp.stack([fit_camera(flow) for flow in made]))
    np.testing.assert_allclose(found, np.stack([remove_camera(flow) for flow in made]), atol=2e-6)


def test_a_still_picture_is_white():
    drawn = draw_pictures(jnp.zeros((1, 8, 8, 2)), normalisation="robust", least_motion=0.005)
    assert (np.asarray(drawn) == 255).all()


def test_the_shorter_vector_is_taken():
    one, other = jnp.asarray([[[[3.0, 4.0], [1.0, 0.0]]]]), jnp.asarray([[[[0.0, 5.0], [0.0, 0.5]]]])
    np.testing.assert_array_equal(shorter_flow(one, other), [[[[3.0, 4.0], [0.0, 0.5]]]])
