from .segmenter import MaskStream, VideoSegmenter
from .stream_state import StreamState

__all__ = [
    "MaskStream",
    "StreamState",
    "VideoSegmenter",
]
