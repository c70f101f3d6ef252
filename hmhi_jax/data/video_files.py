"""Video files: how many frames they hold and how fast, and those of them that decode."""

import bisect
import contextlib
import dataclasses
import functools
import itertools
import math
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av

from hmhi_jax.complete_files import refuse_special
from hmhi_jax.data.ffmpeg import (
    CLOCK_SET,
    ENOUGH,
    LONGEST_GAP,
    Clock,
    Decoder,
    Span,
    clock_may_jump,
    colours_of,
    cut_off_note,
    frame_rate,
    indexed_frames,
    is_shown,
    open_container,
    shown,
    shown_size,
    span_of,
    stated_frames,
    upright_picture,
    video_stream,
)
from hmhi_jax.data.video import FileVideo, Frame, Sound, check_same_size, check_size
from hmhi_jax.errors import InputError

_STEADY = 0.01  # how much a steady frame rate may differ from what the frames' times say


class VideoFile(FileVideo):
    """A file with a video stream. Opening it decodes the first frame, so that what is no video is known at once; its
    frames are counted when their number or rate is first asked for, since that may mean to read the whole file."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        refuse_special(path)
        if os.path.getsize(path) == 0:
            raise InputError(f"{self.path}: the file is empty")
        with open_container(self.path) as container:
            stream = video_stream(container, self.path)
            if stream.codec_context.width:  # else nothing says it before the first frame
                check_size((stream.codec_context.height, stream.codec_context.width), self.path)
            first = next(Decoder(container, stream).frames(), None)
            if first is None:
                raise InputError(f"{self.path}: no frame of it can be decoded; is the file cut off or damaged?")
            self.size, self.sample_aspect_ratio = shown(first, stream)
            self._clock = Clock(container, stream)
            self.time_base = self._clock.time_base
            self.colours = colours_of(first, stream)
            self.sound = Sound(self.path, self._clock.origin) if container.streams.audio else None
        check_size(self.size, self.path)
        self._entry = _Entry()

    @functools.cached_property
    def _promise(self) -> "_Promise":
        with open_container(self.path) as container:
            return _promise(container, video_stream(container, self.path))

    @property
    def frame_rate(self) -> Fraction:
        return self._promise.frame_rate

    @property
    def frame_count(self) -> int:
        return self._promise.frames

    def frame_at(self, seconds: Fraction) -> int:
        """By the frames' own times, which need not be steady; reads packets up to that time, undecoded."""
        times: list[Fraction] = []
        with open_container(self.path) as container, contextlib.suppress(av.FFmpegError):  # a damaged file's end
            stream = video_stream(container, self.path)
            tick = stream.time_base  # some containers round times to it
            for packet in container.demux(stream):
                if is_shown(packet) and packet.pts is None:
                    return super().frame_at(seconds)
                if is_shown(packet):
                    times.append(packet.pts * tick)
                if times and packet.dts is not None and packet.dts * tick > min(times) + seconds:
                    break  # what comes later is shown later
        return sum(time - min(times) + tick <= seconds for time in times)

    def begin_at(self, first: int) -> None:
        with open_container(self.path) as container:
            self._entry = _entry(container, video_stream(container, self.path), first)

    def frames(self, start: int = 0) -> Iterator[Frame]:
        digits = max(5, len(str(self.frame_count - 1)))
        entry = self._entry if start >= self._entry.number else _Entry()
        try:
            for index, (decoded, time, duration) in enumerate(self._clock.timed(self._decoded(entry)), entry.number):
                what = f"{self.path}: frame {index}"
                check_same_size(shown_size(decoded), what, self.size, "the first", "re-encode it, or cut it there")
                if index >= start:
                    picture = upright_picture(decoded, what)
                    yield Frame(index, f"{index:0{digits}d}", picture, time, duration, decoded)
        finally:  # also where no more is wanted
            if self.sound and self._clock.set_anew:
                self.sound = None
                self.notes.append(CLOCK_SET.format(self.path))

    def _decoded(self, entry: "_Entry") -> Iterator[av.VideoFrame]:
        """All frames from an entry on that decode. At the first packet that does not, it starts over on one thread.

        Decoders that work on several frames at once drop good neighbours of a bad packet, and which ones depends on the
        number of threads; the result must not.
        """
        delivered = entry.number
        for threads in ("AUTO", "SLICE"):
            with open_container(self.path) as container:
                stream = video_stream(container, self.path)
                stream.thread_type = threads
                decoder = Decoder(container, stream, stop_at_errors=threads == "AUTO")
                for number, decoded in enumerate(entry.frames(container, stream, decoder), entry.number):
                    if number >= delivered:
                        yield decoded
                        delivered += 1
                if not decoder.stopped:
                    break
        decoder.packets += entry.packets
        self._judge(delivered, decoder)

    def _judge(self, decoded: int, decoder: "Decoder") -> None:
        """Note what is missing at the end of the file."""
        self.notes.clear()
        expected = self._promise.frames
        cut_off = decoder.cut_off or self._promise.cut_off or decoder.packets < self._promise.packets
        losses = "" if cut_off else decoder.losses
        if cut_off or losses or decoded < ENOUGH * expected - 1:
            self.notes.append(cut_off_note(self.path, decoded, expected, losses))


