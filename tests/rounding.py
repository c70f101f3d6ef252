"""Bounds on rounding errors that hold on every processor, because they follow from the arithmetic.

In which order a sum is taken, and so how it is rounded, depends on the processor's vectors, and a bound that fits one
machine's results says nothing about another's. Here float64 tells what is exact, and the plain definition, in float32
on the same machine, tells how large errors are: another form of the same sums may make them a few times larger.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

EPSILON = float(np.finfo(np.float32).eps)
# Units in the last place of the largest number that a plain form may be off. Independent roundings of a sum of n terms,
# one after the other, come to sqrt(n / 6) halves of a unit of its spread; the sums here have up to a thousand terms.
PLAIN_UNITS = 16


def in_float64(form: Callable[..., Any], *inputs: Any) -> Any:
    """What `form` gives for these arrays, floating ones taken as float64: exact, as far as float32 can tell."""

    def widened(x: Any) -> jax.Array:
        return jnp.asarray(x, jnp.float64 if jnp.issubdtype(x.dtype, jnp.floating) else x.dtype)

    with jax.enable_x64(True):
        outputs = jax.tree.map(np.asarray, form(*jax.tree.map(widened, inputs)))
    assert {x.dtype for x in jax.tree.leaves(outputs)} == {np.dtype("float64")}
    return outputs


def assert_rounded_alike(found: Any, plain: Any, exact: Any, times: float = 4.0) -> None:
    """No error of `found` is more than `times` the largest of `plain`, array by array of the three trees.

    The largest error of `plain` counts as at least one unit in the last place of the largest exact number: some plain
    sums of a few terms happen to come out exact, and nothing follows from that for another order.
    """
    for ours, theirs, true in zip(*(jax.tree.leaves(tree) for tree in (found, plain, exact)), strict=True):
        ours, theirs, true = (np.asarray(x, np.float64) for x in (ours, theirs, true))
        assert ours.shape == theirs.shape == true.shape
        unit = EPSILON * np.abs(true).max()
        plain_error = np.abs(theirs - true).max()
        assert plain_error <= PLAIN_UNITS * unit, f"the plain form is off by {plain_error / unit:.0f} units"
        np.testing.assert_allclose(ours, true, rtol=0, atol=times * max(plain_error, unit))
