from .protocols import PROTOCOLS, Protocol
from .scores import Scores, VideoScores
from .scoring import evaluate, evaluate_uvos, evaluate_vsod

__all__ = [
    "PROTOCOLS",
    "Protocol",
    "Scores",
    "VideoScores",
    "evaluate",
    "evaluate_uvos",
    "evaluate_vsod",
]
