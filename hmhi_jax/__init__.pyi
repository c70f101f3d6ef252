from . import data, evaluation, flow_models, inference, interop, models, training
from .errors import InputError
from .flow_models import build_flow_model, estimate_flow
from .inference.segmenter import VideoSegmenter
from .models.hmhi_net import HMHINet, build_model, segment_clip
from .models.memory import Memory

__version__: str

__all__ = [
    "HMHINet",
    "InputError",
    "Memory",
    "VideoSegmenter",
    "build_flow_model",
    "build_model",
    "data",
    "estimate_flow",
    "evaluation",
    "flow_models",
    "inference",
    "interop",
    "models",
    "segment_clip",
    "training",
]
