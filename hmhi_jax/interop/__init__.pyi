from .flow_weights import flow_from_torch, flow_to_torch, load_flow_weights
from .torch_weights import from_torch, to_torch
from .weights import load_weights, save_weights

__all__ = [
    "flow_from_torch",
    "flow_to_torch",
    "from_torch",
    "load_flow_weights",
    "load_weights",
    "save_weights",
    "to_torch",
]
