"""The network as pure functions; it knows nothing of files, videos or optimisers."""

from hmhi_jax.models.hmhi_net import Features, HMHINet, build_model, frame, segment_clip, segment_features
from hmhi_jax.models.memory import Bank, Memory

__all__ = ["Bank", "Features", "HMHINet", "Memory", "build_model", "frame", "segment_clip", "segment_features"]