@dataclasses.dataclass(frozen=True)
class _Entry:
    """Where decoding begins.

    number   of the frame that is wanted first
    time     its time stamp
    key      the time stamp of the key frame that it is decoded from
    packets  that show something and lie before that
    """

    number: int = 0
    time: int = 0
    key: int = 0
    packets: int = 0

    def frames(
        self, container: av.container.InputContainer, stream: av.video.stream.VideoStream, decoder: Decoder
    ) -> Iterator[av.VideoFrame]:
        """The frames from there on."""
        if not self.number:
            return decoder.frames()
        container.seek(self.key, stream=stream)
        return itertools.dropwhile(lambda frame: frame.pts is None or frame.pts < self.time, decoder.frames())


def _entry(container: av.container.InputContainer, stream: av.video.stream.VideoStream, first: int) -> _Entry:
    """From where frame `first` decodes as it does from the beginning; the beginning itself where that is not sure: the
    file's clock may jump, time stamps are missing or the same twice, or what decodes there is another frame. Reads
    packets up to that frame, undecoded, and decodes from the key frame before it."""
    times: list[int] = []
    keys: list[_Entry] = []
    if clock_may_jump(container):
        return _Entry()
    with contextlib.suppress(av.FFmpegError):  # told when the frames are read
        for packet in filter(is_shown, container.demux(stream)):
            if packet.pts is None or packet.pts < 0 or packet.is_corrupt:
                return _Entry()
            if packet.is_keyframe:
                keys.append(_Entry(first, 0, packet.pts, len(times)))
            bisect.insort(times, packet.pts)
            if len(times) > first and packet.dts is not None and packet.dts > times[first]:
                break  # what comes later is shown later
        if first >= len(times) or len(set(times)) < len(times):
            return _Entry()
        entry = next((key for key in reversed(keys) if key.key <= times[first]), _Entry())
        if entry.packets:
            entry, decoder = dataclasses.replace(entry, time=times[first]), Decoder(container, stream)
            found = next(entry.frames(container, stream, decoder), None)
            if found and found.pts == entry.time and not decoder.undecodable:
                return entry
    return _Entry()


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


def _promise(container: av.container.InputContainer, stream: av.video.stream.VideoStream) -> _Promise:
    """Count what is to come: in the file's index if that lists all packets (MP4), else by reading them all once.

    Neither a stated rate times a length nor a stated number of frames will do: edit lists cut frames away, screen
    recorders store a frame when something changes, clocks jump where recordings were joined.
    """
    rate = frame_rate(stream)
    if (shown := indexed_frames(stream)) is not None:
        return _Promise(shown, shown, rate)
    count, before = 0, None
    read: Span | None = None  # of anything the file holds, as sound may go on when pictures stand still
    pieces: list[Span] = []  # of the video: more than one where a broadcast's clock was set
    longest_gap = LONGEST_GAP if clock_may_jump(container) else math.inf
    with contextlib.suppress(av.FFmpegError):  # told when the frames are read
        for packet in container.demux():
            shown = packet.stream_index == stream.index and is_shown(packet)
            count += shown
            read = span_of(packet, read)
            if shown and packet.pts is not None:
                begin = packet.pts * packet.time_base
                span = Span(begin, begin + ((packet.duration or 0) * packet.time_base or 1 / rate))
                if before is None or abs(begin - before) > longest_gap:
                    pieces.append(span)
                pieces[-1] = span.and_also(pieces[-1])
                before = begin
    seconds = sum(piece.end - piece.begin for piece in pieces)
    if seconds and abs(count / seconds / rate - 1) > _STEADY:
        rate = Fraction(count / seconds).limit_denominator(1_000_000)
    if stated := stated_frames(container, read, rate):
        return _Promise(max(count, stated), count, rate, cut_off=True)
    return _Promise(count, count, rate)
