"""Video files and cameras, decoded by FFmpeg's libraries through PyAV."""

import contextlib
import dataclasses
import itertools
import math
import os
import re
import stat
import struct
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from hmhi_jax.data.pictures import upright, upright_size
from hmhi_jax.data.video import FileVideo, Frame, Video, check_size
from hmhi_jax.errors import InputError

_ENOUGH = 0.95  # fewer than this share of the frames, or of the length that a file promises, is worth a note
_STEADY = 0.01  # how much a steady frame rate may differ from what the frames' times say
_LONGEST_GAP = 10  # seconds between frames of a broadcast; after a longer one its clock was set
_CLOCK_MAY_JUMP = 0x0200  # FFmpeg's AVFMT_TS_DISCONT


class VideoFile(FileVideo):
    """A file with a video stream. Opening it decodes the first frame, so that what is no video is known at once."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        if os.path.getsize(path) == 0:
            raise InputError(f"{self.path}: the file is empty")
        with _open(self.path) as container:
            stream = _video_stream(container, self.path)
            check_size((stream.codec_context.height, stream.codec_context.width), self.path)
            first = next(_Decoder(container, stream).frames(), None)
            if first is None:
                raise InputError(f"{self.path}: no frame of it can be decoded; is the file cut off or damaged?")
            self.size, self.sample_aspect_ratio = _shown(first, stream)
        check_size(self.size, self.path)
        with _open(self.path) as container:
            self._promise = _promise(container, _video_stream(container, self.path))
        self.frame_rate, self.frame_count = self._promise.frame_rate, self._promise.frames

    def frames(self, start: int = 0) -> Iterator[Frame]:
        digits = max(5, len(str((self.frame_count or 1) - 1)))
        for index, decoded in enumerate(self._decoded()):
            if (size := _upright_size(decoded)) != self.size:
                raise InputError(
                    f"{self.path}: frame {index} is {size[1]} x {size[0]} pixels but the first is "
                    f"{self.size[1]} x {self.size[0]}, expected frames of one size; re-encode it, or cut it there"
                )
            if index >= start:
                yield Frame(index, f"{index:0{digits}d}", _upright_picture(decoded))

    def _decoded(self) -> Iterator[av.VideoFrame]:
        """All frames that decode. At the first packet that does not, decoding starts over on one thread.

        Decoders that work on several frames at once drop good neighbours of a bad packet, and which ones depends on the
        number of threads; the result must not.
        """
        delivered = 0
        for threads in ("AUTO", "SLICE"):
            with _open(self.path) as container:
                stream = _video_stream(container, self.path)
                stream.thread_type = threads
                decoder = _Decoder(container, stream, stop_at_errors=threads == "AUTO")
                for number, decoded in enumerate(decoder.frames()):
                    if number >= delivered:
                        yield decoded
                        delivered += 1
                if not decoder.stopped:
                    break
        self._judge(delivered, decoder)

    def _judge(self, decoded: int, decoder: "_Decoder") -> None:
        """Note what is missing at the end of the file."""
        self.notes.clear()
        expected = self._promise.frames
        about = f" of about {expected}" if expected > decoded else ""
        used = f"{decoded}{about} frames decode and are used"
        cut_off = decoder.cut_off or self._promise.cut_off or decoder.packets < self._promise.packets
        if cut_off or (not decoder.undecodable and decoded < _ENOUGH * expected - 1):
            self.notes.append(f"{self.path}: is cut off or damaged; {used}")
        elif decoder.undecodable:
            self.notes.append(
                f"{self.path}: is cut off or damaged, {decoder.undecodable} packets do not decode; {used}"
            )


class Camera(Video):
    """A live source: a camera by number or device, a pipe, or anything with a URL that FFmpeg opens; read once."""

    live = True

    def __init__(self, given: str) -> None:
        self.path = source = without_password(given)
        self.name = f"camera{source}" if source.isdigit() else source
        self.frame_count = None
        self.notes = []
        device, container_format = _camera_device(given)
        try:
            self._container = _open(device, container_format=container_format)
        except InputError as error:
            where = f"{source}: no such file or folder, and no such camera: " if source.isdigit() else ""
            pipe = "; it is a pipe, and an MP4 whose index stands at its end must be a file" if _is_pipe(source) else ""
            raise InputError(f"{where}{error}{pipe}") from error
        self._stream = _video_stream(self._container, source)
        self.frame_rate = _frame_rate(self._stream)
        self._decoded = _Decoder(self._container, self._stream).frames()
        self._first = next(self._decoded, None)
        if self._first is None:
            raise InputError(f"{source}: sends no frames that decode")
        self.size, self.sample_aspect_ratio = _shown(self._first, self._stream)
        check_size(self.size, source)

    def frames(self, start: int = 0) -> Iterator[Frame]:
        if self._first is None or start:
            raise InputError(f"{self.path}: is live and can be read only once, from its beginning")
        first, self._first = self._first, None
        index = 0
        try:
            for decoded in itertools.chain((first,), self._decoded):
                if (size := _upright_size(decoded)) != self.size:
                    raise InputError(
                        f"{self.path}: changed from {self.size[1]} x {self.size[0]} to {size[1]} x {size[0]} pixels"
                    )
                yield Frame(index, f"{index:07d}", _upright_picture(decoded))
                index += 1
        finally:
            self._container.close()

    def fingerprint(self) -> dict[str, Any]:
        return {"path": self.path, "live": True}


class _Decoder:
    """Decodes what can be decoded: packets that do not are counted, a cut-off end is an end.

    With `stop_at_errors` it goes no further than the first such packet, and says so in `stopped`.
    """

    def __init__(
        self,
        container: av.container.InputContainer,
        stream: av.video.stream.VideoStream,
        stop_at_errors: bool = False,
    ) -> None:
        self._container = container
        self._stream = stream
        self._stop_at_errors = stop_at_errors
        self.stopped = False
        self.packets = 0  # whose frames are shown
        self.undecodable = 0
        self.cut_off = False

    def frames(self) -> Iterator[av.VideoFrame]:
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except BlockingIOError:  # some camera drivers say "not yet" instead of waiting
                time.sleep(0.005)
                continue
            except av.FFmpegError:
                self.cut_off = True
                yield from self._decode(None)
                return
            # A packet known to be cut short fails later, and silently, where several frames are decoded at once.
            if self._stop_at_errors and packet.is_corrupt:
                self.stopped = True
                return
            self.packets += _is_shown(packet)
            yield from self._decode(packet)
            if self._stop_at_errors and self.undecodable:
                self.stopped = True
                return

    def _decode(self, packet: av.Packet | None) -> list[av.VideoFrame]:
        try:
            return self._stream.codec_context.decode(packet)
        except av.error.EOFError:  # already flushed
            return []
        except av.FFmpegError:
            self.undecodable += 1
            return []


# Titles and the like may be in any encoding. From PyAV 19 on they are decoded whatever they are.
_ANY_METADATA = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}


def without_password(source: str) -> str:
    """An address without the name and the password in it, as it may be shown and kept."""
    return re.sub(r"(?<=://)[^/?#\s]*@", "", source)


def is_url(source: str) -> bool:
    """Whether a name is an address as of a camera in the network; a file may have any characters in its name."""
    return bool(re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", source)) and not os.path.exists(source)


def _open(address: str, container_format: str | None = None) -> av.container.InputContainer:
    """Open what FFmpeg knows by `address`: a file's path, a URL, or a device of a container format."""
    source = without_password(address)
    if not container_format and not is_url(address):
        address = os.path.abspath(address)  # else FFmpeg takes what stands before a colon for a protocol
    try:
        address.encode()
        return av.open(address, format=container_format, **_ANY_METADATA)
    except UnicodeEncodeError:  # a name in another encoding, which PyAV cannot hand on
        return av.open(open(address, "rb"), **_ANY_METADATA)
    except PermissionError as error:
        raise InputError(f"{source}: cannot be read (permission denied)") from error
    except av.error.InvalidDataError as error:
        raise InputError(
            f"{source}: is no video that can be read; if it should be one, the file is cut off or damaged"
        ) from error
    except (av.FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or without_password(str(error))
        raise InputError(f"{source}: cannot be opened as a video ({reason})") from error


def _video_stream(container: av.container.InputContainer, path: str) -> av.video.stream.VideoStream:
    """The video stream that players show: the first that is marked as the default, or the first; no cover picture."""
    marks = av.stream.Disposition
    streams = [s for s in container.streams.video if not s.disposition & (marks.attached_pic | marks.timed_thumbnails)]
    if streams:
        stream = next((s for s in streams if s.disposition & marks.default), streams[0])
        if stream.codec_context is None:
            raise InputError(f"{path}: its codec cannot be decoded here; re-encode it, for example as H.264")
        return stream
    kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
    raise InputError(f"{path}: holds no video stream, only {kinds}")


def _frame_rate(stream: av.video.stream.VideoStream) -> Fraction:
    return Fraction(stream.average_rate or stream.guessed_rate or 25)


@dataclasses.dataclass(frozen=True)
class _Promise:
    """What a file says of its video before anything is decoded.

    frames      how many will be shown, if all is well
    packets     how many packets that show something can be read; fewer are a file that is cut off
    frame_rate  frames by the time they are shown, as a whole
    cut_off     whether the file ends long before the time it states
    """

    frames: int
    packets: int
    frame_rate: Fraction
    cut_off: bool = False


@dataclasses.dataclass(frozen=True)
class _Span:
    """From when to when something is shown, in seconds."""

    begin: Fraction
    end: Fraction

    def and_also(self, other: "_Span | None") -> "_Span":
        return self if other is None else _Span(min(self.begin, other.begin), max(self.end, other.end))


def _promise(container: av.container.InputContainer, stream: av.video.stream.VideoStream) -> _Promise:
    """Count what is to come: in the file's index if that lists all packets (MP4), else by reading them all once.

    Neither a stated rate times a length nor a stated number of frames will do: edit lists cut frames away, screen
    recorders store a frame when something changes, clocks jump where recordings were joined.
    """
    rate = _frame_rate(stream)
    index = getattr(stream, "index_entries", ())  # older PyAV has none
    if stream.frames and len(index) == stream.frames:
        shown = sum(not entry.is_discard for entry in index)
        return _Promise(shown, shown, rate)
    count, before = 0, None
    read: _Span | None = None  # of anything the file holds, as sound may go on when pictures stand still
    pieces: list[_Span] = []  # of the video: more than one where a broadcast's clock was set
    longest_gap = _LONGEST_GAP if int(container.format.flags) & _CLOCK_MAY_JUMP else math.inf
    with contextlib.suppress(av.FFmpegError):  # told when the frames are read
        for packet in container.demux():
            shown = packet.stream_index == stream.index and _is_shown(packet)
            count += shown
            if packet.pts is None or not packet.size:
                continue
            begin, duration = packet.pts * packet.time_base, (packet.duration or 0) * packet.time_base
            read = _Span(begin, begin + duration).and_also(read)
            if shown:
                span = _Span(begin, begin + (duration or 1 / rate))
                if before is None or abs(begin - before) > longest_gap:
                    pieces.append(span)
                pieces[-1] = span.and_also(pieces[-1])
                before = begin
    seconds = sum(piece.end - piece.begin for piece in pieces)
    if seconds and abs(count / seconds / rate - 1) > _STEADY:
        rate = Fraction(count / seconds).limit_denominator(1_000_000)
    stated = Fraction(container.duration or 0, av.time_base)
    if read and read.end - read.begin < _ENOUGH * stated - 1 / rate:
        return _Promise(max(count, round(stated * rate)), count, rate, cut_off=True)
    return _Promise(count, count, rate)


def _is_shown(packet: av.Packet) -> bool:
    """Whether a packet becomes a frame to be seen: not what an edit list cuts away, nor VP8's hidden frames."""
    if not packet.size or packet.is_discard:
        return False
    return packet.stream.codec_context.name != "vp8" or bool(bytes(packet)[0] & 0x10)


def _turn(frame: av.VideoFrame) -> Image.Transpose | None:
    """What shows a frame as its display matrix says (which phones write, front cameras with a mirror in it).

    The matrix [a b; c d] takes a point (x, y) of the stored picture to (ax + cy, bx + dy). Other angles than quarter
    turns are rounded to one.
    """
    side_data = frame.side_data.get("DISPLAYMATRIX")
    if side_data is None:
        return None
    a, b, _, c, d = struct.unpack("=5i", bytes(side_data)[:20])
    if abs(a) + abs(d) >= abs(b) + abs(c):
        mirrored, upside_down = a < 0, d < 0
        turns = (None, Image.Transpose.FLIP_TOP_BOTTOM, Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180)
    else:
        mirrored, upside_down = c < 0, b < 0
        turns = (
            Image.Transpose.TRANSPOSE,
            Image.Transpose.ROTATE_90,
            Image.Transpose.ROTATE_270,
            Image.Transpose.TRANSVERSE,
        )
    return turns[2 * mirrored + upside_down]


def _shown(frame: av.VideoFrame, stream: av.video.stream.VideoStream) -> tuple[tuple[int, int], Fraction]:
    """(height, width) of a frame as it is meant to be seen, and width over height of its pixels."""
    aspect = stream.sample_aspect_ratio or Fraction(1)
    return _upright_size(frame), aspect if upright_size((0, 1), _turn(frame)) == (0, 1) else 1 / aspect


def _upright_size(frame: av.VideoFrame) -> tuple[int, int]:
    return upright_size((frame.height, frame.width), _turn(frame))


def _upright_picture(frame: av.VideoFrame) -> UInt8[np.ndarray, "H W 3"]:
    return upright(frame.to_ndarray(format="rgb24"), _turn(frame))


def _camera_device(source: str) -> tuple[str, str | None]:
    """What FFmpeg calls a camera on this system, and by which of its formats it is read."""
    if not source.isdigit():  # a URL, a pipe, or a device of Linux
        return source, "v4l2" if os.path.exists(source) and not _is_pipe(source) else None
    if sys.platform == "darwin":
        return source, "avfoundation"
    if sys.platform == "win32":
        return f"video={source}", "dshow"
    return f"/dev/video{source}", "v4l2"


def _is_pipe(source: str) -> bool:
    return os.path.exists(source) and stat.S_ISFIFO(os.stat(source).st_mode)
