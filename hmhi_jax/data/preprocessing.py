"""From an 8-bit picture to the network's input (docs/model.md 1), and which sizes that may have."""

from numbers import Integral

import numpy as np
from jaxtyping import Array, Float, UInt8
from PIL import Image

from hmhi_jax.errors import InputError
from hmhi_jax.imagenet import IMAGENET_MEAN, IMAGENET_STD

STRIDE = 32  # the network's coarsest map
MOST_EVERY = 16  # of `checked_every`
MOST_PIXELS = 2**24  # of the network's input, half of 8K video; its maps take some 400 bytes a pixel on a CPU


def checked_size(size: object) -> tuple[int, int]:
    """(height, width) of a person's or a file's `size`, one number standing for both, if they are multiples of 32, else
    an `InputError`."""
    pair = (size, size) if isinstance(size, int) else size
    sides = pair if isinstance(pair, tuple | list) else ()
    if len(sides) != 2 or not all(isinstance(s, Integral) and s >= STRIDE and s % STRIDE == 0 for s in sides):
        text = " x ".join(map(str, sides)) if sides else str(pair)
        raise InputError(
            f"network size is {text[:60]} (height x width), expected two multiples of {STRIDE}, such as 512 x 512"
        )
    height, width = int(sides[0]), int(sides[1])
    if height * width > MOST_PIXELS:
        raise InputError(
            f"network size is {height} x {width} (height x width), expected at most {MOST_PIXELS >> 20} megapixels, "
            "such as 4096 x 4096"
        )
    return height, width


def checked_every(every: object) -> int:
    """A person's or a file's word that the network looks at every so many frames, if it is a number from 1 to 16, else
    an `InputError`."""
    if isinstance(every, bool) or not isinstance(every, Integral) or not 1 <= every <= MOST_EVERY:
        raise InputError(f"every is {str(every)[:60]}, expected a number of frames, from 1 to {MOST_EVERY}")
    return int(every)


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
