"""Overlays of the report: prediction, truth and difference of a frame, as embedded pictures of bounded total size."""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from hmhi_jax.data.masks import VoidLabel, read_truth
from hmhi_jax.data.pictures import Picture, PictureError, read_picture
from hmhi_jax.errors import InputError
from hmhi_jax.evaluation.pairing import FramePair
from hmhi_jax.evaluation.pictures import FOREGROUND_ABOVE, read_as, read_prediction, resize_prediction
from hmhi_jax.tools.pages import data_address

PANELS = ("prediction", "truth", "difference")
# Colours of Okabe and Ito, told apart by every kind of colour vision. RGB.
PREDICTED, TRUE, MISSED, FALSE_ALARM = (86, 180, 233), (0, 190, 135), (240, 150, 0), (214, 95, 180)
_WIDTHS = (352, 288, 224, 160, 120)
_QUALITY = 62


@dataclass(frozen=True)
class FrameRequest:
    """A frame to show: its run and video, its files, and how its prediction is read."""

    run: str
    video: str
    pair: FramePair
    reading: str

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What tells it from other frames: run, video, frame, reading."""
        return self.run, self.video, self.pair.frame, self.reading


@dataclass(frozen=True)
class Overlay:
    """Three panels of a frame as data addresses, and their (width, height) in pixels."""

    panels: tuple[str, str, str]
    size: tuple[int, int]


def draw_overlays(
    requests: Sequence[FrameRequest], void_label: VoidLabel = "auto", budget: int = 6_000_000
) -> dict[tuple[str, str, str, str], Overlay]:
    """Draw the requested frames, smaller where they would exceed the budget; the last are left out if need be.

    Args:
        requests: most important first.
        void_label: as in `read_truth`.
        budget: bytes the pictures may take in the page, in all.

    Returns overlays by the requests' keys; a frame whose files cannot be read is missing.
    """
    unique = list({request.key: request for request in requests}.values())
    width = _WIDTHS[0]
    # The first few tell how large the rest will be.
    sample = [_draw(request, void_label, width) for request in unique[:6]]
    sizes = [sum(map(len, overlay.panels)) for overlay in sample if overlay]
    if sizes:
        expected = len(unique) * sum(sizes) / len(sizes)
        # Bytes of a compressed picture grow a little more slowly than its area.
        width = next((w for w in _WIDTHS if expected * (w / _WIDTHS[0]) ** 1.6 <= budget), _WIDTHS[-1])
    drawn, used = {}, 0
    for request in unique:
        overlay = _draw(request, void_label, width)
        if overlay is None:
            continue
        used += sum(map(len, overlay.panels))
        if used > budget:
            break
        drawn[request.key] = overlay
    return drawn


def _draw(request: FrameRequest, void_label: VoidLabel, width: int) -> Overlay | None:
    if request.pair.prediction is None:
        return None
    try:
        truth = read_truth(request.pair.truth, void_label)
        prediction = read_as(read_prediction(request.pair.prediction), request.reading)
    except InputError:
        return None
    if prediction.shape != truth.grey.shape:
        prediction = resize_prediction(prediction, truth.grey.shape)
    if truth.void is not None:
        prediction = np.where(truth.void, np.uint8(0), prediction)
    shape = truth.grey.shape
    size = width, max(round(shape[0] * width / shape[1]), 1)
    predicted, true = (_shrink(mask, size) for mask in (prediction > FOREGROUND_ABOVE, truth.grey > 0))
    background = _background(request.pair.picture, size)
    grey = np.repeat(background.mean(axis=2, keepdims=True), 3, axis=2) * 0.55 + 40
    panels = _tint(background, predicted, PREDICTED), _tint(background, true, TRUE), _difference(grey, predicted, true)
    shown, truth_shown, difference = map(_encode, panels)
    return Overlay((shown, truth_shown, difference), size)


def _shrink(mask: Bool[np.ndarray, "H W"], size: tuple[int, int]) -> np.ndarray:
    """Share of each small pixel that the mask covers, float32 [h, w, 1]."""
    return cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)[..., None]


def _background(frame: Picture | None, size: tuple[int, int]) -> np.ndarray:
    """The RGB frame, float [h, w, 3] in 0..255; a flat grey one where there is none."""
    if frame is not None:
        with contextlib.suppress(PictureError):
            return read_picture(frame, size[::-1], "fast").astype(np.float32)
    return np.full((size[1], size[0], 3), 70, np.float32)


def _tint(background: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """The object tinted, the rest dimmed."""
    tinted = background * 0.45 + np.array(colour, np.float32) * 0.55
    return mask * tinted + (1 - mask) * background * 0.6


def _difference(grey: np.ndarray, predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Found object light, missed object and false alarms in their colours, on a dim grey frame."""
    both, missed, false = np.minimum(predicted, true), (true - predicted).clip(0), (predicted - true).clip(0)
    found = grey * 0.35 + 150
    rest = 1 - both - missed - false
    colours = (np.array(colour, np.float32) for colour in (MISSED, FALSE_ALARM))
    missed_colour, false_colour = (grey * 0.2 + colour * 0.8 for colour in colours)
    return rest * grey * 0.7 + both * found + missed * missed_colour + false * false_colour


def _encode(panel: np.ndarray) -> str:
    """WebP as a data address."""
    buffer = io.BytesIO()
    picture: UInt8[np.ndarray, "h w 3"] = np.clip(panel, 0, 255).astype(np.uint8)
    Image.fromarray(picture).save(buffer, "WEBP", quality=_QUALITY, method=4)
    return data_address(buffer.getvalue(), "webp")
