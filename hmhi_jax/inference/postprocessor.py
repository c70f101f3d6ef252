"""From the network's word on a frame to its final mask: nothing there, clean-up, objects. Saved with the stream."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from hmhi_jax.inference.carrying import Follower
from hmhi_jax.inference.clean_up import Steadiness
from hmhi_jax.inference.confidence import Lately
from hmhi_jax.inference.lanes import Result
from hmhi_jax.inference.masks import read_result
from hmhi_jax.inference.objects import ObjectTracker
from hmhi_jax.inference.postprocessing import Postprocessing


class Read(NamedTuple):
    """A frame on its own: the network's word, the picture at any size of its shape, its mask, and log-odds of something
    that moves in it."""

    result: Result
    picture: UInt8[np.ndarray, "h w 3"]
    mask: UInt8[np.ndarray, "H W"]
    log_odds: float | None


class Finished(NamedTuple):
    """A frame with its final mask; labels where objects are numbered; confidence where it is calibrated.

    `saved` is what `Postprocessor.restore` takes, at frames after which the stream can go on.
    """

    result: Result
    mask: UInt8[np.ndarray, "H W"]
    labels: UInt8[np.ndarray, "H W"] | None
    confidence: float | None
    nothing: bool
    saved: tuple[dict[str, np.ndarray], dict[str, Any]] | None


class Postprocessor:
    """Follows one video. `read` may be called from several threads and for any frame, `follow` for each in order."""

    def __init__(self, options: Postprocessing, threshold: float) -> None:
        self._options, self._threshold = options, threshold
        self._lately, self._follow = Lately(), Follower()
        self._steady = Steadiness(options.clean_up) if options.clean_up.steady else None
        self._objects = ObjectTracker(options.objects) if options.objects else None

    def read(self, result: Result, picture: UInt8[np.ndarray, "h w 3"]) -> Read:
        """What concerns one frame alone."""
        mask = self._options.clean_up.frame(read_result(result, "mask", self._threshold))
        calibration = self._options.calibration
        return Read(result, picture, mask, calibration and calibration.log_odds(np.asarray(result.logits), result.flow))

    def follow(self, read: Read) -> Finished:
        """What depends on the frames before."""
        result, picture, mask, log_odds = read
        if result.begins_shot:
            self._lately = Lately()
            self._follow.cut()
        confidence, nothing = None, False
        if log_odds is not None and self._options.calibration:
            confidence = float(1 / (1 + np.exp(-log_odds)))
            nothing = self._lately(log_odds) < self._options.calibration.nothing_below
        if nothing:
            mask = np.zeros_like(mask)
        labels = None
        if self._steady or self._objects:
            motion = self._follow(picture)
            if self._steady:
                mask = self._steady(mask, motion)
            if nothing:  # whatever is left of the frames before
                mask = np.zeros_like(mask)
            if self._objects:
                labels = self._objects(mask, motion)
        return Finished(result, mask, labels, confidence, nothing, self._state() if result.state else None)

    def objects(self, names: list[str]) -> list[dict[str, Any]]:
        """A line for each object, with `names` of all frames so far; none where none are numbered."""
        return (
            []
            if self._objects is None
            else [
                {**line, "first": names[line["first"]], "last": names[line["last"]]} for line in self._objects.objects()
            ]
        )

    def _state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        arrays, objects = self._objects.state() if self._objects else ({}, None)
        arrays = arrays | self._follow.state() | (self._steady.state() if self._steady else {})
        return arrays, {"lately": self._lately.log_odds, "objects": objects}

    def restore(self, arrays: dict[str, np.ndarray], note: dict[str, Any]) -> None:
        """Go on after the frame that came with these as `saved`."""
        self._lately.log_odds = note["lately"]
        self._follow.restore(arrays)
        if self._steady:
            self._steady.restore(arrays)
        if self._objects:
            self._objects.restore(arrays, note["objects"])
