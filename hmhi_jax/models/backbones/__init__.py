"""Encoders behind one contract, and the registry of their names.

A backbone is called with pictures `[N, H, W, 3]` in which frame and flow picture alternate (N = 2 `flow_rows`; with
`flow_rows` 0 there are frames alone), and returns maps at strides 4, 8, 16 and 32. Pairs stay together so that a batch
split over devices is split between pairs, and no device needs another's maps.
"""

from hmhi_jax.models.backbones.registry import BackboneSpec, backbone_names, described, register, spec

__all__ = ["BackboneSpec", "backbone_names", "described", "register", "spec"]
