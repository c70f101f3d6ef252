"""All that training carries from step to step, as one value, and one step: a pure function of state and batch, compiled
once for a mesh."""

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from hmhi_jax.data.device_batches import batch_shardings, network_inputs
from hmhi_jax.models import HMHINet
from hmhi_jax.process import gpu_compiler_options
from hmhi_jax.training.clip_forward import CheckpointPolicy, clip_logits
from hmhi_jax.training.losses import MAP_WEIGHT, clip_losses, frame_losses
from hmhi_jax.training.mesh import DATA, replicated
from hmhi_jax.training.optimiser import held


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


Batch = dict[str, Any]  # arrays, on the host or on devices


@struct.dataclass
class Metrics:
    """What a step reports; on the devices until fetched.

    Attributes:
        scalars: loss, its terms (means over annotated frames), gradient norm before clipping, learning rate.
        clip_losses: of every clip, to name the one that went wrong.
    """

    scalars: Any  # dict of float32 []; a pytree's leaves may also be shardings, so types are not checked
    clip_losses: Any  # float32 [B]


def batch_loss(
    model: HMHINet,
    params: Any,
    batch_stats: Any,
    batch: Batch,
    key: Array | None,
    *,
    checkpoint: CheckpointPolicy = "none",
    unroll: bool = False,
    map_weight: float | int = MAP_WEIGHT,
) -> tuple[Float[Array, ""], tuple[Float[Array, "B"], dict[str, Float[Array, ""]], dict]]:
    """Mean over clips of the loss summed over frames, as `segmentation_loss`; and the parts it is made of.

    Args:
        batch: `frames`, `flows` uint8 `[B, T, H, W, 3]`, `masks` uint8 `[B, T, H, W, 1]`, `valid` bool `[B, T]`.
        key: of dropout and drop path; None switches them off.
        checkpoint, unroll: as for `clip_logits`.
        map_weight: of focal + bce / 2 against dice.

    Returns loss, (loss by clip, means of the terms over annotated frames, moved batch statistics).
    """
    variables = {"params": params, **({"batch_stats": batch_stats} if batch_stats else {})}
    frames, flows, masks, valid = network_inputs(batch)
    logits, moved = clip_logits(model, variables, frames, flows, key, checkpoint=checkpoint, unroll=unroll)
    terms = frame_losses(logits, masks)
    by_clip = clip_losses(terms, valid > 0, map_weight)
    annotated = jnp.maximum(valid.sum(), 1)
    means = {name: jnp.where(valid > 0, term, 0.0).sum() / annotated for name, term in terms.items()}
    return by_clip.mean(), (by_clip, means, moved)


