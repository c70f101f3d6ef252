"""RAFT is torchvision's, map by map."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from goldens import flow_cases

from hmhi_jax.flow_models import estimate_flow
from hmhi_jax.interop import flow_from_torch

# Largest and mean error of each map; rounding alone gives a third of these.
BOUNDS = {
    "features": (1e-4, 1.5e-5),
    "context": (1.5e-4, 2e-5),
    "correlation0": (1e-3, 3e-5),
    "hidden1": (3e-4, 5e-6),
    "flow1": (5e-5, 1e-5),
    "flow6": (5e-4, 5e-5),
    "hidden12": (2e-3, 5e-5),
    "flow12": (2e-3, 2e-4),
}


def wrong(name: str, found: dict[str, np.ndarray]) -> list[str]:
    """The maps that are off, in the order in which they are computed."""
    off = []
    for each, (largest, mean) in BOUNDS.items():
        expected = flow_cases.load(name).expected[each]
        assert found[each].shape == expected.shape, each
        error = np.abs(found[each] - expected)
        if not (error.max() <= largest and error.mean() <= mean):
            off.append(each)
    return off


@pytest.mark.parametrize("name", ["raft_small", "raft_large"])
def test_every_map_is_torchvision_s(name):
    assert wrong(name, flow_cases.maps(name, flow_cases.load(name).variables)) == []


@pytest.mark.parametrize(
    ("layer", "first_wrong"),
    [
        ("feature_encoder.layer2.0.convnormrelu2.0.weight", "features"),
        ("context_encoder.layer3.1.convnormrelu2.1.running_mean", "context"),
        ("update_block.motion_encoder.convcorr2.0.weight", "hidden1"),
        ("update_block.motion_encoder.convflow1.0.weight", "flow6"),  # the first iteration sees a flow of zero
        ("update_block.recurrent_block.convgru2.convq.bias", "hidden1"),
        ("update_block.flow_head.conv1.weight", "flow1"),
        ("mask_predictor.conv.bias", "flow1"),
    ],
)
def test_a_wrong_layer_is_found_by_name(layer, first_wrong):
    case = flow_cases.load("raft_large")
    changed = case.state_dict[layer].copy()
    changed.flat[::3] += 0.02 if "bias" not in layer else 0.2
    variables = flow_from_torch(case.model, case.state_dict | {layer: changed})
    assert wrong("raft_large", flow_cases.maps("raft_large", variables))[0] == first_wrong


@pytest.mark.parametrize("name", ["raft_small", "raft_large"])
def test_one_call_is_the_steps(name):
    case = flow_cases.load(name)
    flow = np.asarray(estimate_flow(case.model, case.variables, case.first, case.second))
    error = np.abs(flow - case.expected["flow12"])
    assert flow.dtype == np.float32
    assert error.max() < 2e-3
    assert error.mean() < 2e-4


def test_a_gradient_reaches_every_parameter_but_none_goes_through_the_flow():
    case = flow_cases.load("raft_small")
    first, second = jnp.asarray(case.first), jnp.asarray(case.second)

    def error(variables, first):
        return (case.model.apply(variables, first, second, 2) ** 2).mean()

    gradients, of_picture = jax.jit(jax.grad(error, argnums=(0, 1)))(case.variables, first)
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.isfinite(gradient).all(), path
        # Instance norm takes away what a bias before it adds.
        if not ("feature_encoder" in str(path) and "'bias'" in str(path) and "head" not in str(path)):
            assert np.abs(gradient).max() > 0, path
    assert np.isfinite(of_picture).all()
    assert np.abs(of_picture).max() > 0


def test_no_gradient_goes_through_the_flow_that_an_iteration_begins_with():
    case = flow_cases.load("raft_small")
    features = [jnp.asarray(case.expected["features"])] * 2
    match, state = case.model.apply(case.variables, *features, jnp.asarray(case.expected["context"]), method="start")

    def after_one(flow):
        return case.model.apply(case.variables, match, state._replace(flow=flow), method="step").flow.sum()

    flow = jnp.full(state.flow.shape, 1.3)
    assert np.abs(jax.jit(jax.grad(after_one))(flow)).max() == 0
