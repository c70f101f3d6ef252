"""Every video that is written: in parts that survive what happens later, joined in the end with times and sound."""

import contextlib
import dataclasses
import heapq
import re
import struct
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from jaxtyping import UInt8

from hmhi_jax.complete_files import completed, file_to_disk, names_to_disk
from hmhi_jax.data.ffmpeg import converted, planes, stores_rgb, upright_planes
from hmhi_jax.data.video import Video
from hmhi_jax.errors import InputError
from hmhi_jax.inference.sound import SoundTracks, Span
from hmhi_jax.inference.writers import OUTLINE, Coloured, mark, writing

_SWSCALE_MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9}  # of H.273; what swscale does not know it takes for BT.601
_FULL = 2
_LARGEST_TIMESCALE = 2**31 - 1
_ROOM = "pixel shape"  # a track's title of the length that `_shape_pixels` needs


@dataclasses.dataclass(frozen=True)
class Codec:
    """How a video is encoded.

    container      FFmpeg's name, which is also the suffix
    encoder        FFmpeg's name
    pixel_format   of what is encoded
    options        of the encoder; no frame may refer to a later one, then packets come in the order of frames
    limited        whether the container cannot say that luma has the full range, so that it must not have it
    """

    container: str
    encoder: str
    pixel_format: str
    options: dict[str, str]
    limited: bool = False


OVERLAY = Codec("mp4", "libx264", "yuv420p", {"crf": "20", "preset": "ultrafast", "bf": "0"})
MATTE = Codec("mp4", "libx264", "yuv420p", {"crf": "10", "preset": "superfast", "bf": "0"})
MATTE_ODD = dataclasses.replace(MATTE, pixel_format="yuv444p")  # 4:2:0 wants even sides
CUTOUTS = {
    "mov": Codec("mov", "prores_ks", "yuva444p10le", {"profile": "4444", "alpha_bits": "16", "vendor": "apl0"}, True),
    "webm": Codec(
        "webm", "libvpx-vp9", "yuva420p",
        {"crf": "24", "b": "0", "auto-alt-ref": "0", "deadline": "good", "cpu-used": "5", "tile-columns": "2"},
    ),
}  # fmt: skip


