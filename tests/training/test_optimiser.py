"""Schedules, decay masks, frozen parts, rates by part."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hmhi_jax.errors import InputError
from hmhi_jax.interop.torch_names import torch_name
from hmhi_jax.models import build_model
from hmhi_jax.training.initial_weights import init_variables
from hmhi_jax.training.optimiser import (
    BACKBONE,
    DECAY_MASKS,
    check_patterns,
    held,
    learning_rate_schedule,
    make_optimiser,
    matches,
    parameter_paths,
)

PARAMS = {
    "encoder": {"norm1": {"scale": jnp.ones(3)}, "q": {"kernel": jnp.full((3, 2), 2.0)}},
    "decoder": {"conv": {"kernel": jnp.full((2,), -1.0)}},
}


def updates(gradient=0.5, **settings):
    optimiser = make_optimiser(optax.constant_schedule(0.1), **settings)
    grads = jax.tree.map(lambda x: jnp.full_like(x, gradient), PARAMS)
    changes, state = optimiser.update(grads, optimiser.init(PARAMS), PARAMS)
    return changes, state


def test_the_first_step_is_adamw_as_pytorch_writes_it():
    changes, _ = updates(weight_decay=0.01)
    # m_hat / (sqrt(v_hat) + eps) is 1 in the first step.
    np.testing.assert_allclose(changes["encoder"]["q"]["kernel"], -0.1 * (1 + 0.01 * 2.0), rtol=1e-5)
    np.testing.assert_allclose(changes["decoder"]["conv"]["kernel"], -0.1 * (1 - 0.01 * 1.0), rtol=1e-5)


def test_rates_by_part_and_spared_norms():
    changes, _ = updates(weight_decay=0.01, decay_mask="spare_norms", rate_multipliers={BACKBONE: 0.1})
    np.testing.assert_allclose(changes["encoder"]["norm1"]["scale"], -0.01, rtol=1e-5)
    np.testing.assert_allclose(changes["encoder"]["q"]["kernel"], -0.01 * 1.02, rtol=1e-5)
    np.testing.assert_allclose(changes["decoder"]["conv"]["kernel"], -0.1 * 0.99, rtol=1e-5)


def test_frozen_parts_neither_move_nor_carry_moments():
    changes, state = updates(frozen=(BACKBONE,))
    assert not np.any(changes["encoder"]["q"]["kernel"])
    assert np.all(changes["decoder"]["conv"]["kernel"] != 0)
    shapes = [leaf.shape for leaf in jax.tree.leaves(state)]
    assert (3, 2) not in shapes
    assert (2,) in shapes


def test_clipping_bounds_the_norm_that_adam_sees():
    _, state = updates(gradient=100.0, clip_norm=1.0)
    first = [leaf for leaf in jax.tree.leaves(state) if leaf.ndim]
    count = sum(leaf.size for leaf in jax.tree.leaves(PARAMS))
    np.testing.assert_allclose(first[0], 0.1 / np.sqrt(count), rtol=1e-5)


@pytest.mark.parametrize("backbone", ["swin_tiny"])
def test_spared_parameters_are_those_the_release_spares_by_name(backbone):
    model = build_model(backbone)
    params = jax.eval_shape(lambda: init_variables(model, 0))["params"]
    spared = jax.tree.leaves(matches(DECAY_MASKS["spare_norms"], params))
    names = [
        torch_name(path, leaf.ndim, backbone)
        for path, leaf in zip(jax.tree.leaves(parameter_paths(params)), jax.tree.leaves(params), strict=True)
    ]
    assert spared == ["norm" in name or "relative_position_bias_table" in name for name in names]
    assert any(spared)


def test_schedules_rise_and_fall():
    rate = learning_rate_schedule("cosine", 1.0, 110, warmup_steps=10, final_fraction=0.1)
    np.testing.assert_allclose([rate(0), rate(9), rate(10), rate(60), rate(110)], [0.1, 1.0, 1.0, 0.55, 0.1], rtol=1e-5)
    constant = learning_rate_schedule("constant", 6e-5, 100)
    assert float(constant(0)) == float(constant(99)) == pytest.approx(6e-5)
    with pytest.raises(InputError, match="expected 'constant'"):
        learning_rate_schedule("step", 1.0, 10)


def test_a_pattern_that_fits_nothing_is_refused():
    check_patterns(PARAMS, {"frozen": ("^encoder/",)})
    with pytest.raises(InputError, match=r"frozen: '\^backbone/' is found in no"):
        check_patterns(PARAMS, {"frozen": ("^backbone/",)})
    with pytest.raises(InputError, match="no regular expression"):
        check_patterns(PARAMS, {"frozen": ("(",)})


def test_what_is_held_has_no_gradient_and_no_backward_pass():
    params = {"first": {"kernel": jnp.full((3, 3), 2.0)}, "second": {"kernel": jnp.full((3, 3), 3.0)}}

    def loss(params, frozen):
        params = held(params, frozen)
        return jnp.sin(jnp.ones((1, 3)) @ params["first"]["kernel"] @ params["second"]["kernel"]).sum()

    whole, part = (jax.grad(partial(loss, frozen=frozen))(params) for frozen in ((), ("^first/", "^third/")))
    assert np.abs(whole["first"]["kernel"]).min() > 0
    np.testing.assert_array_equal(part["first"]["kernel"], np.zeros((3, 3)))
    np.testing.assert_array_equal(part["second"]["kernel"], whole["second"]["kernel"])
    products = [
        str(jax.make_jaxpr(jax.grad(partial(loss, frozen=frozen)))(params)).count("dot_general")
        for frozen in ((), ("^first/",), ("^second/",), ("^first/", "^second/"))
    ]
    # Two in the forward pass; one for each kernel that is trained, and one to reach the first.
    assert products == [5, 3, 4, 2]
