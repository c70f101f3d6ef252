"""The GRU's convolutions."""

from jaxtyping import Array, Float

from hmhi_jax.kernels.conv3x3 import conv3x3
from hmhi_jax.kernels.convolution import same_conv


def gate_conv(x: Float[Array, "B H W C"], kernel: Float[Array, "kh kw C D"]) -> Float[Array, "B H W D"]:
    """Stride 1, zero padding that keeps the size, for kernels of 3x3, 1x5 and 5x1."""
    return conv3x3(x, kernel) if kernel.shape[:2] == (3, 3) else same_conv(x, kernel)
