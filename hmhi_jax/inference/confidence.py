"""How sure it is that something moves by itself in a frame, from what the network says and what the flow shows.

A logistic model of a few measures of a frame, whose constants were fitted to made-up clips that no training saw: with
something that moves, and without (`benchmarks/confidence.py`). They belong to one set of weights and lie beside them.
"""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from hmhi_jax.complete_files import readable, sha256_of
from hmhi_jax.errors import InputError

MEASURES = ("strongest", "area", "unsure", "motion inside", "motion outside", "fastest")


def frame_measures(logits: Float[np.ndarray, "h w"], flow: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "6"]:
    """The `MEASURES` of a frame.

    strongest       99.5th percentile of the logits, at most 10 either way
    area            tens logarithm of the expected share of object pixels, at least -4
    unsure          expected share of wrong pixels, relative to the object's
    motion inside   mean saturation of the flow picture (0 nothing moves, 1 full colour) over the object
    motion outside  the same over the rest
    fastest         99th percentile of the saturation

    Args:
        logits: at the network's size.
        flow: the flow picture, as the weights want it.
    """
    clipped = np.clip(logits, -10, 10)
    probability = 1 / (1 + np.exp(-clipped))
    channels = cv2.split(cv2.resize(flow, logits.shape[::-1], interpolation=cv2.INTER_AREA))
    moving = 1 - np.minimum.reduce(channels) / np.float32(255)
    inside, outside = float(probability.sum()) + 1e-3, float((1 - probability).sum()) + 1e-3
    return np.array([
        np.percentile(clipped, 99.5),
        np.log10(max(inside / probability.size, 1e-4)),
        float(np.minimum(probability, 1 - probability).sum()) / inside,
        float((probability * moving).sum()) / inside,
        float(((1 - probability) * moving).sum()) / outside,
        np.percentile(moving, 99),
    ], np.float32)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Calibration:
    """The constants of a set of weights, as `benchmarks/confidence.py` measured them.

    coefficients  of the `MEASURES`
    intercept     so that a frame's log-odds are `intercept + coefficients @ measures`
    nothing_below log-odds below which, lately, a frame shows nothing that moves by itself
    """

    coefficients: tuple[float, ...]
    intercept: float
    nothing_below: float

    def log_odds(self, logits: Float[np.ndarray, "h w"], flow: UInt8[np.ndarray, "h w 3"]) -> float:
        """Of something that moves by itself in a frame; see `frame_measures`."""
        return self.intercept + float(np.dot(frame_measures(logits, flow), self.coefficients))

    def to_json(self, weights: Path, measured: dict[str, Any]) -> str:
        """What `read_calibration` reads; `measured` says how the constants came about."""
        fields = {
            "weights": sha256_of(weights), "measures": dict(zip(MEASURES, self.coefficients, strict=True)),
            "intercept": self.intercept, "nothing_below": self.nothing_below, "measured": measured,
        }  # fmt: skip
        return json.dumps(fields, indent=1) + "\n"


def calibration_file(weights: Path) -> Path:
    """Where the calibration of a weights file lies: beside it, under its name with another ending."""
    return weights.with_suffix(".confidence.json")


def read_calibration(weights: Path) -> Calibration | None:
    """The calibration of a weights file; None if there is none, or one of a file with other contents.

    Raises `InputError` if the file beside the weights is no calibration.
    """
    path = calibration_file(weights)
    if not weights.is_file() or not path.is_file():
        return None
    with readable(path):
        text = path.read_text(encoding="utf-8", errors="replace")
    try:
        fields = json.loads(text)
        digest, measures = fields["weights"], fields["measures"]
        calibration = Calibration(
            tuple(float(measures[name]) for name in MEASURES),
            float(fields["intercept"]),
            float(fields["nothing_below"]),
        )
        if not all(map(math.isfinite, (*calibration.coefficients, calibration.intercept, calibration.nothing_below))):
            raise ValueError("numbers that are not finite")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{path}: is no calibration of the confidence ({error!r}); delete it, or measure anew"
        ) from error
    return calibration if digest == sha256_of(weights) else None


class Lately:
    """Whether something has moved by itself lately: rises with a frame at once, and forgets in about twenty frames, so
    that an object that stands still for a moment, or is hidden, is not given up."""

    FORGETS = 0.05  # a frame

    def __init__(self) -> None:
        self.log_odds: float | None = None

    def __call__(self, log_odds: float) -> float:
        """Take the next frame's in, and tell those of late."""
        before = log_odds if self.log_odds is None else self.log_odds
        self.log_odds = max(log_odds, before + self.FORGETS * (log_odds - before))
        return self.log_odds
