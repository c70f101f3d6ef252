"""HMHI-Net in JAX/Flax: unsupervised video object segmentation with hierarchical memory.

    import hmhi_jax as hmhi
    segmenter = hmhi.VideoSegmenter.load("small")
    for mask in segmenter.stream(frames): ...

`__init__.pyi` lists the public names. They are imported when first used: reading a command's help must not wait for
JAX.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
