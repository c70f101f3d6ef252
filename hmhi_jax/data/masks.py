"""What a decoded mask says: which pixels are object and which do not count. Training and evaluation read it alike."""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Bool, Num, UInt8
from PIL import Image

from hmhi_jax.data.pictures import Picture, PictureError, Window, open_picture

VoidLabel = int | None | Literal["auto"]
"""The value of pixels that do not count; see `decode_mask`."""

_WHITE, _BLACK = (255, 255, 255), (0, 0, 0)
_TINGE = 16  # levels by which compression changes colours
_EVEN = 4  # levels by which the surroundings of a pixel differ where compression leaves them alone
_GROUND, _OBJECT = 16, 24  # a pixel in what is even is ground below, object from there on
_LARGEST_LABEL = 32
EVERYWHERE = "object everywhere; is their background black?"
_STRAY = 0.01  # share of even pixels that may be neither


@dataclass(frozen=True)
class Mask:
    """Objects of one frame, merged.

    grey   0 background, 255 object, values between where the file has soft edges; 0 where it is void
    void   pixels that do not count, None if there are none
    doubt  why it may not be what its maker meant, "" if nothing speaks for that
    """

    grey: UInt8[np.ndarray, "H W"]
    void: Bool[np.ndarray, "H W"] | None
    doubt: str = ""

    @property
    def foreground(self) -> UInt8[np.ndarray, "H W"]:
        """1 where at least half is object, else 0."""
        return (self.grey >= 128).view(np.uint8)


def read_mask(
    picture: Picture, size: tuple[int, int] | None = None, window: Window | None = None
) -> UInt8[np.ndarray, "H W 1"]:
    """A ground-truth mask as 0 and 1, all objects merged, cut to `window` and resized to `size` (nearest) when given.

    How files are understood is told by `decode_mask`; 1 is what is at least half an object, and void is 0.

    Raises PictureError when it is missing, truncated, too large, no picture or no mask.
    """
    mask = read_truth(picture).foreground
    if window is not None:
        mask = mask[window.pixels(*mask.shape)]
    if size is not None and mask.shape != size:
        mask = np.asarray(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST))
    return mask[..., None]


def encode_mask(mask: UInt8[np.ndarray, "H W *one"]) -> bytes:
    """A mask of 0 and 1 as the bytes of a PNG file with one bit a pixel; `read_mask` reads it back."""
    return cv2.imencode(".png", mask * np.uint8(255), [cv2.IMWRITE_PNG_BILEVEL, 1])[1].tobytes()


def read_truth(picture: Picture, void_label: VoidLabel = "auto") -> Mask:
    """Ground truth of one frame; `decode_mask` tells how files are understood and what `void_label` does.

    UVOS takes what is above 0 of its `grey`, as the release does, VSOD what is at least half. Raises PictureError as
    `read_mask`.
    """
    image = open_picture(picture)
    try:
        return decode_mask(image, void_label)
    except ValueError as error:
        raise PictureError(f"{picture}: {error}") from error


