"""FFmpeg's libraries through PyAV: opening what they read, decoding what decodes, and frames as they are shown."""

import dataclasses
import errno
import os
import re
import struct
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, BinaryIO, Protocol, runtime_checkable

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer
from av.video.reformatter import VideoReformatter
from jaxtyping import UInt8

from hmhi_jax.data.live_sound import LiveSound
from hmhi_jax.data.pictures import Turn
from hmhi_jax.data.video import Colours
from hmhi_jax.errors import InputError

ENOUGH = 0.95  # fewer than this share of the frames, or of the length that a file promises, is worth a note
LONGEST_GAP = 10  # seconds between frames of a broadcast; after a longer one its clock was set
CLOCK_SET = "{}: its clock was set in the middle; videos made of it have no sound"
_CLOCK_MAY_JUMP = 0x0200  # FFmpeg's AVFMT_TS_DISCONT
# Titles and the like may be in any encoding. From PyAV 19 on they are decoded whatever they are.
_ANY_METADATA = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}


@runtime_checkable
class Readable(Protocol):
    """What PyAV reads from."""

    def read(self, most: int) -> bytes: ...


def without_password(source: str) -> str:
    """An address without the name and the password in it, as it may be shown and kept."""
    return re.sub(r"(?<=://)[^/?#\s]*@", "", source)


