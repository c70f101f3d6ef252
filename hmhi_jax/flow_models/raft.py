"""RAFT, recurrent all-pairs field transforms for optical flow (Teed and Deng, ECCV 2020).

Encode both pictures, correlate all pairs of pixels, and let a recurrent unit improve a flow of zero step by step by
what it finds where the flow points. `estimation.py` is the way in; the methods here are its steps:

    features, context = encode(pictures), encode_context(first)
    match, state = start(features of both, context)
    state = step(match, state)          # once per iteration, under `lax.scan`
    flow = upsample(state)
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from hmhi_jax.flow_models.correlation import LARGEST_VOLUME, Correlation, correlate, look_up
from hmhi_jax.flow_models.raft_layers import ConvGRU, FlowEncoder, Head, MotionEncoder
from hmhi_jax.kernels.platforms import compute_dtype, in_precision

SCALE = 8  # of the picture to the flow that is improved


class Match(NamedTuple):
    """What stays the same over the iterations.

    correlation   of the two pictures
    of_context    what the context adds to the gates of each GRU
    """

    correlation: Correlation
    of_context: tuple[Float[Array, "B h w _"], ...]


class FlowState(NamedTuple):
    """What an iteration changes: the GRU's hidden state, and the flow in pixels of an eighth of the size."""

    hidden: Float[Array, "B h w D"]
    flow: Float[Array, "B h w 2"]


class RAFT(nn.Module):
    """The network; `build_flow_model` has the two published ones.

    Attributes:
        channels: of the encoders' stem and three stages.
        bottleneck: whether the encoders' residual blocks are bottlenecks.
        features: channels that are correlated.
        context_norm: the context encoder's norm, "batch" or "none"; the feature encoder has instance norm.
        hidden: channels of the GRU's state.
        context: channels of the context that the GRU sees.
        radius: of the look-up, in pixels of each level.
        motion_correlation, motion_flow, motion: see `MotionEncoder`.
        gru_kernels: one GRU for each, one after the other.
        flow_head_features: hidden features of the flow head.
        convex: whether the flow is enlarged with learned weights; bilinearly if not.
        dtype: of the encoders and the update operator; correlations, flow and hidden state are float32.
        precision: of products, in the words of `jax.default_matmul_precision`; `kernels.platforms` has what belongs
            together.
        largest_volume: bytes of correlations beyond which they are looked up in pieces.
    """

    name_of_network: str
    channels: Sequence[int]
    bottleneck: bool
    features: int
    context_norm: str
    hidden: int
    context: int
    radius: int
    motion_correlation: Sequence[int]
    motion_flow: tuple[int, int]
    motion: int
    gru_kernels: Sequence[tuple[int, int]]
    flow_head_features: int
    convex: bool
    dtype: jnp.dtype = jnp.float32
    precision: str = "highest"
    largest_volume: int = LARGEST_VOLUME

    def setup(self) -> None:
        self.feature_encoder = FlowEncoder(self.channels, self.features, "instance", self.bottleneck, self.dtype)
        self.context_encoder = FlowEncoder(
            self.channels, self.hidden + self.context, self.context_norm, self.bottleneck, self.dtype
        )
        self.motion_encoder = MotionEncoder(self.motion_correlation, self.motion_flow, self.motion, self.dtype)
        self.grus = [
            ConvGRU(self.hidden, self.context, self.motion, kernel, self.dtype, name=f"gru{number}")
            for number, kernel in enumerate(self.gru_kernels, start=1)
        ]
        self.head = Head(self.flow_head_features, 2, 3, self.dtype, name="flow_head")
        if self.convex:
            self.mask_head = Head(256, 9 * SCALE**2, 1, self.dtype)

    @in_precision
    def encode(self, pictures: Float[Array, "N H W 3"]) -> Float[Array, "N h w C"]:
        """Features of pictures in [-1, 1], height and width multiples of 8."""
        return self.feature_encoder(pictures)

    @in_precision
    def encode_context(self, pictures: Float[Array, "N H W 3"]) -> Float[Array, "N h w D"]:
        """Of pictures whose flow is wanted: the first hidden state and the context, before their activations."""
        return self.context_encoder(pictures)

    @in_precision
    def start(
        self, first: Float[Array, "B h w C"], second: Float[Array, "B h w C"], context: Float[Array, "B h w D"]
    ) -> tuple[Match, FlowState]:
        """From both pictures' features and the first one's context to a flow of zero."""
        hidden = jnp.tanh(context[..., : self.hidden].astype(jnp.float32))
        inputs = jax.nn.relu(context[..., self.hidden :])
        match = Match(
            correlate(first, second, largest_volume=self.largest_volume),
            tuple(gru.of_context(inputs) for gru in self.grus),
        )
        return match, FlowState(hidden, jnp.zeros((*hidden.shape[:3], 2), jnp.float32))

    @in_precision
    def step(self, match: Match, state: FlowState) -> FlowState:
        """One iteration. As in the paper, no gradient goes through the flow that it begins with."""
        flow = lax.stop_gradient(state.flow)
        motion = self.motion_encoder(self.correlations(match, flow), flow)
        hidden = state.hidden
        for gru, of_context in zip(self.grus, match.of_context, strict=True):
            hidden = gru(hidden, of_context, motion)
        return FlowState(hidden, flow + self.head(hidden))

    @in_precision
    def correlations(self, match: Match, flow: Float[Array, "B h w 2"]) -> Float[Array, "B h w K"]:
        """What is found where the flow points."""
        height, width = flow.shape[1:3]
        grid = jnp.stack(jnp.meshgrid(jnp.arange(width), jnp.arange(height)), -1).astype(jnp.float32)
        return look_up(match.correlation, flow + grid[None], self.radius)

    @in_precision
    def upsample(self, state: FlowState) -> Float[Array, "B H W 2"]:
        """The flow of every pixel, in pixels."""
        if self.convex:
            # The factor of a quarter belongs to the published weights, which were trained with it.
            return convex_upsampling(state.flow, 0.25 * self.mask_head(state.hidden))
        return bilinear_upsampling(state.flow)

    def __call__(
        self, first: Float[Array, "B H W 3"], second: Float[Array, "B H W 3"], iterations: int = 12
    ) -> Float[Array, "B H W 2"]:
        """Flow from `first` to `second`, pictures in [-1, 1], height and width multiples of 8 from 128 up."""
        features = self.encode(jnp.concatenate([first, second]))
        match, state = self.start(*jnp.split(features, 2), self.encode_context(first))
        return self.upsample(self.refine(match, state, iterations))

    def refine(self, match: Match, state: FlowState, iterations: int) -> FlowState:
        """So many steps, as one loop."""
        if self.is_initializing():
            return self.step(match, state)
        model, variables = self.unbind()

        def step(state: FlowState, _: None) -> tuple[FlowState, None]:
            return model.apply(variables, match, state, method="step"), None

        return lax.scan(step, state, length=iterations)[0]


