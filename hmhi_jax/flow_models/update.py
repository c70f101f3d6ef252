"""RAFT's update operator: motion features, a convolutional GRU, and the next step of the flow (section 3.3)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from hmhi_jax.flow_models.encoders import conv
from hmhi_jax.kernels.conv3x3 import conv3x3
from hmhi_jax.kernels.convolution import same_conv
from hmhi_jax.models.layers import KernelAndBias, torch_kernel


class MotionEncoder(nn.Module):
    """Correlations and flow, each through convolutions of its own, then together; the flow itself is put behind.

    `correlation` has the features of the one or two convolutions of correlations, 1x1 and 3x3.
    """

    correlation: Sequence[int]
    flow: tuple[int, int]
    outputs: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, correlation: Float[Array, "B h w K"], flow: Float[Array, "B h w 2"]) -> Float[Array, "B h w D"]:
        seen = correlation.astype(self.dtype)
        for number, (features, kernel) in enumerate(zip(self.correlation, (1, 3), strict=False), start=1):
            seen = jax.nn.relu(conv(features, kernel, dtype=self.dtype, name=f"correlation{number}")(seen))
        moved = flow.astype(self.dtype)
        for number, (features, kernel) in enumerate(zip(self.flow, (7, 3), strict=True), start=1):
            moved = jax.nn.relu(conv(features, kernel, dtype=self.dtype, name=f"flow{number}")(moved))
        both = jnp.concatenate([seen, moved], -1)
        fused = jax.nn.relu(conv(self.outputs - 2, 3, dtype=self.dtype, name="fuse")(both))
        return jnp.concatenate([fused, flow.astype(self.dtype)], -1)


def gate_conv(x: Float[Array, "B H W C"], kernel: Float[Array, "kh kw C D"]) -> Float[Array, "B H W D"]:
    """A gate's convolution: stride 1, zero padding that keeps the size, for kernels of 3x3, 1x5 and 5x1."""
    return conv3x3(x, kernel) if kernel.shape[:2] == (3, 3) else same_conv(x, kernel)


class ConvGRU(nn.Module):
    """`z, r = sigmoid(conv([h, x])); q = tanh(conv([r h, x])); h' = (1 - z) h + z q`, x being context and motion.

    The context is the same in all iterations: its part of the three convolutions is computed once, by `of_context`.
    """

    hidden: int
    context: int
    motion: int
    kernel: tuple[int, int]
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        shape = (*self.kernel, self.hidden + self.context + self.motion, self.hidden)
        self.update_gate, self.reset_gate, self.candidate = (
            KernelAndBias(shape, self.dtype, torch_kernel, name=name)
            for name in ("update_gate", "reset_gate", "candidate")
        )

    def _kernels(self) -> tuple[Array, Array]:
        """Kernels and biases of update gate, reset gate and candidate, side by side."""
        kernels, biases = zip(self.update_gate(), self.reset_gate(), self.candidate(), strict=True)
        return jnp.concatenate(kernels, -1), jnp.concatenate(biases)

    def of_context(self, context: Float[Array, "B h w C"]) -> Float[Array, "B h w _"]:
        """What the context adds to both gates and the candidate, biases included."""
        kernel, bias = self._kernels()
        part = kernel[:, :, self.hidden : self.hidden + self.context]
        return gate_conv(context.astype(self.dtype), part) + bias[None, None, None]

    def __call__(
        self, hidden: Float[Array, "B h w D"], of_context: Float[Array, "B h w _"], motion: Float[Array, "B h w M"]
    ) -> Float[Array, "B h w D"]:
        kernel, _ = self._kernels()
        width = self.hidden
        # Without the context's part, state and motion side by side: two convolutions, where sums would take three.
        kernel = jnp.concatenate([kernel[:, :, :width], kernel[:, :, width + self.context :]], 2)

        def convolved(state: Array, part: Array) -> Array:
            return gate_conv(jnp.concatenate([state.astype(self.dtype), motion], -1), part)

        gates = of_context[..., : 2 * width] + convolved(hidden, kernel[..., : 2 * width])
        update, reset = jnp.split(jax.nn.sigmoid(gates.astype(jnp.float32)), 2, -1)
        candidate = of_context[..., 2 * width :] + convolved(reset * hidden, kernel[..., 2 * width :])
        return (1 - update) * hidden + update * jnp.tanh(candidate.astype(jnp.float32))


class FlowHead(nn.Module):
    """What the flow changes by, from the GRU's state."""

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, hidden: Float[Array, "B h w D"]) -> Float[Array, "B h w 2"]:
        x = jax.nn.relu(conv(self.features, 3, dtype=self.dtype, name="hidden")(hidden.astype(self.dtype)))
        return conv(2, 3, dtype=self.dtype, name="output")(x).astype(jnp.float32)


class MaskHead(nn.Module):
    """Logits of the weights with which a fine pixel takes its flow from nine coarse ones: `[B, h, w, 9 * 8 * 8]`.

    The factor of a quarter belongs to the published weights, which were trained with it.
    """

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, hidden: Float[Array, "B h w D"]) -> Float[Array, "B h w 576"]:
        x = jax.nn.relu(conv(256, 3, dtype=self.dtype, name="hidden")(hidden.astype(self.dtype)))
        return 0.25 * conv(576, 1, dtype=self.dtype, name="output")(x).astype(jnp.float32)
