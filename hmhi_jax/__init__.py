"""HMHI-Net in JAX/Flax: unsupervised video object segmentation with hierarchical memory.

    import hmhi_jax as hmhi
    segmenter = hmhi.VideoSegmenter.load("tiny")
    for mask in segmenter.stream(frames): ...

Names are imported when first used: reading a command's help must not wait for JAX.
"""

import importlib

__version__ = "0.1.0"

_HOME = {  # public name -> module that defines it
    "HMHINet": "hmhi_jax.models.hmhi_net",
    "Memory": "hmhi_jax.models.memory",
    "build_flow_model": "hmhi_jax.flow_models",
    "build_model": "hmhi_jax.models",
    "estimate_flow": "hmhi_jax.flow_models",
    "segment_clip": "hmhi_jax.models",
    "VideoSegmenter": "hmhi_jax.inference.segmenter",
    "InputError": "hmhi_jax.errors",
}
_ROOMS = ("models", "flow_models", "data", "training", "inference", "evaluation", "interop")

__all__ = [*_HOME, *_ROOMS, "__version__"]


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in _ROOMS:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
