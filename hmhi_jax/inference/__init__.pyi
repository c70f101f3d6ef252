from .clean_up import CleanUp, clean_up
from .objects import track_objects
from .segmenter import MaskStream, VideoSegmenter
from .stream_state import StreamState

__all__ = [
    "CleanUp",
    "MaskStream",
    "StreamState",
    "VideoSegmenter",
    "clean_up",
    "track_objects",
]
