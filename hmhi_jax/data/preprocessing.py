"""From an 8-bit picture to the network's input (MODEL.md 1)."""

import numpy as np
from jaxtyping import Array, Float, UInt8
from PIL import Image

from hmhi_jax.imagenet import IMAGENET_MEAN, IMAGENET_STD


def resize_picture(picture: UInt8[np.ndarray, "H W 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
    """Resize an RGB picture to `size` = (height, width) with Pillow's bilinear filter, as the release does."""
    height, width = size
    if picture.shape[:2] == (height, width):
        return picture
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR))


def normalise(
    pictures: UInt8[Array, "*batch H W 3"] | UInt8[np.ndarray, "*batch H W 3"],
) -> Float[Array, "*batch H W 3"]:
    """Scale 8-bit RGB to [0, 1] and normalise with ImageNet's mean and deviation, in float32, on device."""
    import jax.numpy as jnp

    rank = (1,) * (pictures.ndim - 1)
    mean, std = (jnp.asarray(values, jnp.float32).reshape(*rank, 3) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (jnp.asarray(pictures).astype(jnp.float32) / 255 - mean) / std
