"""PyTorch weights in and out, weight files of every kind."""

import importlib

_HOME = {
    "from_torch": "torch_weights",
    "to_torch": "torch_weights",
    "load_weights": "weights",
    "save_weights": "weights",
}

__all__ = [*_HOME]


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
