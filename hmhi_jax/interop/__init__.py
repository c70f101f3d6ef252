"""PyTorch weights in and out, weight files, comparison with the authors' release."""

import importlib

_HOME = {
    "flow_from_torch": "flow_weights",
    "flow_to_torch": "flow_weights",
    "from_torch": "torch_weights",
    "load_flow_weights": "flow_files",
    "to_torch": "torch_weights",
    "load_weights": "weights_file",
    "save_weights": "weights_file",
}

__all__ = [*_HOME]


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
