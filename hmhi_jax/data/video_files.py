"""Videos in files: a folder of pictures, one a frame; a file that holds several (animated WebP, PNG and GIF, TIFF with
pages); and a container with a video stream: how many frames it holds and how fast, and those of them that decode."""

import bisect
import collections
import contextlib
import dataclasses
import functools
import itertools
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from PIL import Image

from hmhi_jax.complete_files import refuse_special
from hmhi_jax.data import ffmpeg
from hmhi_jax.data.pictures import (
    PictureError,
    is_animated,
    is_picture,
    natural_order,
    picture_size,
    read_picture,
    read_pictures,
)
from hmhi_jax.data.records import FolderPictures
from hmhi_jax.data.video import FileVideo, Frame, Sound, Video, check_same_size, check_size, files_fingerprint
from hmhi_jax.errors import InputError, first_of

DEFAULT_FRAME_RATE = Fraction(24)
_TOO_SHORT, _NO_TIME = 10, Fraction(1, 10)  # a picture of so few milliseconds is shown so many seconds by browsers
_STEADY = 0.01  # how much a steady frame rate may differ from what the frames' times say


class FrameFolder(Video):
    """Pictures in natural order of their names (frame2 before frame10). Opening it reads their headers only."""

    def __init__(
        self, folder: str | Path, frame_rate: Fraction | None = None, pictures: Sequence[Path] | None = None
    ) -> None:
        """`pictures` chooses some of the folder's files; by default all with a picture's suffix."""
        folder = Path(folder)
        pictures = pictures or [path for path in folder.iterdir() if is_picture(path)]
        names = [path.name for path in sorted(pictures, key=natural_order)]
        self.path = str(folder)
        self.name = folder.resolve().name
        self.frame_rate = frame_rate or DEFAULT_FRAME_RATE
        self.frame_count = len(names)
        self.notes = []
        self._pictures = FolderPictures(str(folder), tuple(names))
        self._names = [os.path.splitext(name)[0] for name in names]
        twice, count = collections.Counter(self._names).most_common(1)[0]
        if count > 1:
            others = ", ".join(name for name in names if os.path.splitext(name)[0] == twice)
            raise InputError(f"{folder}: {others} would get the same mask name, expected one picture per frame name")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # such a picture is refused anyway
            sizes = [picture_size(picture, ends=False) for picture in self._pictures]
        self.size = sizes[0]
        check_size(self.size, str(self._pictures[0]))
        for picture, size in zip(self._pictures, sizes, strict=True):
            check_same_size(size, str(picture), self.size, names[0], "resize them, or segment them as two videos")

        more = [picture.name for picture in self._pictures if is_animated(picture)]
        if more:
            self.notes.append(
                f"{folder}: of {first_of(more)} only the first picture is read; name such a file alone to read all"
            )

    def frames(self, start: int = 0) -> Iterator[Frame]:
        for index in range(start, len(self._pictures)):
            picture = read_picture(self._pictures[index])
            if picture.shape[:2] != self.size:
                raise InputError(f"{self._pictures[index]}: changed its size while it was being read")
            yield Frame(index, self._names[index], picture)

    def frame_names(self) -> Sequence[str]:
        return self._names

    def frame_files(self) -> Sequence[str]:
        return self._pictures.keys

    def fingerprint(self) -> dict[str, Any]:
        files = files_fingerprint(self._pictures)
        return {"path": os.path.abspath(self.path), "frames": len(self._pictures), "files": files}


