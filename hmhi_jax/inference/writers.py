"""What is written of a video: PNG files, an overlay video, a contact sheet. Nothing half-written gets a final name."""

import contextlib
import errno
import functools
import io
import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from hmhi_jax.complete_files import completed, file_to_disk, names_to_disk
from hmhi_jax.errors import InputError

TINT = (255, 40, 110)  # of what was segmented, RGB
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
    """Write an 8-bit grey or RGB picture."""
    if picture.ndim == 3:
        picture = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".png", picture)
    write_file(path, data.tobytes(), workplace)


def write_labels(path: Path, labels: UInt8[np.ndarray, "H W"], workplace: Path) -> None:
    """Write label values as a palette picture in the colours of DAVIS, which show each label and keep its value."""
    picture = Image.fromarray(labels)
    picture.putpalette(_davis_colours())
    data = io.BytesIO()
    picture.save(data, format="png")
    write_file(path, data.getvalue(), workplace)


@functools.cache
def _davis_colours() -> bytes:
    """Of labels 0 to 255: bits 0, 1 and 2 of each group of three are the highest that is left of red, green, blue."""
    colours = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (((np.arange(256) >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    return colours.tobytes()


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


def draw_overlay(picture: UInt8[np.ndarray, "h w 3"], mask: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """The picture with the mask tinted and outlined."""
    inside = cv2.threshold(mask, 127, 255, cv2.THRESH_BINARY)[1]
    drawn = picture.copy()
    left, top, width, height = cv2.boundingRect(inside)
    if width:  # work only where there is something
        box = np.s_[top : top + height, left : left + width]
        tinted = cv2.addWeighted(picture[box], 0.55, np.full_like(picture[box], TINT), 0.45, 0)
        drawn[box] = cv2.copyTo(tinted, inside[box], drawn[box])
    outlines, _ = cv2.findContours(inside, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(drawn, outlines, -1, (255, 255, 255), max(1, round(max(picture.shape[:2]) / 640)))


class OverlayWriter:
    """An H.264 video, written in parts: a part that is closed survives whatever happens later.

    `cut` closes a part; `finish` joins all parts, without encoding again, into the final file.
    """

    def __init__(
        self, workplace: Path, frame_rate: Fraction, sample_aspect_ratio: Fraction = Fraction(1), begin: int = 0
    ) -> None:
        """`begin` is the number of the first frame that will come; parts from there on are left-overs and removed."""
        self._workplace = workplace.absolute()  # FFmpeg takes what stands before a colon for a protocol
        self._rate = frame_rate.limit_denominator(60_000)
        self._aspect = sample_aspect_ratio
        self._next = begin
        self._container: Any = None
        self._stream: Any = None
        for part in self._parts():
            if int(part.stem.split("-")[1]) >= begin:
                part.unlink()

    def add(self, picture: UInt8[np.ndarray, "h w 3"]) -> None:
        """Encode the next frame. Raises `InputError` if the disk does not take it."""
        with self._writing():
            if self._container is None:
                self._open(picture.shape[0], picture.shape[1])
            planes = cv2.cvtColor(picture, cv2.COLOR_RGB2YUV_I420)  # six times as fast as swscale
            frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            frame.pts = self._in_part
            frame.time_base = 1 / self._rate
            self._container.mux(self._stream.encode(frame))
        self._in_part += 1
        self._next += 1

    def cut(self) -> None:
        """Close the part that is being written."""
        if self._container is not None:
            container, self._container = self._container, None
            with self._writing():
                container.mux(self._stream.encode(None))
                container.close()
                file_to_disk(Path(container.name))
                names_to_disk(self._workplace)

    def finish(self, path: Path) -> None:
        """Join the parts into `path`."""
        self.cut()
        with self._writing():
            with (
                completed(path, self._workplace) as joined,
                av.open(str(joined), "w", format="mp4", options={"movflags": "+faststart"}) as output,
            ):
                stream, number = None, 0
                for part in self._parts():
                    with av.open(str(part)) as source:
                        if stream is None:
                            stream = output.add_stream_from_template(source.streams.video[0])
                        for packet in source.demux(source.streams.video[0]):
                            if packet.size:
                                packet.stream = stream
                                packet.time_base = 1 / self._rate
                                packet.pts = packet.dts = number
                                packet.duration = 1
                                number += 1
                                output.mux(packet)
            for part in self._parts():
                part.unlink()

    def close(self) -> None:
        """Let go of the file, whatever state it is in."""
        if self._container is not None:
            container, self._container = self._container, None
            with contextlib.suppress(OSError, av.FFmpegError):
                container.close()

    def _parts(self) -> list[Path]:
        return sorted(self._workplace.glob("overlay-*.mp4"))

    def _open(self, height: int, width: int) -> None:
        self._in_part = 0
        path = self._workplace / f"overlay-{self._next:09d}.mp4"
        self._container = av.open(str(path), "w", format="mp4")
        # No B-frames: then packets are in display order and parts can be joined by numbering them.
        options = {"crf": "20", "preset": "superfast", "bf": "0"}
        self._stream = self._container.add_stream("libx264", rate=self._rate, options=options)
        context = self._stream.codec_context
        context.width, context.height, context.pix_fmt = width, height, "yuv420p"
        context.time_base = 1 / self._rate
        context.sample_aspect_ratio = self._aspect
        # Say how the colours are stored (BT.601 matrix, limited range, as OpenCV makes them), or players guess by size.
        context.colorspace, context.color_primaries, context.color_trc, context.color_range = 6, 1, 1, 1

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        with writing(self._workplace.parent / "overlay.mp4"):
            try:
                yield
            except av.FFmpegError as error:
                if isinstance(error, OSError):
                    raise
                raise InputError(f"{self._workplace.parent / 'overlay.mp4'}: cannot be encoded ({error})") from error


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

    def add(self, index: int, caption: str, picture: UInt8[np.ndarray, "h w 3"]) -> None:
        """Offer frame `index` (in order)."""
        if index % self._stride:
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
