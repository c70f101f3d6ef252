"""Streaming segmentation of long videos, and the writers of its results."""

import importlib

_HOME = {  # imported when first used, since they import JAX
    "VideoSegmenter": "hmhi_jax.inference.segmenter",
    "MaskStream": "hmhi_jax.inference.segmenter",
    "StreamState": "hmhi_jax.inference.stream_state",
}
__all__ = list(_HOME)


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
