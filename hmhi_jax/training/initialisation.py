"""Fresh weights: drawn as published, or scaled so that a small network learns without a pre-trained encoder.

The release draws every linear layer of the encoder with deviation .02 and every convolution of the decoder with .01
(docs/model.md 2.1, 7), which suits wide layers over an ImageNet encoder. In a network a tenth as wide those layers pass
on a few per cent of what they get, and hundreds of steps go by before gradients reach the encoder.
"""

import math
import re
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from hmhi_jax.errors import InputError
from hmhi_jax.interop.fit import leaves_by_path
from hmhi_jax.models import HMHINet

INITIALISATIONS = ("published", "fan_in")

_FOREGROUND_LOGIT = -2.0  # about an eighth of a picture is foreground


def init_variables(model: HMHINet, seed: int, initialisation: str = "published") -> dict[str, Any]:
    """Fresh variables; the same for a seed on every mesh. Parameters do not depend on the pictures' size.

    Args:
        initialisation: "published", as the release draws them, or "fan_in", see `fan_in_scaled`.

    Raises:
        InputError: for another name.
    """
    check_initialisation(initialisation)
    return _drawn_variables(model, seed, initialisation)


@partial(jax.jit, static_argnums=(0, 1, 2))  # op by op it would take minutes
def _drawn_variables(model: HMHINet, seed: int, initialisation: str) -> dict[str, Any]:
    pictures = jnp.zeros((1, 2, 64, 64, 3), jnp.float32)
    variables = dict(model.init(jax.random.PRNGKey(seed), pictures, pictures))
    if initialisation == "fan_in":
        variables["params"] = fan_in_scaled(variables["params"], jax.random.fold_in(jax.random.PRNGKey(seed), 2))
    return variables


def check_initialisation(name: str) -> None:
    """Raises `InputError` for a name that is none of `INITIALISATIONS`."""
    if name not in INITIALISATIONS:
        raise InputError(f"config.initialisation is {name!r}, expected one of {', '.join(INITIALISATIONS)}")


def fan_in_scaled(params: Any, key: Array) -> Any:
    """The parameters with some kernels drawn anew, so that every layer passes on about as much as it gets.

    - Linear layers of the encoder: truncated normal of deviation `fan_in ** -0.5`; half of that where they end a
      residual branch, a tenth where they end a flow adapter.
    - Convolutions of the decoder, its gates aside: He's normal. The last one stays small, with a bias that says
      "background", so that the loss begins where a constant prediction would leave it.

    All others keep what they have.
    """
    leaves = leaves_by_path(params)
    keys = jax.random.split(key, len(leaves))
    drawn = [_drawn(name, leaf, keys[i]) for i, (name, leaf) in enumerate(leaves.items())]
    return jax.tree.unflatten(jax.tree.structure(params), drawn)


def _drawn(name: str, leaf: Array, key: Array) -> Array:
    if name == "decoder/predictor/bias":
        return jnp.full_like(leaf, _FOREGROUND_LOGIT)
    if not name.endswith("/kernel"):
        return leaf
    deviation = math.prod(leaf.shape[:-1]) ** -0.5
    if name.startswith("encoder/") and leaf.ndim == 2:
        if re.search(r"adapter/up/", name):
            deviation *= 0.1
        elif re.search(r"/(out|project)/", name):
            deviation *= 0.5
        return deviation * jax.random.truncated_normal(key, -2, 2, leaf.shape, leaf.dtype)
    if re.match(r"decoder/(lateral|blend)\d/", name):
        return math.sqrt(2) * deviation * jax.random.normal(key, leaf.shape, leaf.dtype)
    return leaf
