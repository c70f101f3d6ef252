"""`estimate_flow`: pictures of any size and type, both directions, and what is refused."""

import jax.numpy as jnp
import numpy as np
import pytest
from goldens import flow_cases

import hmhi_jax as hmhi
from hmhi_jax.errors import InputError
from hmhi_jax.flow_models import build_flow_model, estimate_flow, forward_and_backward_flow
from hmhi_jax.flow_models.estimation import cropped, prepared


@pytest.fixture(scope="module")
def case():
    return flow_cases.load("raft_small")


def test_sides_that_are_no_multiples_of_eight(case):
    first, second = (x[:, :131, :157] for x in (case.first[:, :, :], case.second))
    first, second = (np.pad(x, ((0, 0), (0, 3), (0, 0), (0, 0)), mode="wrap") for x in (first, second))
    flow = estimate_flow(case.model, case.variables, first, second, iterations=1)
    assert flow.shape == (*first.shape[:3], 2)
    padded = [np.pad(x, ((0, 0), (2, 3), (1, 2), (0, 0)), mode="edge") for x in (first, second)]
    expected = estimate_flow(case.model, case.variables, *padded, iterations=1)
    np.testing.assert_allclose(flow, expected[:, 2:-3, 1:-2], atol=1e-5)


def test_preparing_and_cropping_are_inverse():
    pictures = np.random.default_rng(0).integers(0, 256, (1, 129, 143, 3), np.uint8)
    made = prepared(jnp.asarray(pictures))
    assert made.shape == (1, 136, 144, 3)
    assert made.min() == -1
    assert made.max() == 1
    inner = cropped(made[..., :2], (129, 143))
    np.testing.assert_allclose(inner, pictures[..., :2] / 127.5 - 1, atol=1e-6)
    np.testing.assert_array_equal(made[:, 0], made[:, 3])


def test_eight_bits_and_floats_are_the_same(case):
    levels = [np.rint((x + 1) * 127.5).astype(np.uint8) for x in (case.first, case.second)]
    floats = [x.astype(np.float32) / np.float32(127.5) - 1 for x in levels]
    flows = [estimate_flow(case.model, case.variables, *pair, iterations=2) for pair in (levels, floats)]
    np.testing.assert_allclose(*flows, atol=2e-4)


def test_a_batch_is_its_pairs_and_both_directions_are_two_calls(case):
    pairs = np.concatenate([case.first, case.second]), np.concatenate([case.second, case.first])
    flows = np.asarray(estimate_flow(case.model, case.variables, *pairs, iterations=2))
    forward, backward = forward_and_backward_flow(case.model, case.variables, case.first, case.second, iterations=2)
    np.testing.assert_allclose(forward, flows[:1], atol=2e-4)
    np.testing.assert_allclose(backward, flows[1:], atol=2e-4)
    assert np.abs(flows[0] - flows[1]).mean() > 0.1


def test_in_pieces_the_flow_is_the_same(case):
    pieces = build_flow_model("raft_small", largest_volume=0)
    flows = [estimate_flow(m, case.variables, case.first, case.second, iterations=3) for m in (case.model, pieces)]
    np.testing.assert_allclose(*flows, atol=1e-4)


def test_bfloat16_is_near(case):
    half = build_flow_model("raft_small", dtype=jnp.bfloat16)
    flows = [np.asarray(estimate_flow(m, case.variables, case.first, case.second, 3)) for m in (case.model, half)]
    assert flows[1].dtype == np.float32
    error = np.abs(flows[0] - flows[1])
    assert 0 < error.mean() < 0.05 * np.abs(flows[0]).mean()


def test_what_is_refused(case):
    def flow(first, second, **options):
        return estimate_flow(case.model, case.variables, first, second, **options)

    with pytest.raises(InputError, match=r"frames are 120 x 160, expected at least 128 pixels each way for RAFT"):
        flow(case.first[:, :120], case.second[:, :120])
    with pytest.raises(InputError, match=r"frames of 128 x 160 and 128 x 152 \(height x width\), expected equal sizes"):
        flow(case.first, case.second[:, :, :152])
    with pytest.raises(InputError, match=r"the second pictures are float64 .*, expected uint8 or float32"):
        flow(case.first, case.second.astype(np.float64))
    with pytest.raises(InputError, match=r"1 first and 2 second pictures, expected equal numbers"):
        flow(case.first, np.concatenate([case.second] * 2))
    with pytest.raises(InputError, match="0 iterations, expected at least 1"):
        flow(case.first, case.second, iterations=0)
    with pytest.raises(ValueError, match="unknown flow network 'raft'; known: raft_large, raft_small"):
        hmhi.build_flow_model("raft")
