"""Weights in the types that a network reads them in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import Var
from small_network import NAME, random_variables, small_model

from hmhi_jax import build_model
from hmhi_jax.inference.functions import functions_of, read_as
from hmhi_jax.inference.network import Network
from hmhi_jax.interop.shapes import abstract_variables

PICTURE = jax.ShapeDtypeStruct((1, 64, 96, 3), jnp.uint8)


def conversions_of_weights(functions, variables):
    """Inputs of conversions in a frame's two functions that are variables as they come."""
    features = jax.eval_shape(functions.encode, variables, PICTURE, PICTURE)[0]
    memory = jax.eval_shape(functions.empty, features)
    fresh = jax.ShapeDtypeStruct((), jnp.bool_)
    found = 0
    for function, *arguments in (
        (functions.encode, PICTURE, PICTURE), (functions.advance, memory, features, fresh)
    ):  # fmt: skip
        jaxpr = jax.make_jaxpr(function)(variables, *arguments).jaxpr
        weights = set(jaxpr.invars[: len(jax.tree.leaves(variables))])
        for equation in jaxpr.eqns:
            if equation.primitive.name == "convert_element_type":
                found += any(isinstance(each, Var) and each in weights for each in equation.invars)
    return found


@pytest.mark.parametrize("backbone", [NAME, "efficientnet_lite0_160"])
def test_a_frame_converts_no_weights(backbone):
    model = build_model(backbone, memory_frames=2, dtype="bfloat16")
    functions, given = functions_of(model), abstract_variables(model)
    read = read_as(functions, given, jax.local_devices())
    assert conversions_of_weights(functions, read) == 0
    leaves = {jax.tree_util.keystr(path): leaf.dtype for path, leaf in jax.tree_util.tree_leaves_with_path(read)}
    converted = [name for name, dtype in leaves.items() if dtype == jnp.bfloat16]
    assert len(converted) > 80
    assert not [name for name in converted if "scale" in name or "norm" in name]


@pytest.mark.parametrize("dtype", ["float32", "tensorfloat32"])
def test_other_types_change_nothing(dtype):
    model = build_model(NAME, dtype=dtype)
    read = read_as(functions_of(model), abstract_variables(model), jax.local_devices())
    assert {leaf.dtype for leaf in jax.tree.leaves(read)} == {np.dtype(np.float32)}


def test_converted_weights_give_the_same_frame():
    model = small_model(memory_frames=2, dtype="bfloat16")
    functions, variables = functions_of(model), random_variables(model)
    pictures = np.random.default_rng(0).integers(0, 256, (2, 1, 64, 96, 3), np.uint8)
    converted = Network(functions, variables).variables
    assert {x.dtype for x in jax.tree.leaves(converted)} == {np.dtype(np.float32), np.dtype(jnp.bfloat16)}

    @jax.jit
    def logits(variables):
        return functions.start(variables, functions.encode(variables, *map(jnp.asarray, pictures))[0])[1]

    expected = logits(variables)
    # Weights are rounded to 8 bits either way; XLA may leave out a rounding in between.
    np.testing.assert_allclose(logits(converted), expected, atol=0.02 * float(np.std(expected)))