def make_train_step(
    model: HMHINet,
    optimiser: optax.GradientTransformation,
    schedule: optax.Schedule,
    mesh: Mesh,
    *,
    accumulate: int = 1,
    checkpoint: CheckpointPolicy = "none",
    unroll: bool = False,
    dropout: bool = True,
    ema_decay: float | None = None,
    map_weight: float | int = MAP_WEIGHT,
    frozen: tuple[str, ...] = (),
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """The compiled step. The state handed in is donated: its memory becomes that of the state handed back.

    Args:
        accumulate: parts the batch is worked through in, one after the other; the gradient is that of the whole batch.
        checkpoint, unroll: as for `clip_logits`.
        dropout: dropout and drop path.
        ema_decay: weight of the past in the averaged parameters (rising to it over the first steps); None keeps none.
        map_weight: as for `batch_loss`.
        frozen: patterns of paths of parameters that the optimiser does not move: their gradients are zero, and where
            nothing before them is trained the backward pass ends there.
    """

    shardings = batch_shardings(mesh)

    def gradients(params: Any, batch_stats: Any, batch: Batch, key: Array | None):
        def loss(params: Any):
            how = {"checkpoint": checkpoint, "unroll": unroll, "map_weight": map_weight}
            return batch_loss(model, held(params, frozen), batch_stats, batch, key, **how)

        return jax.value_and_grad(loss, has_aux=True)(params)

    def accumulated(params: Any, batch_stats: Any, batch: Batch, key: Array | None):
        # Part i takes every device's i-th share of its own clips, so no clip changes its device.
        def part_of(name: str, x: Array) -> Array:
            parts = x.reshape(x.shape[0] // accumulate, accumulate, *x.shape[1:])
            spec = PartitionSpec(None, *shardings[name].spec)
            return lax.with_sharding_constraint(jnp.moveaxis(parts, 1, 0), NamedSharding(mesh, spec))

        parts = {name: part_of(name, x) for name, x in batch.items()}
        keys = None if key is None else jax.random.split(key, accumulate)
        weights = parts["valid"].sum((1, 2)) / jnp.maximum(batch["valid"].sum(), 1)

        def one(carry, inputs):
            part, part_key, weight = inputs
            (loss, (by_clip, means, moved)), grads = gradients(params, carry[0], part, part_key)
            total = (loss, jax.tree.map(lambda mean: mean * weight, means), grads)
            return (moved, jax.tree.map(jnp.add, carry[1], total)), by_clip

        def inputs(i: int):
            return {name: x[i] for name, x in parts.items()}, None if keys is None else keys[i], weights[i]

        (loss, (_, means, _)), grads = jax.eval_shape(gradients, params, batch_stats, *inputs(0)[:2])
        carry = (batch_stats, jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), (loss, means, grads)))
        if unroll:
            by_clips = []
            for i in range(accumulate):
                carry, by_clip = one(carry, inputs(i))
                by_clips.append(by_clip)
            by_clip = jnp.stack(by_clips)
        else:
            carry, by_clip = lax.scan(one, carry, (parts, keys, weights))
        moved, (loss, means, grads) = carry
        loss, grads = jax.tree.map(lambda x: x / accumulate, (loss, grads))
        return (loss, (jnp.moveaxis(by_clip, 0, 1).reshape(-1), means, moved)), grads

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(state.key, state.step) if dropout else None
        compute = gradients if accumulate == 1 else accumulated
        (loss, (by_clip, means, moved)), grads = compute(state.params, state.batch_stats, batch, key)
        updates, opt_state = optimiser.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if ema_decay is not None:
            # Averages that start at random weights would remember them for 1 / (1 - decay) steps.
            decay = jnp.minimum(ema_decay, (1.0 + state.step) / (10.0 + state.step))
            ema = jax.tree.map(lambda old, new: old + (1 - decay) * (new - old), ema, params)
        scalars = {
            "loss": loss,
            **means,
            "gradient_norm": optax.global_norm(grads),
            "learning_rate": jnp.asarray(schedule(state.step), jnp.float32),
        }
        new = state.replace(
            step=state.step + 1, params=params, batch_stats=moved, opt_state=opt_state, ema=ema
        )  # fmt: skip
        return new, Metrics(scalars, by_clip)

    everywhere = replicated(mesh)
    by_clip = NamedSharding(mesh, PartitionSpec(DATA))
    return jax.jit(
        train_step,
        donate_argnums=0,
        in_shardings=(everywhere, shardings),
        out_shardings=(everywhere, Metrics(everywhere, by_clip)),
        compiler_options=compiler_options(mesh.devices.flat[0].platform),
    )


@cache
def compiler_options(platform: str) -> dict[str, str | bool] | None:
    """What XLA is told when it compiles a training step: for GPUs `process.gpu_compiler_options`, for the CPU what
    keeps its memory small.

    By default the CPU's compiler drops the barriers that keep what is computed again apart from what was computed
    before, finds that both are the same, and keeps it: where frames are written out, `jax.checkpoint` saves nothing.
    And it orders a program so that much can run side by side, which keeps the activations of all frames alive at once.
    Options this version of XLA does not know are left out.
    """
    if platform != "cpu":
        return gpu_compiler_options(platform)
    return known_options(
        {
            "xla_disable_hlo_passes": "cse_barrier_expander",
            "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
        }
    )


def known_options(options: dict[str, str | bool]) -> dict[str, str | bool]:
    """Those options of the compiler that this version of XLA knows."""

    def known(option: dict[str, str | bool]) -> bool:
        try:
            jax.jit(lambda x: x, compiler_options=option).lower(0.0).compile()
        except jax.errors.JaxRuntimeError:
            return False
        return True

    return {name: value for name, value in options.items() if known({name: value})}
