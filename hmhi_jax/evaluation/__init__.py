"""Metrics, protocols and the report; knows nothing of the network.

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
    "Run": "tables",
    "Scores": "scores",
    "VideoScores": "scores",
    "write_report": "report",
}

__all__ = list(_HOME)


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