def decode_mask(image: Image.Image, void_label: VoidLabel = "auto") -> Mask:
    """A mask, however it is stored.

    - Palette pictures: every label but 0 is object. (Where the palette is no more than a white and a black, as of a
      picture that was stored anew, black is the background, whatever its label.)
    - Grey pictures of 1, 8 or 16 bits: the levels as they are, 16 bits scaled to 8; where nothing reaches the upper
      half they are labels, and all but 0 is object. Palettes whose entries are the grey levels themselves are grey
      pictures. Floats reach from 0 to 1, or to their maximum.
    - Lossy pictures (JPEG, most WebP): 0 and 255, since compression leaves traces in the background. Grey ones are cut
      at half; in those of colours, and where nothing reaches the upper half, what is clearly brighter than the
      background is object. They are never labels.
    - Colour pictures: all but black is object; all but white in PPM files (FBMS), and where there is white but no
      black.
    - Cut-outs, pictures with transparency that differs from pixel to pixel: their opacity, whatever they show.

    Args:
        image: as `open_picture` gives it.
        void_label: the value of pixels that do not count; "auto" is 255 in palette pictures, as in the DAVIS toolkit
            (unless their palette shows it white, which is how binary masks are stored), and none elsewhere.

    Raises `ValueError` for a lossy picture that does not show objects on a plain ground.
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
    grey = _grey(levels, image, bool(palette))
    if grey.all():
        return Mask(grey, void, EVERYWHERE)
    if palette:
        return Mask(grey, void)
    white = 255 if levels.max() <= 255 else 65_535
    labels = levels[(levels > 0) & (levels < white)]
    # Soft edges have levels of all kinds.
    if labels.size < np.count_nonzero(levels) < 100 * labels.size and labels.max() <= _LARGEST_LABEL:
        what = f"small labels beside {white} in grey, which counts as object"
        return Mask(grey, void, f"{what}; if it is void, score with --void-label {white}, or store them with a palette")
    return Mask(grey, void)


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
    if image.info.get("lossy"):
        if (cut := cut_out_of_lossy(image)) is None:
            raise ValueError(
                "compression has changed its levels, and no plain background can be told from objects; store masks as "
                "PNG, or lossless WebP"
            )
        return cut
    if image.mode == "LA":
        return np.asarray(image.convert("L"))
    if image.mode in ("1", "L", "P"):
        return np.asarray(image, np.uint8)
    if image.mode.startswith("I"):
        return np.asarray(image).astype(np.int64)
    if image.mode == "F":
        levels = np.nan_to_num(np.asarray(image), nan=0.0, posinf=0.0, neginf=0.0)  # what is no number is no object
        return np.clip(np.rint(255 / max(1.0, float(levels.max())) * levels), 0, 255).astype(np.uint8)
    return merge_colours(np.asarray(image.convert("RGB")), image.format)


def is_tinged_grey(colours: UInt8[np.ndarray, "H W 3"]) -> bool:
    """Whether a picture is grey but for what compression does to it."""
    return int((colours.max(axis=-1) - colours.min(axis=-1)).max()) <= _TINGE


def cut_out_of_lossy(image: Image.Image) -> UInt8[np.ndarray, "H W"] | None:
    """What is object in a mask that was compressed with loss, as 255; None where objects and ground are not told apart.

    What is even, so that no edge is near, shows the levels as they were: the ground is black (or, without any black,
    white), objects are not. Edges are where half of the darkest object's level is.
    """
    colours = np.asarray(image.convert("RGB"))
    grey = is_tinged_grey(colours)
    levels = np.asarray(image.convert("L")) if grey else colours.max(axis=-1)
    cut = 128.0
    if not grey or levels.max() < cut:
        even, white = _even(levels), 255 - colours.min(axis=-1)
        if not (levels[even] < _GROUND).any() and (white < _GROUND).any():
            levels, even = white, _even(white)
        plain = levels[even]
        ground, objects = plain[plain < _GROUND], plain[plain >= _OBJECT]
        if 2 * plain.size < levels.size:  # a photograph
            return None
        if ground.size + objects.size < (1 - _STRAY) * plain.size if ground.size else np.ptp(plain) > _TINGE:
            return None
        cut = np.percentile(objects, 1) / 2 if objects.size else max(levels.max() / 2, _OBJECT)
        inside = cv2.erode((levels >= cut).view(np.uint8), np.ones((9, 9), np.uint8)) > 0
        if np.count_nonzero(even & inside) < np.count_nonzero(inside) / 4:  # objects of a photograph, on black
            return None
    return (levels >= cut).view(np.uint8) * np.uint8(255)


def _even(levels: UInt8[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """Where no edge is near."""
    around = np.ones((5, 5), np.uint8)
    return cv2.dilate(levels, around) - cv2.erode(levels, around) <= _EVEN


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
    if labelled or (image.mode != "F" and int(levels.max()) < half):
        return (levels > 0).view(np.uint8) * np.uint8(255)
    if half == 128:
        return levels
    return np.clip((levels + 256) // 257, 0, 255).astype(np.uint8)  # what is above 0 must stay above 0
