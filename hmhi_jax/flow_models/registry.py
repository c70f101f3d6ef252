"""The published RAFT networks by name."""

from typing import Any

from jax.typing import DTypeLike

from hmhi_jax.flow_models.correlation import LARGEST_VOLUME
from hmhi_jax.flow_models.raft import RAFT
from hmhi_jax.kernels.precision import compute_dtype

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
