"""A clip through the network for training: which activations are kept for the backward pass and which recomputed."""

from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from hmhi_jax.models import Features, HMHINet, frame
from hmhi_jax.models.attention import DropoutKey

# "none" keeps every activation; "read_outs" recomputes the memory's read-outs and their interaction; "step" recomputes
# the encoder, frame by frame, and every frame step whole.
CheckpointPolicy = Literal["none", "read_outs", "step"]


def clip_logits(
    model: HMHINet,
    variables,
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
        unroll: write the frames out one after the other instead of scanning. On CPU much of a loop's body runs on one
            thread; on accelerators a scan compiles once for all frames.

    Returns:
        float32 logits, and the new `batch_stats` (empty for backbones that have none).
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

    if checkpoint == "read_outs":
        read = jax.checkpoint(read, static_argnums=4)
    elif checkpoint == "step":
        encode, start, step = jax.checkpoint(encode), jax.checkpoint(start), jax.checkpoint(step, static_argnums=4)

    if checkpoint == "step" and model.batch_norm == "frozen":
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
            memory, out = step(variables, memory, frame(features, t + 1), key, filled)
            logits.append(out)
        return jnp.stack(logits, 1), dict(moved.get("batch_stats", {}))

    def body(memory, inputs):
        maps, key = inputs
        return step(variables, memory, maps, key, None)

    later = tuple(jnp.moveaxis(x[:, 1:], 1, 0) for x in features)
    _, rest = lax.scan(body, memory, (later, keys))
    return jnp.concatenate([first[:, None], jnp.moveaxis(rest, 0, 1)], 1), dict(moved.get("batch_stats", {}))


def _encode_by_frame(encode, variables, frames: Array, flows: Array, key: DropoutKey, unroll: bool) -> Features:
    """The encoder's maps `[B, T, h, w, C]`, each frame encoded by itself by `encode`, which is recomputed."""
    time = frames.shape[1]
    keys = None if key is None else jax.random.split(key, time)

    def one(inputs) -> Features:
        frame_t, flow_t, key_t = inputs
        maps, _ = encode(variables, frame_t[:, None], flow_t[:, None], key_t)
        return tuple(x[:, 0] for x in maps)

    if not unroll:
        maps = lax.map(one, (jnp.moveaxis(frames, 1, 0), jnp.moveaxis(flows, 1, 0), keys))
        return tuple(jnp.moveaxis(x, 0, 1) for x in maps)
    by_frame = [one((frames[:, t], flows[:, t], None if key is None else keys[t])) for t in range(time)]
    return tuple(jnp.stack(levels, 1) for levels in zip(*by_frame, strict=True))
