"""Losses, train state and step, mesh, checkpoints, the loop."""

import importlib

_MODULES = ("losses",)

__all__ = [*_MODULES]


def __getattr__(name: str):
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
