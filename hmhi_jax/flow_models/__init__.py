"""Learned optical flow: RAFT (Teed and Deng, ECCV 2020) as pure functions; it knows nothing of files or recipes."""

from hmhi_jax.flow_models.estimation import estimate_flow, forward_and_backward_flow
from hmhi_jax.flow_models.raft import RAFT, build_flow_model, flow_model_names

__all__ = ["RAFT", "build_flow_model", "estimate_flow", "flow_model_names", "forward_and_backward_flow"]
