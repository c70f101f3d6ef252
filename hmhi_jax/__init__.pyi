from . import data, evaluation, inference, interop, models, training
from .errors import InputError
from .inference.segmenter import VideoSegmenter
from .models.hmhi_net import HMHINet, build_model, segment_clip
from .models.memory import Memory

__version__: str

__all__ = [
    "HMHINet",
    "InputError",
    "Memory",
    "VideoSegmenter",
    "build_model",
    "data",
    "evaluation",
    "inference",
    "interop",
    "models",
    "segment_clip",
    "training",
]
