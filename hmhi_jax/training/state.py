"""All that training carries from step to step, as one value."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct


@struct.dataclass
class TrainState:
    """A pytree; every checkpoint holds one. Its leaves may also be shapes or shardings, so types are not checked.

    Attributes:
        step: optimiser steps done, int32.
        params: float32.
        batch_stats: running statistics of batch norms; empty for backbones without.
        opt_state: of the optimiser.
        ema: average of the parameters over steps, or None.
        key: raw random key of the run, uint32 `[2]`; a step's dropout comes from the key and the step's number, so
            nothing random is lost between a checkpoint and going on from it.
    """

    step: Any
    params: Any
    batch_stats: Any
    opt_state: Any
    ema: Any
    key: Any

    def variables(self, averaged: bool = False) -> dict[str, Any]:
        """What `model.apply` takes; with the averaged parameters if wanted and kept."""
        params = self.ema if averaged and self.ema is not None else self.params
        return {"params": params, **({"batch_stats": self.batch_stats} if self.batch_stats else {})}


def make_state(
    variables: dict[str, Any], optimiser: optax.GradientTransformation, seed: int, ema: bool = False
) -> TrainState:
    """A state at step 0. Traceable: call it under `jax.jit` with shardings, or `jax.eval_shape`."""
    params = variables["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables.get("batch_stats", {}),
        opt_state=optimiser.init(params),
        ema=jax.tree.map(jnp.copy, params) if ema else None,
        key=jax.random.fold_in(jax.random.PRNGKey(seed), 1),
    )
