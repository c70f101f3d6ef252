"""The release's loss (docs/model.md 7)."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

Masks = Float[Array | np.ndarray, "B T H W 1"]

FOCAL_ALPHA = 0.25
FOCAL_GAMMA = 2.0
DICE_SMOOTH = 1e-5
MAP_WEIGHT = 20.0  # of focal + BCE_WEIGHT * bce, against dice
BCE_WEIGHT = 0.5


def frame_losses(logits: Float[Array, "B T H W 1"], masks: Masks) -> dict[str, Float[Array, "B T"]]:
    """Focal and binary cross-entropy of every frame of every clip, means over the frame's pixels, and its dice loss.

    Args:
        logits: float32.
        masks: 0 or 1 (anything between is a soft target).
    """
    probability = jax.nn.sigmoid(logits)
    # log sigmoid(x) and log(1 - sigmoid(x)) straight from the logits: no probability is rounded to 0 or 1 first.
    log_p, log_not_p = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    cross_entropy = -(masks * log_p + (1 - masks) * log_not_p)
    miss = probability + masks - 2 * probability * masks  # 1 - p where the mask is 1, p where it is 0
    balance = FOCAL_ALPHA * masks + (1 - FOCAL_ALPHA) * (1 - masks)
    focal = balance * miss**FOCAL_GAMMA * cross_entropy

    pixels = (2, 3, 4)
    overlap, area = (probability * masks).sum(pixels), probability.sum(pixels) + masks.sum(pixels)
    return {
        "focal": focal.mean(pixels),
        "bce": cross_entropy.mean(pixels),
        "dice": 1 - (2 * overlap + DICE_SMOOTH) / (area + DICE_SMOOTH),
    }


def clip_losses(
    terms: dict[str, Float[Array, "B T"]],
    valid: Bool[Array | np.ndarray, "B T"] | None = None,
    map_weight: float | int = MAP_WEIGHT,
) -> Float[Array, "B"]:
    """`map_weight * (focal + bce / 2) + dice` of what `frame_losses` gives, summed over the frames of a clip. `valid`:
    frames whose mask is known (sparse annotation); the others count nothing. None: all are."""
    total = map_weight * (terms["focal"] + BCE_WEIGHT * terms["bce"]) + terms["dice"]
    if valid is not None:  # not a product: a non-finite loss of an unannotated frame must not count either
        total = jnp.where(valid, total, 0.0)
    return total.sum(1)


def segmentation_loss(
    logits: Float[Array, "B T H W 1"], masks: Masks, valid: Bool[Array | np.ndarray, "B T"] | None = None
) -> Float[Array, ""]:
    """`20 * (focal + bce / 2) + dice` per frame, summed over the frames of a clip, mean over the batch.

    Args:
        logits: float32.
        masks: 0 or 1.
        valid: as in `clip_losses`.
    """
    return clip_losses(frame_losses(logits, masks), valid).mean()
