"""Encoders behind one contract, and the registry of their names.

A backbone is called with pictures `[N, H, W, 3]`, of which the last `flow_rows` are flow pictures, and returns maps at
strides 4, 8, 16 and 32.
"""

from hmhi_jax.models.backbones.registry import BackboneSpec, backbone_names, register, spec

__all__ = ["BackboneSpec", "backbone_names", "register", "spec"]
