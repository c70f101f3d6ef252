"""From logits at the network's size to 8-bit pictures at the frames' (docs/model.md 8)."""

import functools
import math
from types import ModuleType
from typing import Any, Literal

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from hmhi_jax.inference.lanes import Result
from hmhi_jax.inference.refinement import refine

Reading = Literal["mask", "plain", "release"]
Logits = Float[np.ndarray | Array, "h w"]


def read_result(result: Result, reading: Reading, threshold: float = 0.5) -> UInt8[np.ndarray, "H W"]:
    """As `read_logits`, of a frame's result: of its refined logits where it has a guide."""
    logits = result.logits if result.guide is None else refine(np.asarray(result.logits), *result.guide)
    return read_logits(logits, result.size, reading, threshold)


def read_logits(
    logits: Logits, size: tuple[int, int], reading: Reading, threshold: float = 0.5
) -> UInt8[np.ndarray, "H W"]:
    """8-bit values of a frame at (height, width).

    Logits are resized bilinearly with half-pixel centres and no antialiasing; where they are still on an accelerator,
    it does all the work.

    Args:
        logits: of the frame, at the network's size.
        size: (height, width) of the result.
        reading: "mask" is 255 where the probability is above `threshold`, else 0. "plain" is the probability times
            255, rounded. "release" stretches the frame's probabilities to 0..1 first and rounds down, in float32,
            exactly as the release saves them.
        threshold: see "mask".
    """
    bound = math.log(threshold / (1 - threshold))  # the sigmoid is monotonous: compare logits
    if isinstance(logits, np.ndarray):
        resized = cv2.resize(logits, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
        return _values(resized, reading, bound, np)
    return np.asarray(_read_on_device(logits, size, reading, bound))


def _values(logits: Any, reading: Reading, bound: Any, numpy: ModuleType) -> Any:
    if reading == "mask":
        return (logits > bound).astype(np.uint8) * np.uint8(255)
    probability = np.float32(1) / (np.float32(1) + numpy.exp(-numpy.clip(logits, -80, 80)))
    if reading == "plain":
        return numpy.rint(probability * np.float32(255)).astype(np.uint8)
    low, high = probability.min(), probability.max()
    stretched = (probability - low) / (high - low + np.float32(1e-8))
    return (stretched * np.float32(255)).astype(np.uint8)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _read_on_device(logits: Float[Array, "h w"], size: tuple[int, int], reading: Reading, bound: Any) -> Any:
    return _values(jax.image.resize(logits, size, "linear", antialias=False), reading, bound, jnp)
