"""Streaming segmentation of long videos, and the writers of its results."""
