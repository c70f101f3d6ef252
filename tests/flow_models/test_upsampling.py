"""Enlarging the flow: both ways against their definitions written out."""

import jax.numpy as jnp
import numpy as np

from hmhi_jax.flow_models.raft import bilinear_upsampling, convex_upsampling


def test_convex_upsampling_is_its_definition():
    rng = np.random.default_rng(0)
    flow, logits = rng.standard_normal((2, 3, 4, 2)).astype(np.float32), rng.standard_normal((2, 3, 4, 576))
    found = np.asarray(convex_upsampling(jnp.asarray(flow), jnp.asarray(logits, jnp.float32)))
    padded = np.pad(8 * flow, ((0, 0), (1, 1), (1, 1), (0, 0)))
    by_pixel = np.exp(logits).reshape(2, 3, 4, 9, 8, 8)
    for b, y, x in np.ndindex(2, 24, 32):
        weights = by_pixel[b, y // 8, x // 8, :, y % 8, x % 8]
        nine = padded[b, y // 8 : y // 8 + 3, x // 8 : x // 8 + 3].reshape(9, 2)
        np.testing.assert_allclose(found[b, y, x], weights @ nine / weights.sum(), atol=1e-5)


def test_bilinear_upsampling_keeps_corners_and_lines():
    y, x = np.mgrid[:3, :5].astype(np.float32)
    flow = jnp.asarray(np.stack([x, 2 * y], -1)[None])
    found = np.asarray(bilinear_upsampling(flow))
    assert found.shape == (1, 24, 40, 2)
    np.testing.assert_allclose(found[0, :, :, 0], np.broadcast_to(np.linspace(0, 32, 40), (24, 40)), atol=1e-4)
    np.testing.assert_allclose(found[0, :, :, 1], np.broadcast_to(np.linspace(0, 32, 24)[:, None], (24, 40)), atol=1e-4)
