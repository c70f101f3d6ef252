"""Pictures that are written of a video: PNG and OpenEXR files, what an overlay shows, a contact sheet."""

import contextlib
import errno
import functools
import io
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from hmhi_jax.complete_files import completed
from hmhi_jax.errors import InputError

TINT, OUTLINE = (255, 40, 110), (255, 255, 255)  # of what was segmented, RGB
OVERLAY_SIDE = 1920  # overlays are scaled down to this, longer ones play badly


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn what can go wrong with a disk into one clear line about `path`."""
    try:
        yield
    except OSError as error:
        advice = {
            errno.ENOSPC: "free some space and start the same command again, it goes on from there",
            errno.EDQUOT: "free some space and start the same command again, it goes on from there",
            errno.EACCES: "choose a folder you may write to",
            errno.EPERM: "choose a folder you may write to",
            errno.EROFS: "choose a folder you may write to",
        }.get(error.errno or 0, "choose another folder")
        raise InputError(f"{path}: cannot be written ({error.strerror or error}); {advice}") from error


def write_file(path: Path, data: bytes, workplace: Path) -> None:
    """Write bytes to a file in `workplace` (on the same disk), then give it its name. Raises `InputError`."""
    with writing(path), completed(path, workplace) as partial:
        partial.write_bytes(data)


def write_png(path: Path, picture: UInt8[np.ndarray, "H W *channels"], workplace: Path) -> None:
    """Write an 8-bit grey, RGB or RGBA picture."""
    if picture.ndim == 3:
        picture = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR if picture.shape[2] == 3 else cv2.COLOR_RGBA2BGRA)
    _, data = cv2.imencode(".png", picture)
    write_file(path, data.tobytes(), workplace)


def write_palette(path: Path, labels: UInt8[np.ndarray, "H W"], workplace: Path) -> None:
    """Write labels as DAVIS does: a PNG picture with a palette, 0 the ground, object n its colour n."""
    image = Image.fromarray(labels)
    image.putpalette(_davis_palette())
    data = io.BytesIO()
    image.save(data, "PNG")
    write_file(path, data.getvalue(), workplace)


@functools.cache
def _davis_palette() -> bytes:
    """That of PASCAL VOC and DAVIS: the bits of a label, three by three, are the upper bits of red, green and blue."""
    labels = np.arange(256)
    colours = [sum((labels >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(8)) for channel in range(3)]
    return np.stack(colours, 1).astype(np.uint8).tobytes()


def write_exr(path: Path, channels: Mapping[str, UInt8[np.ndarray, "H W"]], workplace: Path) -> None:
    """Write an OpenEXR file of half floats from 0 to 1, with a channel for each name; values are of 0 to 255."""
    import OpenEXR

    pixels = {name: (values / np.float32(255)).astype(np.float16) for name, values in channels.items()}
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    with writing(path), completed(path, workplace) as partial:
        try:
            OpenEXR.File(header, pixels).write(str(partial))
        except RuntimeError as error:  # its message ends with the system's words
            number = next((number for number in errno.errorcode if os.strerror(number) in str(error)), errno.EIO)
            raise OSError(number, os.strerror(number)) from error


def overlay_size(size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of the overlay of frames of `size`: at most 1920 a side, and even, as H.264 wants."""
    scale = min(1.0, OVERLAY_SIDE / max(size))
    height, width = (max(2, round(side * scale) // 2 * 2) for side in size)
    return height, width


def fit_overlay(picture: UInt8[np.ndarray, "H W *channels"]) -> UInt8[np.ndarray, "h w *channels"]:
    """A frame or mask at its overlay's size: averaged down where it is large, else at most a row or column less."""
    height, width = overlay_size(picture.shape[:2])
    if max(picture.shape[:2]) > OVERLAY_SIDE:
        return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(picture[:height, :width])


Coloured = tuple[UInt8[np.ndarray, "h w"], tuple[int, int, int]]  # a mask and the RGB colour it is drawn in


def coloured(
    mask: UInt8[np.ndarray, "H W"],
    labels: UInt8[np.ndarray, "H W"] | None,
    fit: Callable[[UInt8[np.ndarray, "H W"]], UInt8[np.ndarray, "h w"]] = fit_overlay,
) -> list[Coloured]:
    """Each object in the colour that `write_palette` gives it, only brighter, and what of the mask has no number in the
    usual one; `fit` brings masks to the size they are drawn at."""
    if labels is None:
        return [(fit(mask), TINT)]
    colours = np.minimum(2 * np.frombuffer(_davis_palette(), np.uint8).reshape(-1, 3).astype(int), 255).tolist()
    return [
        (fit(np.where(labels == number, mask, np.uint8(0))), tuple(colours[number]) if number else TINT)
        for number in np.flatnonzero(np.bincount(labels[mask > 127])).tolist()
    ]


def draw_overlay(picture: UInt8[np.ndarray, "h w 3"], masks: Iterable[Coloured]) -> UInt8[np.ndarray, "h w 3"]:
    """The picture with masks tinted and outlined."""
    planes = cv2.split(picture)
    for mask, colour in masks:
        mark(planes, mask, colour, OUTLINE)
    return cv2.merge(planes)


def mark(
    planes: Sequence[UInt8[np.ndarray, "_ _"]],
    mask: UInt8[np.ndarray, "h w"],
    tint: Sequence[int],
    outline: Sequence[int],
) -> None:
    """Tint the mask in a picture's planes, and draw its outline; both colours are one level for each plane.

    Planes may have half the mask's rows and columns, as those of a video's colours have.
    """
    inside = cv2.threshold(mask, 127, 255, cv2.THRESH_BINARY)[1]
    thickness = max(1, round(max(mask.shape) / 640))
    left, top, width, height = cv2.boundingRect(inside)
    if not width:
        return
    outlines, _ = cv2.findContours(inside, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    lines = cv2.drawContours(np.zeros_like(inside), outlines, -1, 255, thickness)
    for plane, level, line in zip(planes, tint, outline, strict=True):
        step = len(mask) // len(plane)
        rows, columns = (
            slice(max(first - thickness, 0) // step, (first + length + thickness) // step + 1)
            for first, length in ((top, height), (left, width))
        )
        part = plane[rows, columns]  # work only where there is something
        within, on_line = (np.ascontiguousarray(each[::step, ::step][rows, columns]) for each in (inside, lines))
        cv2.copyTo(cv2.LUT(part, np.uint8(np.rint(0.55 * np.arange(256) + 0.45 * level))), within, part)
        cv2.copyTo(np.full_like(part, line), on_line, part)


class ContactSheet:
    """A few frames spread evenly over a video of unknown length, on one picture.

    Every `stride`-th frame is kept; when there are too many, every second one is dropped and the stride doubles.
    """

    COLUMNS, ROWS = 4, 4
    THUMB = 320  # pixels on the longer side
    CAPTION, GAP = 22, 8

    def __init__(self) -> None:
        self._stride = 1
        self._kept: list[tuple[int, str, UInt8[np.ndarray, "h w 3"]]] = []

    def takes(self, index: int) -> bool:
        """Whether frame `index` would be kept, so that it has to be drawn."""
        return index % self._stride == 0

    def add(self, index: int, caption: str, picture: UInt8[np.ndarray, "h w 3"]) -> None:
        """Offer frame `index` (in order)."""
        if not self.takes(index):
            return
        height, width = picture.shape[:2]
        scale = min(1.0, self.THUMB / max(height, width))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        self._kept.append((index, caption, cv2.resize(picture, size, interpolation=cv2.INTER_AREA)))
        if len(self._kept) > 2 * self.COLUMNS * self.ROWS:
            self._stride *= 2
            self._kept = [entry for entry in self._kept if entry[0] % self._stride == 0]

    def draw(self) -> UInt8[np.ndarray, "H W 3"]:
        """The sheet: frame names and captions under the pictures."""
        most = min(len(self._kept), self.COLUMNS * self.ROWS)
        positions = sorted({round(i * (len(self._kept) - 1) / max(1, most - 1)) for i in range(most)})
        chosen = [self._kept[position] for position in positions]
        columns = min(self.COLUMNS, max(1, len(chosen)))
        height, width = chosen[0][2].shape[:2]
        cell_height, cell_width = height + self.CAPTION + self.GAP, max(width, 120) + self.GAP
        rows = math.ceil(len(chosen) / columns)
        sheet = Image.new("RGB", (columns * cell_width + self.GAP, rows * cell_height + self.GAP), "white")
        font = ImageFont.load_default(14)
        draw = ImageDraw.Draw(sheet)
        for place, (_, caption, thumb) in enumerate(chosen):
            left, top = place % columns * cell_width + self.GAP, place // columns * cell_height + self.GAP
            sheet.paste(Image.fromarray(thumb), (left, top))
            draw.text((left + 2, top + height + 2), caption, fill=(40, 40, 40), font=font)
        return np.asarray(sheet)

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """What `restore` needs, as arrays and JSON."""
        if not self._kept:
            return {}, {"stride": self._stride, "kept": []}
        note = {"stride": self._stride, "kept": [(index, caption) for index, caption, _ in self._kept]}
        return {"sheet": np.stack([thumb for _, _, thumb in self._kept])}, note

    @classmethod
    def restore(cls, arrays: dict[str, np.ndarray], note: dict[str, Any]) -> "ContactSheet":
        sheet = cls()
        sheet._stride = note["stride"]
        thumbs = arrays.get("sheet", ())
        sheet._kept = [(index, caption, thumb) for (index, caption), thumb in zip(note["kept"], thumbs, strict=True)]
        return sheet