class AnimatedPicture(FileVideo):
    """The pictures of a file, as many a second as it says on average; pages of a TIFF have no times."""

    def __init__(self, path: str | Path, frame_rate: Fraction | None = None) -> None:
        """Decodes all pictures once. `frame_rate` is for pages (default 24)."""
        super().__init__(path)
        sizes, times = [], []
        try:
            for picture, milliseconds in read_pictures(Path(path)):
                sizes.append(picture.shape[:2])
                times.append(milliseconds)
        except PictureError:
            if not sizes:
                raise
            self.notes.append(ffmpeg.cut_off_note(self.path, len(sizes)))
        self.size, self.frame_count = sizes[0], len(sizes)
        check_size(self.size, self.path)
        for number, size in enumerate(sizes):
            what = f"{self.path}: picture {number}"
            check_same_size(size, what, self.size, "the first", "save them as files of their own")
        self._durations = [Fraction(time) / 1000 if time and time > _TOO_SHORT else _NO_TIME for time in times]
        seconds = 0 if set(times) == {None} else sum(self._durations)
        self.time_base = Fraction(1, 1000) if seconds else None
        self.frame_rate = (
            Fraction(len(sizes) / seconds).limit_denominator(1001) if seconds else frame_rate or DEFAULT_FRAME_RATE
        )

    def frame_at(self, seconds: Fraction) -> int:
        if self.time_base is None:
            return super().frame_at(seconds)
        return sum(time + self.time_base <= seconds for time in itertools.accumulate([0, *self._durations[:-1]]))

    def frames(self, start: int = 0) -> Iterator[Frame]:
        time = Fraction(0)
        pictures = zip(self._durations, read_pictures(Path(self.path)), strict=False)  # no further than those
        for index, (duration, (picture, _)) in enumerate(pictures):
            if index >= start:
                shown = (time, duration) if self.time_base else (None, None)
                yield Frame(index, f"{index:05d}", picture, *shown)
            time += duration


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

    def frames(self, stream: av.video.stream.VideoStream, decoder: ffmpeg.Decoder) -> Iterator[av.VideoFrame]:
        """The frames from there on."""
        if not self.number:
            return decoder.frames()
        stream.container.seek(self.key, stream=stream)
        return itertools.dropwhile(lambda frame: frame.pts is None or frame.pts < self.time, decoder.frames())


def _entry(stream: av.video.stream.VideoStream, first: int) -> _Entry:
    """From where frame `first` decodes as it does from the beginning; the beginning itself where that is not sure: the
    file's clock may jump, time stamps are missing or the same twice, or what decodes there is another frame. Reads
    packets up to that frame, undecoded, and decodes from the key frame before it."""
    times: list[int] = []
    keys: list[_Entry] = []
    if ffmpeg.clock_may_jump(stream.container):
        return _Entry()
    with contextlib.suppress(av.FFmpegError):  # told when the frames are read
        for packet in filter(ffmpeg.is_shown, stream.container.demux(stream)):
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
            entry, decoder = dataclasses.replace(entry, time=times[first]), ffmpeg.Decoder(stream)
            found = next(entry.frames(stream, decoder), None)
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