def is_url(source: str) -> bool:
    """Whether a name is an address as of a camera in the network; a file may have any characters in its name."""
    return bool(re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", source)) and not os.path.exists(source)


def open_container(
    address: str,
    container_format: str | None = None,
    opened: Readable | None = None,
    timeout: tuple[float, float] | None = None,
) -> av.container.InputContainer:
    """Open what FFmpeg knows by `address`: a file's path, a URL, or a device of a container format; or what is `opened`
    already, `address` being its name in messages.

    `timeout` is how many seconds FFmpeg's network tries to open it, and then to read from it.
    """
    source = without_password(address)
    if not container_format and not is_url(address):
        address = os.path.abspath(address)  # else FFmpeg takes what stands before a colon for a protocol
    try:
        return av.open(opened or _name_or_file(address), format=container_format, timeout=timeout, **_ANY_METADATA)
    except PermissionError as error:
        if opened is not None or is_url(address) or os.access(address, os.R_OK):  # FFmpeg refuses to follow it
            raise InputError(f"{source}: is no video but names other files, which are not read") from error
        raise InputError(f"{source}: cannot be read (permission denied)") from error
    except (av.FFmpegError, ValueError) as error:
        too_short = isinstance(error, OSError) and error.errno == errno.EIO and os.path.isfile(address)
        if too_short or isinstance(error, av.error.InvalidDataError):
            raise InputError(
                f"{source}: is no video that can be read; if it should be one, the file is cut off or damaged"
            ) from error
        reason = getattr(error, "strerror", None) or without_password(str(error))
        raise InputError(f"{source}: cannot be opened as a video ({reason})") from error


def _name_or_file(address: str) -> str | BinaryIO:
    """What PyAV opens: an opened file where its name is in another encoding, which PyAV cannot hand on."""
    try:
        address.encode()
    except UnicodeEncodeError:
        return open(address, "rb")
    return address


def video_stream(container: av.container.InputContainer, path: str) -> av.video.stream.VideoStream:
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


def frame_rate(stream: av.video.stream.VideoStream) -> Fraction:
    """Frames per second as the file states them, else as FFmpeg guesses, else 25."""
    return Fraction(stream.average_rate or stream.guessed_rate or 25)


def clock_may_jump(container: av.container.InputContainer) -> bool:
    """Whether a container's clock begins anywhere and may be set in the middle, as that of a broadcast."""
    return bool(int(container.format.flags) & _CLOCK_MAY_JUMP)


class Clock:
    """When the frames of a stream are shown, as the file says it.

    Times of a broadcast or a camera, whose clocks begin anywhere, are counted from the beginning. Where a frame has no
    time, or the clock was set in the middle, a frame follows the one before it at the stream's rate.

    time_base   what all times are multiples of, in seconds
    origin      the file's time, in seconds, that is 0; of a live source known once its first frame came
    live        whether the first frame is shown at 0, whatever its time
    set_anew    whether the clock was set in the middle of the frames seen so far
    """

    def __init__(self, stream: av.video.stream.VideoStream, live: bool = False) -> None:
        self.time_base = Fraction(stream.time_base)
        streams = (*stream.container.streams.video, *stream.container.streams.audio)
        starts = [s.start_time * s.time_base for s in streams if s.start_time is not None]
        self.live, self._may_jump = live, live or clock_may_jump(stream.container)
        self.origin = min(starts, default=Fraction(0)) if self._may_jump else Fraction(0)
        self.set_anew = False
        self._step = max(1, round(1 / (frame_rate(stream) * self.time_base)))

    def timed(self, frames: Iterator[av.VideoFrame]) -> Iterator[tuple[av.VideoFrame, Fraction, Fraction | None]]:
        """Frames with when they are shown, each later than the one before, and for how long if that is known."""
        last, shift, gap = None, -round(self.origin / self.time_base), round(LONGEST_GAP / self.time_base)
        self.set_anew = False
        for frame in frames:
            follows = 0 if last is None else last + self._step
            ticks = follows if frame.pts is None else frame.pts + shift
            if last is None:
                if ticks < 0 or self.live:
                    shift, ticks = shift - ticks, 0
                if self.live:
                    self.origin = -shift * self.time_base
            elif ticks < last - gap or (self._may_jump and ticks > last + gap):
                shift, ticks = shift + follows - ticks, follows
                self.set_anew = True
            elif ticks <= last:
                ticks = last + 1
            last = ticks
            yield frame, ticks * self.time_base, frame.duration * self.time_base if frame.duration else None


def stores_rgb(frame: av.VideoFrame) -> bool:
    """Whether a frame is stored as red, green and blue, or as a palette of them."""
    return frame.format.is_rgb or frame.format.has_palette


def colours_of(frame: av.VideoFrame, stream: av.video.stream.VideoStream) -> Colours:
    """How a stream stores colours, once its first frame is decoded."""
    context = stream.codec_context
    if stores_rgb(frame):
        return Colours()
    return Colours(context.colorspace, context.color_primaries, context.color_trc, context.color_range)


def indexed_frames(stream: av.video.stream.VideoStream) -> int | None:
    """How many frames a file will show by its index, if that lists all packets (MP4)."""
    index = getattr(stream, "index_entries", ())  # older PyAV has none
    return sum(not entry.is_discard for entry in index) if stream.frames and len(index) == stream.frames else None


@dataclasses.dataclass(frozen=True)
class Span:
    """From when to when something is shown, in seconds."""

    begin: Fraction
    end: Fraction

    def and_also(self, other: "Span | None") -> "Span":
        return self if other is None else Span(min(self.begin, other.begin), max(self.end, other.end))


def stated_frames(container: av.container.InputContainer, read: Span | None, rate: Fraction) -> int:
    """How many frames there should be by the time that a container states, if what was `read` of anything in it ends
    long before; else 0. Some count that time from their first frame, some from 0."""
    if read is None:
        return 0
    stated, reach = Fraction(container.duration or 0, av.time_base), read.end - read.begin
    if not clock_may_jump(container):
        reach = max(reach, read.end)
    return 0 if reach >= ENOUGH * stated - 1 / rate else round(stated * rate)


class Decoder:
    """Decodes what can be decoded: packets that do not are counted, and frames that are damaged; a cut-off end is an
    end.

    With `stop_at_errors` it goes no further than the first of them, and says so in `stopped`. With `sound` it reads
    what else the container holds too, hands it there, and keeps in `read` from when to when all of it is.
    """

    def __init__(
        self,
        stream: av.video.stream.VideoStream | av.audio.stream.AudioStream,
        stop_at_errors: bool = False,
        sound: LiveSound | None = None,
    ) -> None:
        self._stream = stream
        self._container = stream.container
        self._stop_at_errors = stop_at_errors
        self._sound = sound
        self.read: Span | None = None
        self.stopped = False
        self.packets = 0  # whose frames are shown
        self.packet_bytes = 0  # of the latest of them
        self.undecodable = 0
        self.damaged = 0  # frames of which a part was made up
        self.cut_off = False

    def stated_frames(self) -> int:
        """As the function, of all that was read with `sound`; some state their clock's rate, where frames are fewer."""
        rate, seconds = frame_rate(self._stream), self.read.end - self.read.begin if self.read else 0
        if seconds and self.packets:
            rate = min(rate, self.packets / seconds)
        return stated_frames(self._container, self.read, rate)

    @property
    def losses(self) -> str:
        """What is said of all that did not decode; empty if all did."""
        undecodable = f"{self.undecodable} packets do not decode; " if self.undecodable else ""
        return undecodable + (f"{self.damaged} frames are damaged; " if self.damaged else "")

    def frames(self) -> Iterator[Any]:
        """Pictures or sound."""
        packets = self._container.demux(*([] if self._sound else [self._stream]))
        end = 0  # of what was read, in bytes
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                # FFmpeg leaves out, and does not tell, a last picture of which a Y4M file holds only a part.
                self.cut_off |= self._container.format.name == "yuv4mpegpipe" and 0 < end < (self._container.size or 0)
                return
            except BlockingIOError:  # some camera drivers say "not yet" instead of waiting
                time.sleep(0.005)
                continue
            except av.FFmpegError:
                self.cut_off = True
                yield from self._decode(None)
                return
            if packet.pos is not None:
                end = packet.pos + packet.size
            if self._sound:
                self.read = span_of(packet, self.read)
                if packet.stream_index != self._stream.index:
                    self._sound.add(packet)
                    continue
            # A packet known to be cut short fails later, and silently, where several frames are decoded at once.
            if self._stop_at_errors and packet.is_corrupt:
                self.stopped = True
                return
            if is_shown(packet):
                self.packets += 1
                self.packet_bytes = packet.size
            yield from self._decode(packet)
            if self._stop_at_errors and (self.undecodable or self.damaged):
                self.stopped = True
                return

    def _decode(self, packet: av.Packet | None) -> list[Any]:
        try:
            frames = self._stream.codec_context.decode(packet)
        except av.error.EOFError:  # already flushed
            return []
        except av.FFmpegError:
            self.undecodable += 1
            return []
        for number, frame in enumerate(frames):
            self.damaged += frame.is_corrupt
            if frame.is_corrupt and self._stop_at_errors:
                return frames[:number]
        return frames


def span_of(packet: av.Packet, before: Span | None) -> Span | None:
    """From when to when anything is shown, with a packet more."""
    if packet.pts is None or not packet.size:
        return before
    begin = packet.pts * packet.time_base
    return Span(begin, begin + (packet.duration or 0) * packet.time_base).and_also(before)


def cut_off_note(path: str, decoded: int, expected: int = 0, lost: str = "") -> str:
    """What is said of a video that ends before what it promises, here or on its way over a network, or lacks some."""
    of_expected = f" of about {expected}" if expected > decoded else ""
    return f"{path}: is cut off or damaged; {lost}{decoded}{of_expected} frames decode and are used"


def is_shown(packet: av.Packet) -> bool:
    """Whether a packet becomes a frame to be seen: not what an edit list cuts away, nor VP8's hidden frames."""
    if not packet.size or packet.is_discard:
        return False
    return packet.stream.codec_context.name != "vp8" or bool(bytes(packet)[0] & 0x10)


def _turn(frame: av.VideoFrame) -> Turn:
    """What shows a frame as its display matrix says (which phones write, front cameras with a mirror in it).

    The matrix [a b; c d] takes a point (x, y) of the stored picture to (ax + cy, bx + dy). Other angles than quarter
    turns are rounded to one.
    """
    try:
        side_data = SideDataContainer(frame).get("DISPLAYMATRIX")  # `frame.side_data` would make a cycle of references
    except ValueError:  # PyAV does not know EXIF, which comes without a mirror in it; JPEG frames may have it
        turns = {0: Turn(), 90: Turn(swapped=True, up=True), -90: Turn(swapped=True, left=True)}
        return turns.get(frame.rotation, Turn(up=True, left=True))
    if side_data is None:
        return Turn()
    a, b, _, c, d = struct.unpack("=5i", bytes(side_data)[:20])
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Turn(up=d < 0, left=a < 0)
    return Turn(swapped=True, up=b < 0, left=c < 0)


def shown(frame: av.VideoFrame, stream: av.video.stream.VideoStream) -> tuple[tuple[int, int], Fraction]:
    """(height, width) of a frame as it is meant to be seen, and width over height of its pixels."""
    aspect = Fraction(stream.sample_aspect_ratio or 1)  # a kind of its own from PyAV 19 on
    return shown_size(frame), 1 / aspect if _turn(frame).swapped else aspect


def shown_size(frame: av.VideoFrame) -> tuple[int, int]:
    """(height, width) of a frame as it is meant to be seen."""
    return _turn(frame).size((frame.height, frame.width))


_converters = threading.local()


def converted(frame: av.VideoFrame, **to: Any) -> av.VideoFrame:
    """A frame in another pixel format; `to` as for `av.VideoFrame.reformat`.

    Setting a conversion up takes several times as long as doing it, and with threads of its own it starts them for
    every frame: what does it is kept, one for each thread and each `to`.
    """
    kept = _converters.__dict__.setdefault(tuple(to.items()), VideoReformatter())
    return kept.reformat(frame, **to, threads=1)


def upright_picture(frame: av.VideoFrame, what: str) -> UInt8[np.ndarray, "H W 3"]:
    """A frame as 8-bit RGB, as it is meant to be seen. Raises `InputError` that begins with `what`."""
    try:
        return _turn(frame).pixels(converted(frame, format="rgb24").to_ndarray())
    except (av.FFmpegError, ValueError, MemoryError) as error:
        size = f"{frame.width} x {frame.height} pixels of {frame.format.name}"
        raise InputError(f"{what}: {size} cannot be made a picture ({error}); re-encode the video") from error


def planes(frame: av.VideoFrame) -> list[np.ndarray]:
    """The planes of a frame in a planar pixel format, as arrays `[h, w]` that share its memory."""
    depth = np.uint16 if frame.format.components[0].bits > 8 else np.uint8
    return [
        np.frombuffer(plane, depth).reshape(plane.height, -1)[:, : plane.width]  # rows end with padding
        for plane in frame.planes
    ]


def upright_planes(frame: av.VideoFrame, like: av.VideoFrame) -> list[np.ndarray]:
    """The planes of a frame as it is meant to be seen, if it is turned as the frame `like` is."""
    return [_turn(like).pixels(plane) for plane in planes(frame)]
