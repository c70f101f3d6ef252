"""What a decoded mask says: which pixels are object and which do not count. Training and evaluation read it alike."""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Bool, Num, UInt8
from PIL import Image

from hmhi_jax.data.pictures import Picture, Window, open_picture

VoidLabel = int | None | Literal["auto"]
"""The value of pixels that do not count; see `decode_mask`."""

_WHITE, _BLACK = (255, 255, 255), (0, 0, 0)


@dataclass(frozen=True)
class Mask:
    """Objects of one frame, merged.

    grey   0 background, 255 object, values between where the file has soft edges; 0 where it is void
    void   pixels that do not count, None if there are none
    """

    grey: UInt8[np.ndarray, "H W"]
    void: Bool[np.ndarray, "H W"] | None

    @property
    def foreground(self) -> UInt8[np.ndarray, "H W"]:
        """1 where at least half is object, else 0."""
        return (self.grey >= 128).view(np.uint8)


def read_mask(
    picture: Picture, size: tuple[int, int] | None = None, window: Window | None = None
) -> UInt8[np.ndarray, "H W 1"]:
    """A ground-truth mask as 0 and 1, all objects merged, cut to `window` and resized to `size` (nearest) when given.

    How files are understood is told by `decode_mask`; 1 is what is at least half an object, and void is 0.

    Raises PictureError when it is missing, truncated, too large or no picture.
    """
    mask = decode_mask(open_picture(picture)).foreground
    if window is not None:
        mask = mask[window.pixels(*mask.shape)]
    if size is not None and mask.shape != size:
        mask = np.asarray(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST))
    return mask[..., None]


def encode_mask(mask: UInt8[np.ndarray, "H W *one"]) -> bytes:
    """A mask of 0 and 1 as the bytes of a PNG file with one bit a pixel; `read_mask` reads it back."""
    return cv2.imencode(".png", mask * np.uint8(255), [cv2.IMWRITE_PNG_BILEVEL, 1])[1].tobytes()


def decode_mask(image: Image.Image, void_label: VoidLabel = "auto") -> Mask:
    """A mask, however it is stored.

    - Palette pictures: every label but 0 is object. (Where the palette is no more than a white and a black, as of a
      picture that was stored anew, black is the background, whatever its label.)
    - Grey pictures of 1, 8 or 16 bits: the levels as they are, 16 bits scaled to 8; where nothing reaches the upper
      half they are labels, and all but 0 is object. Palettes whose entries are the grey levels themselves are grey
      pictures. Floats reach from 0 to 1, or to their maximum.
    - JPEG pictures: cut at half, since compression leaves traces in the background. They are never labels.
    - Colour pictures: all but black is object; all but white in PPM files (FBMS), and where there is white but no
      black.
    - Cut-outs, pictures with transparency that differs from pixel to pixel: their opacity, whatever they show.

    Args:
        image: as `open_picture` gives it.
        void_label: the value of pixels that do not count; "auto" is 255 in palette pictures, as in the DAVIS toolkit
            (unless their palette shows it white, which is how binary masks are stored), and none elsewhere.
    """
    palette = [] if is_grey_ramp(image) else _palette(image)
    if palette and void_label == "auto" and palette[255:] != [_WHITE]:
        void_label = 255
    levels = _levels(image, palette)
    void = None
    if isinstance(void_label, int):
        void = levels == void_label
        levels = np.where(void, levels.dtype.type(0), levels)
        void = void if void.any() else None
    return Mask(_grey(levels, image, bool(palette)), void)


def is_grey_ramp(image: Image.Image) -> bool:
    """Whether a palette picture is an ordinary grey one in disguise: entry i is the grey level i."""
    palette = _palette(image)
    return len(palette) > 2 and all(colour == (i, i, i) for i, colour in enumerate(palette))


def _palette(image: Image.Image) -> list[tuple[int, ...]]:
    """Colours of a palette picture's labels; empty for other pictures."""
    values = (image.getpalette("RGB") or []) if image.mode == "P" else []
    return [tuple(values[i : i + 3]) for i in range(0, len(values), 3)]


def _levels(image: Image.Image, palette: list[tuple[int, ...]]) -> Num[np.ndarray, "H W"]:
    """Labels or grey levels, 0 being background."""
    if palette:
        labels = np.asarray(image)
        used = {palette[label] for label in np.unique(labels) if label < len(palette)}
        if palette[0] == _WHITE and _BLACK in palette and used <= {_WHITE, _BLACK}:
            return np.isin(labels, [label for label, colour in enumerate(palette) if colour == _WHITE]).view(np.uint8)
        return labels
    if (opaque := opacity(image)) is not None:
        return opaque
    if image.format == "JPEG" or image.mode == "LA":
        return np.asarray(image.convert("L"))
    if image.mode in ("1", "L", "P"):
        return np.asarray(image, np.uint8)
    if image.mode.startswith("I"):
        return np.asarray(image).astype(np.int64)
    if image.mode == "F":
        levels = np.asarray(image)
        return np.rint(255 / max(1.0, float(levels.max())) * levels).astype(np.uint8)
    return merge_colours(np.asarray(image.convert("RGB")), image.format)


def opacity(image: Image.Image) -> UInt8[np.ndarray, "H W"] | None:
    """The opacity of a cut-out; None of pictures without transparency, or of the same everywhere but for nowhere."""
    if image.mode not in ("RGBA", "LA", "PA"):
        return None
    levels = np.asarray(image.getchannel("A"))
    return levels if levels.min() < levels.max() or not levels.any() else None


def merge_colours(pixels: UInt8[np.ndarray, "H W 3"], file_format: str | None) -> UInt8[np.ndarray, "H W"]:
    """A colour picture as grey: its value where it is grey anyway, else 255 where it is not background."""
    if file_format != "PPM" and (pixels == pixels[..., :1]).all():
        return pixels[..., 0]
    black, white = (pixels == 0).all(axis=-1), (pixels == 255).all(axis=-1)
    inverted = file_format == "PPM" or (white.any() and not black.any())
    return (~(white if inverted else black)).view(np.uint8) * np.uint8(255)


def _grey(levels: Num[np.ndarray, "H W"], image: Image.Image, labelled: bool) -> UInt8[np.ndarray, "H W"]:
    half = 128 if levels.dtype == np.uint8 else 32768
    if image.format == "JPEG":
        return (levels >= half).view(np.uint8) * np.uint8(255)
    if labelled or (image.mode != "F" and int(levels.max()) < half):
        return (levels > 0).view(np.uint8) * np.uint8(255)
    if half == 128:
        return levels
    return np.clip((levels + 256) // 257, 0, 255).astype(np.uint8)  # what is above 0 must stay above 0
