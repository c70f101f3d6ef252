"""Parameters of a layer without the layer."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float


class KernelAndBias(nn.Module):
    """Parameters named and drawn as those of a Flax layer, for formulations that apply them themselves."""

    shape: tuple[int, ...]
    dtype: jnp.dtype
    kernel_init: nn.initializers.Initializer
    bias_init: nn.initializers.Initializer = nn.initializers.zeros

    @nn.compact
    def __call__(self) -> tuple[Float[Array, "*in D"], Float[Array, "D"]]:
        kernel = self.param("kernel", self.kernel_init, self.shape, jnp.float32)
        bias = self.param("bias", self.bias_init, self.shape[-1:], jnp.float32)
        return kernel.astype(self.dtype), bias.astype(self.dtype)
