"""Metrics and protocols; knows nothing of the network.

from hmhi_jax.evaluation import evaluate_uvos
print(evaluate_uvos("predictions", "DAVIS", protocol="davis16"))
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
