"""Losses, train state and step, mesh, checkpoints, the loop."""
