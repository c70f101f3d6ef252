"""A clip through the network for training: which activations are kept for the backward pass and which recomputed."""

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from hmhi_jax.kernels.elementwise import DropoutKey
from hmhi_jax.kernels.platforms import COSTLY
from hmhi_jax.models import Features, HMHINet, frame

# "none" keeps every activation; "read_outs" recomputes the memory's read-outs and their interaction; "step" recomputes
# the encoder, frame by frame, and every frame step whole; "cheap" does as "step", but keeps what is costly.
CheckpointPolicy = Literal["none", "read_outs", "cheap", "step"]


def clip_logits(
    model: HMHINet,
    variables: Any,
    frames: Float[Array, "B T H W 3"],
    flows: Float[Array, "B T H W 3"],
    dropout_key: DropoutKey = None,
    *,
    checkpoint: CheckpointPolicy = "none",
    unroll: bool = False,
) -> tuple[Float[Array, "B T H W 1"], dict]:
    """The logits `segment_clip` gives, with a choice of what to recompute, and moved batch statistics.

    Args:
        model, variables, frames, flows, dropout_key: as for `segment_clip`.
        checkpoint: what is recomputed in the backward pass.
        unroll: write the frames out one after the other instead of scanning. Then early frames read less memory, and on
            CPU, where much of a loop's body runs on one thread, all cores work; a scan compiles once for all frames.

    Returns float32 logits, and the new `batch_stats` (empty for backbones that have none).
    """
    train = dropout_key is not None
    encode_key, step_key = jax.random.split(dropout_key) if train else (None, None)

    def rngs(key: DropoutKey) -> dict | None:
        return {"dropout": key} if train else None

    def encode(variables, frames: Array, flows: Array, key: DropoutKey):
        return model.apply(
            variables, frames, flows, train, method="encode", rngs=rngs(key), mutable=["batch_stats"]
        )  # fmt: skip

    def start(variables, maps):
        return model.apply(variables, maps, method="start")

    def read(variables, memory, maps, key: DropoutKey, written_at_most: int | None):
        return model.apply(variables, memory, maps, train, written_at_most, method="read", rngs=rngs(key))

    def finish(variables, memory, maps):
        return model.apply(variables, memory, maps, method="finish")

    def step(variables, memory, maps, key: DropoutKey, written_at_most: int | None):
        return finish(variables, memory, read(variables, memory, maps, key, written_at_most))

    by_frame = checkpoint in ("cheap", "step")
    if checkpoint == "read_outs":
        read = jax.checkpoint(read, static_argnums=4)
    elif by_frame:
        kept = _costly() if checkpoint == "cheap" else None
        encode, start, step = (
            jax.checkpoint(function, static_argnums=static, policy=kept)
            for function, static in ((encode, ()), (start, ()), (step, 4))
        )

    if by_frame and model.batch_norm == "frozen":
        # Frame by frame, so that the backward pass holds the encoder's activations of one frame at a time. (Batch
        # statistics that move are those of all frames, and need them together.)
        features = _encode_by_frame(encode, variables, frames, flows, encode_key, unroll)
        moved = {"batch_stats": variables.get("batch_stats", {})}
    else:
        features, moved = encode(variables, frames, flows, encode_key)
    memory, first = start(variables, frame(features, 0))
    steps = frames.shape[1] - 1
    keys = jax.random.split(step_key, steps) if train else None
    if unroll or steps == 0:
        logits = [first]
        for t in range(steps):
            # Written out, a frame knows how much of the banks can be filled, and reads no more of them.
            key, filled = keys[t] if train else None, min(t + 1, model.memory_frames)
            variables, memory = in_order((variables, memory))
            memory, out = step(variables, memory, frame(features, t + 1), key, filled)
            logits.append(out)
        return jnp.stack(logits, 1), dict(moved.get("batch_stats", {}))

    def body(memory, inputs):
        maps, key = inputs
        return step(variables, memory, maps, key, min(steps, model.memory_frames))

    later = tuple(jnp.moveaxis(x[:, 1:], 1, 0) for x in features)
    _, rest = lax.scan(body, memory, (later, keys))
    return jnp.concatenate([first[:, None], jnp.moveaxis(rest, 0, 1)], 1), dict(moved.get("batch_stats", {}))


def _costly() -> Any:
    """What "cheap" keeps: results marked as costly, and those of linear layers, small beside what activations,
    norms and attention weights take."""
    policies = jax.checkpoint_policies
    marked = policies.save_only_these_names(COSTLY)
    return policies.save_from_both_policies(marked, policies.dots_with_no_batch_dims_saveable)


def _encode_by_frame(encode, variables, frames: Array, flows: Array, key: DropoutKey, unroll: bool) -> Features:
    """The encoder's maps `[B, T, h, w, C]`, each frame encoded by itself by `encode`, which is recomputed."""
    time = frames.shape[1]
    keys = None if key is None else jax.random.split(key, time)

    def one(variables, inputs) -> Features:
        frame_t, flow_t, key_t = inputs
        maps, _ = encode(variables, frame_t[:, None], flow_t[:, None], key_t)
        return tuple(x[:, 0] for x in maps)

    if not unroll:
        maps = lax.map(partial(one, variables), (jnp.moveaxis(frames, 1, 0), jnp.moveaxis(flows, 1, 0), keys))
        return tuple(jnp.moveaxis(x, 0, 1) for x in maps)
    by_frame = []
    for t in range(time):
        if by_frame:
            variables, by_frame[-1] = in_order((variables, by_frame[-1]))
        by_frame.append(one(variables, (frames[:, t], flows[:, t], None if key is None else keys[t])))
    return tuple(jnp.stack(levels, 1) for levels in zip(*by_frame, strict=True))


def in_order(arrays: Any) -> Any:
    """The same arrays, through which a frame hands variables and what else it shares on to the next one.

    In the backward pass, the gradients that a later frame gives all of them are complete before an earlier frame's
    begin; left alone, a compiler puts off the sums of the parameters' gradients and keeps what they are made of, which
    is every activation of every frame.
    """
    leaves, structure = jax.tree.flatten(arrays)
    real = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    for i, leaf in zip(real, lax.optimization_barrier([leaves[i] for i in real]), strict=True):
        leaves[i] = leaf
    return jax.tree.unflatten(structure, leaves)