class VideoFile(FileVideo):
    """A file with a video stream. Opening it decodes the first frame, so that what is no video is known at once; its
    frames are counted when their number or rate is first asked for, since that may mean to read the whole file."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        refuse_special(path)
        if os.path.getsize(path) == 0:
            raise InputError(f"{self.path}: the file is empty")
        with self._stream() as stream:
            if stream.codec_context.width:  # else nothing says it before the first frame
                check_size((stream.codec_context.height, stream.codec_context.width), self.path)
            first = next(ffmpeg.Decoder(stream).frames(), None)
            if first is None:
                raise InputError(f"{self.path}: no frame of it can be decoded; is the file cut off or damaged?")
            self.size, self.sample_aspect_ratio = ffmpeg.shown(first, stream)
            self._clock = ffmpeg.Clock(stream)
            self.time_base = self._clock.time_base
            self.colours = ffmpeg.colours_of(first, stream)
            self.sound = Sound(self.path, self._clock.origin) if stream.container.streams.audio else None
        check_size(self.size, self.path)
        self._entry = _Entry()

    @contextlib.contextmanager
    def _stream(self) -> Iterator[av.video.stream.VideoStream]:
        with ffmpeg.open_container(self.path) as container:
            yield ffmpeg.video_stream(container, self.path)

    @functools.cached_property
    def _promise(self) -> _Promise:
        """Count what is to come: in the file's index if that lists all packets (MP4), else by reading them all once.

        Neither a stated rate times a length nor a stated number of frames will do: edit lists cut frames away, screen
        recorders store a frame when something changes, clocks jump where recordings were joined.
        """
        with self._stream() as stream:
            container, rate = stream.container, ffmpeg.frame_rate(stream)
            if (count := ffmpeg.indexed_frames(stream)) is not None:
                return _Promise(count, count, rate)
            count, before = 0, None
            read: ffmpeg.Span | None = None  # of anything the file holds, as sound may go on when pictures stand still
            pieces: list[ffmpeg.Span] = []  # of the video: more than one where a broadcast's clock was set
            longest_gap = ffmpeg.LONGEST_GAP if ffmpeg.clock_may_jump(container) else math.inf
            with contextlib.suppress(av.FFmpegError):  # told when the frames are read
                for packet in container.demux():
                    shown = packet.stream_index == stream.index and ffmpeg.is_shown(packet)
                    count += shown
                    read = ffmpeg.span_of(packet, read)
                    if shown and packet.pts is not None:
                        begin = packet.pts * packet.time_base
                        span = ffmpeg.Span(begin, begin + ((packet.duration or 0) * packet.time_base or 1 / rate))
                        if before is None or abs(begin - before) > longest_gap:
                            pieces.append(span)
                        pieces[-1] = span.and_also(pieces[-1])
                        before = begin
            seconds = sum(piece.end - piece.begin for piece in pieces)
            if seconds and abs(count / seconds / rate - 1) > _STEADY:
                rate = Fraction(count / seconds).limit_denominator(1_000_000)
            stated = ffmpeg.stated_frames(container, read, rate)
        return _Promise(max(count, stated), count, rate, cut_off=stated > 0)

    @property
    def frame_rate(self) -> Fraction:
        return self._promise.frame_rate

    @property
    def frame_count(self) -> int:
        return self._promise.frames

    def frame_at(self, seconds: Fraction) -> int:
        """By the frames' own times, which need not be steady; reads packets up to that time, undecoded."""
        times: list[Fraction] = []
        with self._stream() as stream, contextlib.suppress(av.FFmpegError):  # a damaged file's end
            tick = stream.time_base  # some containers round times to it
            for packet in stream.container.demux(stream):
                if ffmpeg.is_shown(packet) and packet.pts is None:
                    return super().frame_at(seconds)
                if ffmpeg.is_shown(packet):
                    times.append(packet.pts * tick)
                if times and packet.dts is not None and packet.dts * tick > min(times) + seconds:
                    break  # what comes later is shown later
        return sum(time - min(times) + tick <= seconds for time in times)

    def begin_at(self, first: int) -> None:
        with self._stream() as stream:
            self._entry = _entry(stream, first)

    def frames(self, start: int = 0) -> Iterator[Frame]:
        digits = max(5, len(str(self.frame_count - 1)))
        entry = self._entry if start >= self._entry.number else _Entry()
        try:
            for index, (decoded, time, duration) in enumerate(self._clock.timed(self._decoded(entry)), entry.number):
                what, size = f"{self.path}: frame {index}", ffmpeg.shown_size(decoded)
                check_same_size(size, what, self.size, "the first", "re-encode it, or cut it there")
                if index >= start:
                    picture = ffmpeg.upright_picture(decoded, what)
                    yield Frame(index, f"{index:0{digits}d}", picture, time, duration, decoded)
        finally:  # also where no more is wanted
            if self.sound and self._clock.set_anew:
                self.sound = None
                self.notes.append(ffmpeg.CLOCK_SET.format(self.path))

    def _decoded(self, entry: _Entry) -> Iterator[av.VideoFrame]:
        """All frames from an entry on that decode, and then a note of what is missing. At the first packet that does
        not, it starts over on one thread.

        Decoders that work on several frames at once drop good neighbours of a bad packet, and which ones depends on the
        number of threads; the result must not.
        """
        delivered = entry.number
        for threads in ("AUTO", "SLICE"):
            with self._stream() as stream:
                stream.thread_type = threads
                decoder = ffmpeg.Decoder(stream, stop_at_errors=threads == "AUTO")
                for number, decoded in enumerate(entry.frames(stream, decoder), entry.number):
                    if number >= delivered:
                        yield decoded
                        delivered += 1
                if not decoder.stopped:
                    break
        self.notes.clear()
        promise = self._promise
        cut_off = decoder.cut_off or promise.cut_off or entry.packets + decoder.packets < promise.packets
        losses = "" if cut_off else decoder.losses
        if cut_off or losses or delivered < ffmpeg.ENOUGH * promise.frames - 1:
            self.notes.append(ffmpeg.cut_off_note(self.path, delivered, promise.frames, losses))