class VideoWriter:
    """Writes a video in parts: a part that is closed plays, and survives whatever happens later.

    `cut` closes a part; `finish` joins all parts, without encoding again, into the final file.
    """

    def __init__(self, name: str, path: Path, workplace: Path, codec: Codec, video: Video, begin: int = 0) -> None:
        """
        Args:
            name: of the parts.
            path: of the final file.
            workplace: folder on the same disk for the parts.
            codec: see `Codec`.
            video: what it is made of, whose times, sound, shape of pixels and colours it gets.
            begin: number of the first frame that will come; parts from there on are left-overs and removed.
        """
        self._name, self._path, self._codec = name, path, codec
        self._workplace = workplace.absolute()  # FFmpeg takes what stands before a colon for a protocol
        self._rate = video.frame_rate.limit_denominator(60_000)
        self._video = video
        self._time_base = time_base_of(video)
        colours = video.colours
        self.colours = dataclasses.replace(colours, range=1) if codec.limited else colours
        self._next = begin
        self._container: Any = None
        self._stream: Any = None
        for part in self._parts():
            if int(part.stem.split("-")[-1]) >= begin:
                part.unlink()

    def draw(self, picture: UInt8[np.ndarray, "h w 3"] | av.VideoFrame, alpha: Any = None) -> av.VideoFrame:
        """A frame to `add`, from 8-bit RGB or from a frame as it was decoded, which is turned upright; `alpha`, uint8
        `[H, W]`, is how opaque it is. May be called from several threads."""
        source = av.VideoFrame.from_ndarray(picture, format="rgb24") if isinstance(picture, np.ndarray) else picture
        to = {"dst_color_range": self.colours.range or None}
        if stores_rgb(source):
            matrix = _SWSCALE_MATRICES.get(self.colours.matrix, 5)
            to = {"dst_colorspace": matrix, "dst_color_range": self.colours.range or 1}
        yuv = converted(source, format=self._codec.pixel_format, **to)
        return self._frame(upright_planes(yuv, like=source), alpha)

    def draw_marked(self, picture: UInt8[np.ndarray, "h w 3"] | av.VideoFrame, masks: list[Coloured]) -> av.VideoFrame:
        """A frame to `add` as `draw` gives it, with masks tinted and outlined. May be called from several threads.

        It is drawn on the video's own planes: bringing a whole frame from RGB there takes as long as to encode it.
        """
        frame, outline = self.draw(picture), self._levels(OUTLINE)
        for mask, colour in masks:
            mark(planes(frame), mask, self._levels(colour), outline)
        return frame

    def _levels(self, colour: tuple[int, int, int]) -> list[int]:
        """A colour in the video's planes."""
        return [int(plane[4, 4]) for plane in planes(self.draw(np.full((16, 16, 3), colour, np.uint8)))]

    def draw_grey(self, grey: UInt8[np.ndarray, "H W"]) -> av.VideoFrame:
        """A frame to `add`, from grey levels."""
        luma = grey if self.colours.range == _FULL else (16 + grey.astype(np.uint16) * 219 // 255).astype(np.uint8)
        return self._frame([luma, np.uint8(128), np.uint8(128)], None)

    def _frame(self, values: Sequence[Any], alpha: Any) -> av.VideoFrame:
        height, width = values[0].shape
        frame = av.VideoFrame(width, height, self._codec.pixel_format)
        for plane, value in zip(planes(frame), values, strict=True):
            plane[:] = value
        self._say_colours(frame)  # ProRes takes them from here
        if alpha is not None:
            target = planes(frame)[3]
            most = 2 ** frame.format.components[3].bits - 1
            target[:] = alpha if most == 255 else (alpha.astype(np.uint32) * most + 127) // 255
        return frame

    def add(self, frame: av.VideoFrame, time: int) -> None:
        """Encode the next frame, shown at so many of the video's time bases. Raises `InputError` if the disk does not
        take it."""
        with self._writing():
            if self._container is None:
                self._open(frame.height, frame.width)
            frame.pts, frame.time_base = time, self._time_base
            self._container.mux(self._stream.encode(frame))
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

    def finish(self, times: Sequence[int], span: Span) -> None:
        """Join the parts, and the sound of `span`, into the final file.

        `times`: when each frame is shown, and after the last of them when it ends, in the video's time bases. The parts
        stay: whoever is stopped after this, but before all results are there, joins them again.
        """
        self.cut()
        options = {"fflags": "+bitexact"}  # no random numbers
        webm, aspect = self._codec.container == "webm", self._video.sample_aspect_ratio
        shaped = webm and aspect != 1
        if not webm:
            options["movflags"] = "+faststart"
            if self._time_base.numerator == 1 and self._time_base.denominator <= _LARGEST_TIMESCALE:
                options["movie_timescale"] = str(self._time_base.denominator)  # else edit lists are in milliseconds
        with self._writing(), completed(self._path, self._workplace) as joined:
            with av.open(str(joined), "w", format=self._codec.container, options=options) as output:
                first, *_ = self._parts()
                with av.open(str(first)) as part:
                    stream = output.add_stream_from_template(part.streams.video[0], opaque=True)
                stream.time_base = self._time_base
                stream.codec_context.sample_aspect_ratio = aspect
                if webm:
                    stream.metadata["alpha_mode"] = "1"
                if shaped:
                    stream.metadata["title"] = _ROOM
                with SoundTracks(self._video.sound, output, self._codec.container, span) as sound:
                    output.start_encoding()
                    every = (self._joined(stream, times), *sound.packets())
                    for packet in heapq.merge(*every, key=lambda packet: packet.dts * packet.time_base):
                        output.mux(packet)
            if shaped:
                _shape_pixels(joined, self._video.size, aspect)

    def close(self) -> None:
        """Let go of the file, whatever state it is in."""
        if self._container is not None:
            container, self._container = self._container, None
            with contextlib.suppress(OSError, av.FFmpegError):
                container.close()

    def _joined(self, stream: Any, times: Sequence[int]) -> Iterator[av.Packet]:
        """The packets of all parts, each with its time."""
        number = 0
        for part in self._parts():
            with av.open(str(part)) as source:
                for packet in source.demux(source.streams.video[0]):
                    if packet.size:
                        packet.stream = stream
                        packet.time_base = self._time_base
                        packet.pts = packet.dts = times[number]
                        packet.duration = times[number + 1] - times[number]
                        number += 1
                        yield packet

    def _parts(self) -> list[Path]:
        return sorted(self._workplace.glob(f"{self._name}-*.{self._codec.container}"))

    def _open(self, height: int, width: int) -> None:
        path = self._workplace / f"{self._name}-{self._next:09d}.{self._codec.container}"
        # In fragments, so that what is there plays even if the end is never written.
        fragments = {} if self._codec.container == "webm" else {"movflags": "+frag_keyframe+empty_moov"}
        self._container = av.open(str(path), "w", format=self._codec.container, options=fragments)
        self._stream = self._container.add_stream(self._codec.encoder, rate=self._rate, options=self._codec.options)
        context = self._stream.codec_context
        context.width, context.height, context.pix_fmt = width, height, self._codec.pixel_format
        context.time_base = self._time_base
        context.sample_aspect_ratio = self._video.sample_aspect_ratio
        self._say_colours(context)

    def _say_colours(self, what: Any) -> None:
        colours = self.colours
        what.colorspace, what.color_primaries = colours.matrix, colours.primaries
        what.color_trc, what.color_range = colours.transfer, colours.range

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        with writing(self._path):
            try:
                yield
            except av.FFmpegError as error:
                if isinstance(error, OSError):
                    raise
                raise InputError(f"{self._path}: cannot be encoded ({error})") from error


def time_base_of(video: Video) -> Fraction:
    """What the times of a video's frames are multiples of, in seconds."""
    return video.time_base or 1 / video.frame_rate.limit_denominator(60_000)


def _shape_pixels(path: Path, size: tuple[int, int], aspect: Fraction) -> None:
    """Write into a WebM file at what size its pictures are shown, which PyAV has no way to: DisplayWidth and
    DisplayHeight move into the room of the track's title, so that nothing after it moves."""
    height, width = size
    shown = struct.pack(">HBIHBI", 0x54B0, 0x84, round(width * aspect), 0x54BA, 0x84, height)
    with path.open("r+b") as file:
        head = file.read(4096)
        # The title, and later the element "Video", of less than 100 bytes, that begins with PixelWidth and PixelHeight.
        found = re.search(rb"(?s)\x53\x6e\x8b%b(.*?)\xe0(.)(?=\xb0[\x81\x82]..?\xba)" % _ROOM.encode(), head)
        if found:  # else this FFmpeg writes it in another way
            file.seek(found.start())
            file.write(found[1] + b"\xe0" + bytes([found[2][0] + len(shown)]) + shown)
