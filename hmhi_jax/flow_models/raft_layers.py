"""RAFT's layers (Teed and Deng, ECCV 2020): the encoders, of stride 8 (appendix), and the update operator (section
3.3), which is motion features, a convolutional GRU and what is read from its state."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from hmhi_jax.kernels.conv3x3 import conv3x3
from hmhi_jax.kernels.convolution import flax_stem_conv, same_conv
from hmhi_jax.kernels.elementwise import instance_norm
from hmhi_jax.models.layers import BatchNorm, Conv3x3, KernelAndBias, he_fan_out, torch_kernel
from hmhi_jax.models.layers import conv as any_conv

STRIDES = (1, 2, 2)  # of the three stages; the stem has stride 2 as well


def conv(features: int, kernel: int, *, stride: int = 1, dtype: DTypeLike, name: str) -> nn.Module:
    """A convolution with bias and zero padding of half the kernel."""
    if kernel == 3 and stride == 1:
        return Conv3x3(features, dtype, he_fan_out, name=name)
    return any_conv(features, kernel, stride=stride, dtype=dtype, kernel_init=he_fan_out, name=name)


class Norm(nn.Module):
    """The norm an encoder has: "instance", "batch" (by its running statistics), or "none"."""

    kind: str
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"]) -> Float[Array, "N H W C"]:
        if self.kind == "instance":
            return instance_norm(x)
        if self.kind == "batch":
            return BatchNorm(updated=False, dtype=self.dtype, name="batch")(x, train=False)
        return x


class ResidualBlock(nn.Module):
    """Convolutions, each followed by norm and ReLU, added to the input (projected where the stride is not 1).

    With `bottleneck` they are 1x1 to a quarter of the channels, 3x3 with the stride, and 1x1 back; otherwise two of
    3x3, the first with the stride.
    """

    features: int
    stride: int
    norm: str
    bottleneck: bool
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"]) -> Float[Array, "N h w D"]:
        inner = self.features // 4
        layers = (
            ((inner, 1, 1), (inner, 3, self.stride), (self.features, 1, 1))
            if self.bottleneck
            else ((self.features, 3, self.stride), (self.features, 3, 1))
        )
        y = x
        for number, (features, kernel, stride) in enumerate(layers, start=1):
            y = conv(features, kernel, stride=stride, dtype=self.dtype, name=f"conv{number}")(y)
            y = jax.nn.relu(Norm(self.norm, self.dtype, name=f"norm{number}")(y))
        if self.stride != 1:
            x = conv(self.features, 1, stride=self.stride, dtype=self.dtype, name="downsample")(x)
            x = Norm(self.norm, self.dtype, name="downsample_norm")(x)
        return jax.nn.relu(x + y)


class FlowEncoder(nn.Module):
    """A stem of 7x7 with stride 2, three stages of two residual blocks, and a 1x1 convolution.

    Attributes:
        channels: of the stem and the three stages.
        outputs: channels of the result.
        norm: "instance", "batch" or "none".
        bottleneck: see `ResidualBlock`.
    """

    channels: Sequence[int]
    outputs: int
    norm: str
    bottleneck: bool
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, pictures: Float[Array, "N H W 3"]) -> Float[Array, "N h w D"]:
        stem, *stages = self.channels
        x = nn.Conv(
            stem, (7, 7), 2, dtype=self.dtype, kernel_init=he_fan_out, conv_general_dilated=flax_stem_conv, name="stem"
        )(pictures.astype(self.dtype))
        x = jax.nn.relu(Norm(self.norm, self.dtype, name="stem_norm")(x))
        for stage, (features, stride) in enumerate(zip(stages, STRIDES, strict=True), start=1):
            for block, its_stride in enumerate((stride, 1)):
                name = f"stage{stage}_block{block}"
                x = ResidualBlock(features, its_stride, self.norm, self.bottleneck, self.dtype, name=name)(x)
        return conv(self.outputs, 1, dtype=self.dtype, name="head")(x)


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


class Head(nn.Module):
    """What is read from the GRU's state by a convolution of 3x3 and another, in float32."""

    features: int
    outputs: int
    kernel: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, hidden: Float[Array, "B h w D"]) -> Float[Array, "B h w E"]:
        x = jax.nn.relu(conv(self.features, 3, dtype=self.dtype, name="hidden")(hidden.astype(self.dtype)))
        return conv(self.outputs, self.kernel, dtype=self.dtype, name="output")(x).astype(jnp.float32)
