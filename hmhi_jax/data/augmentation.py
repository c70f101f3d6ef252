"""Random changes of a training clip: crop, flip, colours (MODEL.md 7), on the CPU in 8 bits.

What is drawn (`ClipChange`) is kept apart from doing it, so that a draw is a function of a random generator alone and
the same for a clip however it is read.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import UInt8

from hmhi_jax.data.decoding import Window
from hmhi_jax.data.flow import flow_to_picture
from hmhi_jax.errors import InputError

Range = tuple[int | float, int | float]


@dataclass(frozen=True)
class Augmentation:
    """What may be changed, and how much.

    flip         probability of a horizontal flip. As in the release, a flow picture is mirrored like any picture: its
                 colours keep saying where things moved before the flip
    photometric  whether the colours of frames (never of flow pictures) change: brightness, contrast, saturation and
                 hue, each with probability 1/2, contrast before or after the others
    brightness   +- this many levels of 255
    contrast, saturation
                 factors between these
    hue          +- this many of 180 degrees of hue (OpenCV's)
    per          flip and colours are drawn once per "clip", or per "frame" as in the release
    crop         None, or the least and largest share of the picture's area a random window keeps; drawn once per clip
    crop_aspect  the window's aspect ratio is the picture's times a factor between these
    still        probability that a frame after the clip's first loses its flow picture: it becomes white, as if nothing
                 moved. What the object is must then come from the memory
    no_flow      probability that all frames of a clip lose it: the object must be seen in the frames
    other_flow   probability that a clip's flow pictures are those of another video, which say nothing about it
    flow_noise   probability that motion of nothing in particular is painted over a clip's flow pictures, pale or strong
    """

    flip: int | float = 0.5
    photometric: bool = True
    brightness: int | float = 32
    contrast: Range = (0.5, 1.5)
    saturation: Range = (0.5, 1.5)
    hue: int = 18
    per: str = "clip"
    crop: Range | None = None
    crop_aspect: Range = (3 / 4, 4 / 3)
    still: int | float = 0.0
    no_flow: int | float = 0.0
    other_flow: int | float = 0.0
    flow_noise: int | float = 0.0

    def __post_init__(self) -> None:
        for name in ("flip", "still", "no_flow", "other_flow", "flow_noise"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise InputError(f"augmentation: {name} is {value}, expected a probability")
        if not 0 <= self.hue <= 90:
            raise InputError(f"augmentation: hue is {self.hue}, expected 0 to 90 degrees")
        if self.per not in ("clip", "frame"):
            raise InputError(f"augmentation: per is {self.per!r}, expected 'clip' or 'frame'")
        if self.crop is not None and not 0 < self.crop[0] <= self.crop[1] <= 1:
            raise InputError(
                f"augmentation: crop is {self.crop}, expected two shares of the area, 0 < least <= largest <= 1"
            )
        if not 0 < self.crop_aspect[0] <= self.crop_aspect[1]:
            raise InputError(
                f"augmentation: crop_aspect is {self.crop_aspect}, expected two factors, 0 < least <= largest"
            )


NONE = Augmentation(flip=0.0, photometric=False)
"""Nothing is changed: for validation."""


@dataclass(frozen=True)
class ColourChange:
    """Brightness added, factors of contrast and saturation, hue added; `contrast_first`: before saturation and hue."""

    brightness: float = 0.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: int = 0
    contrast_first: bool = True


@dataclass(frozen=True)
class FlowNoise:
    """Random motion over a clip's flow pictures: `seed` of the field, its `grain` as a fraction of the picture's longer
    side, the `share` of the picture that moves, and `strengths`, one a frame, 1 for full colour."""

    seed: int
    grain: float
    share: float
    strengths: tuple[float, ...]


@dataclass(frozen=True)
class ClipChange:
    """What was drawn for a clip: the window of all frames; for each frame, whether it is flipped, its colours, and
    whether it seems to stand still; whether the flow is another video's, and the noise on it."""

    window: Window | None
    flips: tuple[bool, ...]
    colours: tuple[ColourChange | None, ...]
    still: tuple[bool, ...]
    other_flow: bool = False
    flow_noise: FlowNoise | None = None


def draw_change(rng: np.random.Generator, augmentation: Augmentation, frames: int) -> ClipChange:
    """Draw the change of a clip of `frames` frames."""
    window = _draw_window(rng, augmentation) if augmentation.crop else None
    draws = 1 if augmentation.per == "clip" else frames
    flips = tuple(bool(rng.random() < augmentation.flip) for _ in range(draws))
    colours = tuple(_draw_colours(rng, augmentation) if augmentation.photometric else None for _ in range(draws))
    repeats = frames // draws
    still = (False, *(bool(rng.random() < augmentation.still) for _ in range(frames - 1)))
    lost, other, noisy = rng.random(3) < (augmentation.no_flow, augmentation.other_flow, augmentation.flow_noise)
    noise = _draw_noise(rng, frames) if noisy else None
    return ClipChange(
        window, flips * repeats, colours * repeats, (True,) * frames if lost else still, bool(other), noise
    )


def _draw_window(rng: np.random.Generator, augmentation: Augmentation) -> Window:
    area = rng.uniform(*augmentation.crop)
    aspect = np.exp(rng.uniform(*np.log(augmentation.crop_aspect)))
    # A window of this area and aspect may be larger than the picture on one side; it then keeps that whole side.
    height, width = min(1.0, float(np.sqrt(area / aspect))), min(1.0, float(np.sqrt(area * aspect)))
    top, left = rng.uniform(0, 1 - height), rng.uniform(0, 1 - width)
    return Window(top, left, top + height, left + width)


def _draw_noise(rng: np.random.Generator, frames: int) -> FlowNoise:
    loudest = np.exp(rng.uniform(np.log(0.1), 0))
    return FlowNoise(
        seed=int(rng.integers(2**32)),
        grain=float(np.exp(rng.uniform(np.log(0.03), np.log(0.5)))),
        share=float(rng.uniform(0.1, 0.9)),
        strengths=tuple(float(loudest * value) for value in rng.uniform(0.3, 1, frames)),
    )


def _draw_colours(rng: np.random.Generator, augmentation: Augmentation) -> ColourChange:
    # Everything is drawn always, so that one probability or range does not shift the draws that follow.
    apply = rng.random(4) < 0.5
    brightness = rng.uniform(-augmentation.brightness, augmentation.brightness)
    contrast, saturation = rng.uniform(*augmentation.contrast), rng.uniform(*augmentation.saturation)
    hue = int(rng.integers(-augmentation.hue, augmentation.hue + 1))
    first = bool(rng.random() < 0.5)
    return ColourChange(
        brightness=float(brightness) if apply[0] else 0.0,
        contrast=float(contrast) if apply[1] else 1.0,
        saturation=float(saturation) if apply[2] else 1.0,
        hue=hue if apply[3] else 0,
        contrast_first=first,
    )


def change_colours(frame: UInt8[np.ndarray, "H W 3"], change: ColourChange) -> UInt8[np.ndarray, "H W 3"]:
    """Brightness, contrast, saturation and hue of an 8-bit RGB picture, each result cut to 0..255.

    Saturation and hue are changed in one pass through 8-bit HSV (the release takes two, and rounds twice).
    """
    levels = np.arange(256, dtype=np.float32)
    bright = np.clip(levels + change.brightness, 0, 255).astype(np.uint8)
    contrasted = np.clip(levels * change.contrast, 0, 255).astype(np.uint8)
    before = contrasted[bright] if change.contrast_first else bright
    if change.brightness or (change.contrast_first and change.contrast != 1):
        frame = cv2.LUT(frame, before)
    if change.saturation != 1 or change.hue:
        hsv = cv2.cvtColor(frame, cv2.COLOR_RGB2HSV)
        hues = ((np.arange(256) + change.hue) % 180).astype(np.uint8)
        saturations = np.clip(levels * change.saturation, 0, 255).astype(np.uint8)
        table = np.stack([hues, saturations, np.arange(256, dtype=np.uint8)], axis=-1)[None]
        frame = cv2.cvtColor(cv2.LUT(hsv, table), cv2.COLOR_HSV2RGB)
    if not change.contrast_first and change.contrast != 1:
        frame = cv2.LUT(frame, contrasted)
    return frame


def add_flow_noise(picture: UInt8[np.ndarray, "H W 3"], noise: FlowNoise, frame: int) -> UInt8[np.ndarray, "H W 3"]:
    """Motion of nothing in particular over the flow picture of a clip's frame `frame`, in patches or all over.

    Colours of the wheel (Middlebury's, white where nothing moves) are multiplied: where either picture is white the
    other one stays as it is. The patches of a clip's frames are alike, and change as much as their directions do.
    """
    height, width = picture.shape[:2]
    cells = [max(2, round(side / (noise.grain * max(height, width))) + 1) for side in (height, width)]
    rng, moment = np.random.default_rng(noise.seed), np.random.default_rng([noise.seed, frame])
    base, change = (one.standard_normal((*cells, 3)).astype(np.float32) for one in (rng, moment))
    field = cv2.resize(base + 0.3 * change, (width, height), interpolation=cv2.INTER_CUBIC)
    edge = float(np.quantile(field[::4, ::4, 2], 1 - noise.share))
    moving = np.clip((field[..., 2:] - edge) * 4, 0, 1)
    flow = field[..., :2] / max(float(np.abs(field[..., :2]).max()), 1e-6) * moving * np.float32(noise.strengths[frame])
    painted = flow_to_picture(flow, radius=1.0)
    return (picture.astype(np.uint16) * painted // 255).astype(np.uint8)


def flip(picture: UInt8[np.ndarray, "H W C"], out: UInt8[np.ndarray, "H W C"]) -> None:
    """Mirror a picture left to right into `out`, which must be contiguous."""
    cv2.flip(picture, 1, dst=out)
