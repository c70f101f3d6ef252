"""Losses, train state and step, mesh, checkpoints, the loop."""

from hmhi_jax.training import losses

__all__ = ["losses"]