def convex_upsampling(flow: Float[Array, "B h w 2"], logits: Float[Array, "B h w 576"]) -> Float[Array, "B 8*h 8*w 2"]:
    """Every fine pixel's flow is a convex combination of the nine coarse vectors around it (section 3.3).

    Vectors beyond the edge are zero. `logits` are ordered by neighbour (rows first), then by row and column of the fine
    pixel in its coarse one.
    """
    batch, height, width, _ = flow.shape
    weights = jax.nn.softmax(logits.reshape(batch, height, width, 9, SCALE, SCALE), axis=3)
    padded = jnp.pad(SCALE * flow, ((0, 0), (1, 1), (1, 1), (0, 0)))
    neighbours = [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    components = []
    for component in range(2):
        terms = [n[..., component, None, None] * weights[:, :, :, k] for k, n in enumerate(neighbours)]
        components.append(sum(terms[1:], start=terms[0]))
    fine = jnp.stack(components, -1)  # [B, h, w, 8, 8, 2]
    return fine.transpose(0, 1, 3, 2, 4, 5).reshape(batch, SCALE * height, SCALE * width, 2)


@lru_cache(maxsize=64)
def _linear_matrix(size: int) -> Float[np.ndarray, "out in"]:
    position = np.arange(SCALE * size) * (size - 1) / (SCALE * size - 1)
    return np.maximum(0, 1 - np.abs(position[:, None] - np.arange(size))).astype(np.float32)


def bilinear_upsampling(flow: Float[Array, "B h w 2"]) -> Float[Array, "B 8*h 8*w 2"]:
    """Bilinear, the corner pixels of both grids on each other, as the small network was trained with."""
    rows, columns = (jnp.asarray(_linear_matrix(size)) for size in flow.shape[1:3])
    precise = jax.lax.Precision.HIGHEST
    tall = jnp.einsum("Hh,bhwc->bHwc", rows, SCALE * flow, precision=precise)
    return jnp.einsum("Ww,bHwc->bHWc", columns, tall, precision=precise)


_NETWORKS: dict[str, dict[str, Any]] = {
    "raft_large": {
        "channels": (64, 64, 96, 128), "bottleneck": False, "features": 256, "context_norm": "batch",
        "hidden": 128, "context": 128, "radius": 4,
        "motion_correlation": (256, 192), "motion_flow": (128, 64), "motion": 128,
        "gru_kernels": ((1, 5), (5, 1)), "flow_head_features": 256, "convex": True,
    },
    "raft_small": {
        "channels": (32, 32, 64, 96), "bottleneck": True, "features": 128, "context_norm": "none",
        "hidden": 96, "context": 64, "radius": 3,
        "motion_correlation": (96,), "motion_flow": (64, 32), "motion": 82,
        "gru_kernels": ((3, 3),), "flow_head_features": 128, "convex": False,
    },
}  # fmt: skip


def flow_model_names() -> list[str]:
    """All names that `build_flow_model` knows."""
    return list(_NETWORKS)


def build_flow_model(name: str, *, dtype: str | DTypeLike = "float32", largest_volume: int = LARGEST_VOLUME) -> RAFT:
    """A network of optical flow: "raft_large" (5.3 M parameters) or "raft_small" (1.0 M), as published.

    Args:
        dtype: in which the encoders and the update operator compute, "float32", "tensorfloat32" (whose maps are
            float32) or "bfloat16"; correlations, hidden state and flow are float32.
        largest_volume: bytes of all-pairs correlations beyond which they are looked up in pieces, in the same numbers
            with less memory and more time.

    Raises:
        ValueError: for another name or dtype, which lists these.
    """
    if name not in _NETWORKS:
        raise ValueError(f"unknown flow network {name!r}; known: {', '.join(_NETWORKS)}")
    maps, precision = compute_dtype(dtype)
    return RAFT(name_of_network=name, dtype=maps, precision=precision, largest_volume=largest_volume, **_NETWORKS[name])
