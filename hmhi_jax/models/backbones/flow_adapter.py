"""What the flow rows get and the picture rows do not (docs/model.md 2.1); every backbone can carry it."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from hmhi_jax.models.layers import dense, norm


class FlowAdapter(nn.Module):
    """A bottleneck of half the width, LN(1e-5) first, added to what the flow rows get elsewhere."""

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "... C"]) -> Float[Array, "... D"]:
        hidden = dense(x.shape[-1] // 2, self.dtype, "down")(norm(1e-5, self.dtype, "norm")(x))
        return dense(self.features, self.dtype, "up")(jax.nn.relu(hidden))


def add_to_flow_rows(
    total: Float[Array, "N ... D"], x: Float[Array, "N ... C"], flow_rows: int, adapter: Callable[[Array], Array]
) -> Float[Array, "N ... D"]:
    """`total` with `adapter(x)` added on the flow rows: every second one, `flow_rows` in all (0: there are none)."""
    if not flow_rows:
        return total
    frames, flows = split_pairs(total, flow_rows)
    return join_pairs(frames, flows + adapter(split_pairs(x, flow_rows)[1]))


def with_adapter(x: Float[Array, "N ... C"], flow_rows: int, dtype: jnp.dtype, name: str) -> Float[Array, "N ... C"]:
    """What a block or stage ends with: its own output on the flow rows through an adapter called `name`."""
    return add_to_flow_rows(x, x, flow_rows, FlowAdapter(x.shape[-1], dtype, name=name))


def split_pairs(x: Float[Array, "N ... C"], flow_rows: int) -> tuple[Float[Array, "n ... C"], Float[Array, "n ... C"]]:
    """Rows of frames and rows of flow pictures, out of rows that alternate."""
    if x.shape[0] != 2 * flow_rows:
        raise ValueError(f"{x.shape[0]} pictures of which {flow_rows} are flow; expected pairs of frame and flow")
    pairs = x.reshape(flow_rows, 2, *x.shape[1:])
    return pairs[:, 0], pairs[:, 1]


def join_pairs(frames: Float[Array, "n ... C"], flows: Float[Array, "n ... C"]) -> Float[Array, "N ... C"]:
    """Rows that alternate: frame, flow, frame, flow, ..."""
    pairs = jnp.stack([frames, flows], 1)
    return pairs.reshape(-1, *pairs.shape[2:])
