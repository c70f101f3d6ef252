"""The colours that the object and its surroundings have had so far in a video, as evidence on every pixel of a frame.

The memory of the network carries a handful of frames; how the object looks changes more slowly than that. So two
histograms of colours are kept for a shot, of what was certainly object and of what certainly was not, and a frame's
logits are moved by the log-odds that they give to its colours: naive Bayes, with a weight, since neighbouring pixels
are no independent witnesses. The constants were chosen on training videos of DAVIS-2016 (docs/weights.md).
"""

import dataclasses
from collections.abc import Iterable, Iterator

import cv2
import numpy as np
from jaxtyping import Float, Float32, Int, UInt8

from hmhi_jax.errors import InputError
from hmhi_jax.inference.lanes import Result
from hmhi_jax.inference.pipeline import StageTimes

_BITS = (4, 6, 6)  # of lightness, and of each colour of CIE Lab
_BINS = 1 << sum(_BITS)
_KEPT = 0.95  # of what was counted, from a frame to the next
_EVEN = 0.3  # added to both histograms, which add up to 1, over all bins: colours never seen say nothing
_WEIGHT, _LARGEST = 1.5, 3.0  # of log-odds, and what they count as at most
_BIAS = 1.0  # logits by which masks are too large, seen with the colours
_ENOUGH = 250.0  # pixels of object seen, by which its colours count in full

Counts = Float32[np.ndarray, "2 bins"]


class Colours:
    """The colours of one video, frame by frame."""

    def __init__(self, counts: Counts | None = None) -> None:
        """Go on from the `counts` of an earlier one, else from nothing. Raises `InputError` if they are none."""
        empty = np.zeros((2, _BINS), np.float32)
        self.counts = empty if counts is None else counts
        if (self.counts.shape, self.counts.dtype) != (empty.shape, empty.dtype) or (self.counts < 0).any():
            found = f"{self.counts.dtype} {self.counts.shape}, expected counts, {empty.dtype} {empty.shape}"
            raise InputError(f"saved memory: its colours are {found}; start over")

    def follow(self, results: Iterable[Result], times: StageTimes) -> Iterator[Result]:
        """The results, in order; those whose masks are to be refined with `logits_by_colour`, and with `colours` in
        their states. How long it takes is added to `times`."""
        for result in results:
            if result.guide is None:
                yield result
                continue
            if result.begins_shot:
                self.counts = np.zeros_like(self.counts)
            logits = np.asarray(result.logits)  # waits for an accelerator
            with times.measure("colours"):
                changed = {"logits_by_colour": self(logits, result.picture)}
            if make_state := result.state:
                counts = self.counts
                changed["state"] = lambda make=make_state, counts=counts: dataclasses.replace(make(), colours=counts)
            yield dataclasses.replace(result, **changed)

    def __call__(
        self, logits: Float[np.ndarray, "h w"], picture: UInt8[np.ndarray, "h w 3"]
    ) -> Float32[np.ndarray, "h w"]:
        """The logits of a frame, moved by what its colours say; the frame is counted first."""
        bins, logits = _bins(picture), logits.astype(np.float32, copy=False)
        certainty = np.tanh(logits / 2)  # of object; of surroundings where negative
        object_, surroundings = np.maximum(certainty, 0), np.maximum(-certainty, 0)
        new = [np.bincount(bins.ravel(), each.ravel(), _BINS) for each in (object_, surroundings)]
        self.counts = (_KEPT * self.counts + new).astype(np.float32)
        shares = self.counts / np.maximum(self.counts.sum(1, keepdims=True), 1e-6) + _EVEN / _BINS
        log_odds = np.clip(np.log(shares[0] / shares[1]), -_LARGEST, _LARGEST)
        known = min(1.0, float(self.counts[0].sum()) / _ENOUGH)
        return logits + np.float32(known) * (np.float32(_WEIGHT) * log_odds - np.float32(_BIAS))[bins]


def _bins(picture: UInt8[np.ndarray, "h w 3"]) -> Int[np.ndarray, "h w"]:
    """In which bin of the histograms every pixel is."""
    bins = np.zeros(picture.shape[:2], np.int32)
    for channel, bits in zip(cv2.split(cv2.cvtColor(picture, cv2.COLOR_RGB2LAB)), _BITS, strict=True):
        bins = bins << bits | channel >> (8 - bits)
    return bins
