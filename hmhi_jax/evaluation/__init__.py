"""Metrics and protocols; knows nothing of the network.

from hmhi_jax.evaluation import evaluate_uvos
print(evaluate_uvos("predictions", "DAVIS", protocol="davis16"))
"""

import importlib

_HOME = {
    "evaluate": "scoring",
    "evaluate_uvos": "scoring",
    "evaluate_vsod": "scoring",
    "PROTOCOLS": "protocols",
    "Protocol": "protocols",
    "Scores": "scores",
    "VideoScores": "scores",
}

__all__ = list(_HOME)


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
