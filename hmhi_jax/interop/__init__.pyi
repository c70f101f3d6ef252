from .torch_weights import from_torch, to_torch
from .weights import load_weights, save_weights

__all__ = [
    "from_torch",
    "load_weights",
    "save_weights",
    "to_torch",
]
