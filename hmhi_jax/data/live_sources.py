"""Live sources, read once as they come: cameras, streams of the network, pipes, and standard input."""

import contextlib
import dataclasses
import functools
import io
import itertools
import os
import queue
import re
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np

from hmhi_jax.data import ffmpeg
from hmhi_jax.data.live_sound import LiveSound
from hmhi_jax.data.video import Frame, Sound, Video, check_same_size, check_size
from hmhi_jax.errors import InputError

OPENING, BETWEEN = 10.0, 30.0  # seconds to wait for a source to answer, and for its next frame


class LiveVideo(Video):
    """A video that is read once, as it comes. Its sound is kept meanwhile, until somebody asks for it."""

    live = True
    frame_count = None
    _clock: ffmpeg.Clock | None = None
    _heard: LiveSound | None = None  # with a clock

    def _begin(
        self, first: av.VideoFrame, stream: av.video.stream.VideoStream, clock: ffmpeg.Clock, heard: LiveSound
    ) -> None:
        """What is known of the video once its first frame is there."""
        self.frame_rate = ffmpeg.frame_rate(stream)
        self.size, self.sample_aspect_ratio = ffmpeg.shown(first, stream)
        check_size(self.size, self.path)
        self.time_base, self.colours = clock.time_base, ffmpeg.colours_of(first, stream)
        self._clock, self._heard = clock, heard

    def _shown(self, decoded: Iterator[av.VideoFrame]) -> Iterator[Frame]:
        """Decoded frames as they are meant to be seen, and when."""
        for index, (frame, *times) in enumerate(self._clock.timed(decoded)):
            what, size = f"{self.path}: frame {index}", ffmpeg.shown_size(frame)
            check_same_size(size, what, self.size, "the first", "have it send frames of one size")
            yield Frame(index, f"{index:07d}", ffmpeg.upright_picture(frame, what), *times, frame)

    @functools.cached_property
    def sound(self) -> Sound | None:
        """What came until now; later, no more is kept."""
        if self._heard is None or self._clock is None:
            return None
        sound = self._heard.kept(self._clock.origin, earlier=not self._clock.live)
        if self._clock.set_anew:
            self.notes.append(ffmpeg.CLOCK_SET.format(self.path))
            return None
        if failure := self._heard.failure:
            self.notes.append(f"{self.path}: its sound could not be kept in {tempfile.gettempdir()} ({failure})")
        return sound

    def fingerprint(self) -> dict[str, Any]:
        return {"path": self.path, "live": True}


class Camera(LiveVideo):
    """A live source: a camera by number or device, a pipe, or anything with a URL that FFmpeg opens."""

    def __init__(self, given: str, timeout: float | None = None) -> None:
        """Waits for the first frame. `timeout` is how many seconds to wait for an answer, and later for each frame
        (default 10 and 30); a source that then falls silent has ended, with a note."""
        self.path = source = ffmpeg.without_password(given)
        if os.path.exists(source):
            self.name = os.path.basename(source)
        elif source.isdigit():
            self.name = f"camera{source}"
        else:
            self.name = re.sub(r"[^\w.-]+", "-", source.partition("://")[2]).strip("-.") or "stream"
        self.notes = []
        self._patience = timeout or BETWEEN
        self._reader = _Reader(given, timeout or OPENING, self._patience)
        of_pipe = "; it is a pipe, and an MP4 whose index stands at its end must be a file" if _is_pipe(source) else ""
        try:
            stream = self._reader.next(timeout or OPENING)
            self._first: av.VideoFrame | None = self._reader.next(self._patience)
        except InputError as error:
            where = f"{source}: no such file or folder, and no such camera: " if source.isdigit() else ""
            raise InputError(f"{where}{error}{of_pipe}") from error
        except TimeoutError as error:
            raise InputError(
                f"{source}: sends no video, waited {error} seconds; see that it runs, or give it more --timeout"
            ) from error
        except BaseException:  # Ctrl-C
            self.end()
            raise
        if self._first is None:
            raise InputError(f"{source}: sends no frames that decode{of_pipe}")
        try:
            self._begin(self._first, stream, ffmpeg.Clock(stream, live=True), self._reader.sound)
        finally:
            self._reader.begun.set()

    def frames(self, start: int = 0) -> Iterator[Frame]:
        if self._first is None or start:
            raise InputError(f"{self.path}: is live and can be read only once, from its beginning")
        first, self._first = self._first, None
        count = 0
        try:
            coming = iter(functools.partial(self._reader.next, self._patience), None)
            for frame in self._shown(itertools.chain((first,), coming)):
                yield frame
                count += 1
            if self._reader.cut_off or self._reader.losses:
                self.notes.append(ffmpeg.cut_off_note(self.path, count, self._reader.expected, self._reader.losses))
        except TimeoutError as error:
            self.notes.append(f"{self.path}: sent nothing for {error} seconds; the {count} frames until then are used")
        finally:
            self.end()

    def end(self) -> None:
        self._reader.ended.set()


class _Reader:
    """Reads a source in a thread of its own, since FFmpeg or the system may block there for as long as they like;
    nobody waits for it, not even the end of the process.

    sound     what is kept of the source's sound, once `next` has given something
    begun     set by whoever has a first frame and needs the stream no more; until then it is not closed
    ended     set by whoever wants no more
    cut_off   whether the source broke off, once `next` has given None, and `expected`, how many frames it promised;
              `losses` is what is said of those that did not decode
    """

    def __init__(self, given: str, opening: float, between: float) -> None:
        self.begun, self.ended = threading.Event(), threading.Event()
        self.cut_off, self.expected, self.losses = False, 0, ""
        self._given, self._timeout = given, (opening + 5, between + 5)  # nobody waits for FFmpeg's own
        self._items: queue.Queue[Any] = queue.Queue(1)
        threading.Thread(target=self._run, daemon=True, name="camera").start()

    def next(self, seconds: float) -> Any:
        """At first the stream, then frames, in the end None. Raises what went wrong, and `TimeoutError` of the seconds
        after so many without."""
        deadline = time.monotonic() + seconds
        while not self.ended.is_set():
            try:
                item = self._items.get(timeout=0.1)
            except queue.Empty:
                if time.monotonic() > deadline:
                    self.ended.set()
                    raise TimeoutError(f"{seconds:g}") from None
                continue
            if isinstance(item, BaseException):
                raise item
            return item
        return None

    def _run(self) -> None:
        try:
            device, container_format = _camera_device(self._given)
            with ffmpeg.open_container(device, container_format=container_format, timeout=self._timeout) as container:
                stream = ffmpeg.video_stream(container, ffmpeg.without_password(self._given))
                self.sound = LiveSound(container)
                self._put(stream)
                decoder = ffmpeg.Decoder(stream, sound=self.sound)
                for frame in self._until_begun(decoder.frames()):
                    self._put(frame)
                    if self.ended.is_set():
                        return
                self.expected = ffmpeg.indexed_frames(stream) or decoder.stated_frames()
                self.cut_off = decoder.cut_off or decoder.packets < self.expected
                self.losses = "" if self.cut_off else decoder.losses
            self._put(None)
        except BaseException as error:
            self._put(error)

    def _until_begun(self, frames: Iterator[av.VideoFrame]) -> Iterator[av.VideoFrame]:
        """`frames`; where there is a first one, the end, or an error, is only met when the stream is not looked at."""
        given = False
        try:
            for frame in frames:
                yield frame
                given = True
        finally:
            while given and not self.ended.is_set() and not self.begun.wait(0.1):
                pass

    def _put(self, item: Any) -> None:
        while not self.ended.is_set():
            with contextlib.suppress(queue.Full):
                self._items.put(item, timeout=0.1)
                return


def _camera_device(source: str) -> tuple[str, str | None]:
    """What FFmpeg calls a camera on this system, and by which of its formats it is read."""
    if os.path.exists(source):  # a pipe, or a device of Linux
        return source, None if _is_pipe(source) else "v4l2"
    if not source.isdigit():
        return source, None
    if sys.platform == "darwin":
        return source, "avfoundation"
    if sys.platform == "win32":
        return f"video={source}", "dshow"
    return f"/dev/video{source}", "v4l2"


def _is_pipe(source: str) -> bool:
    return os.path.exists(source) and stat.S_ISFIFO(os.stat(source).st_mode)


class StandardInput(LiveVideo):
    """A video on standard input that FFmpeg knows by its header, such as YUV4MPEG2. What ends in the middle of a frame
    gives the frames before, and then says so in `failure`."""

    path = "standard input"
    name = "stdin"

    def __init__(self) -> None:
        """Reads the first frame."""
        self._input = _Counted(_standard_input())
        self.notes = []
        container = ffmpeg.open_container(self.path, opened=self._input)
        stream = ffmpeg.video_stream(container, self.path)
        heard, clock = LiveSound(container), ffmpeg.Clock(stream)
        self._decoder = ffmpeg.Decoder(stream, sound=heard)
        self._frames = self._decoder.frames()
        self._first = next(self._frames, None)
        if self._first is None:
            raise InputError(
                f"{self.path}: no frame of it can be decoded; an MP4 whose index stands at its end must be a file"
            )
        self._begin(self._first, stream, clock, heard)
        self._of_y4m = container.format.name == "yuv4mpegpipe"

    def frames(self, start: int = 0) -> Iterator[Frame]:
        if start:
            raise InputError(f"{self.path}: can be read only once, from its beginning")
        count = 0
        for frame in self._coming():
            yield frame
            count += 1
        if ending := self._ending():
            self.failure = f"{self.path}: {ending}; the {count} whole frames before are done"
            self.notes.append(self.failure)

    def _coming(self) -> Iterator[Frame]:
        return self._shown(itertools.chain((self._first,), self._frames))

    def _ending(self) -> str:
        """What is said of an end that is none."""
        decoder = self._decoder
        whole = self._input.header + decoder.packets * (len(b"FRAME\n") + decoder.packet_bytes)
        dropped = self._of_y4m and self._input.count > whole  # FFmpeg drops the last part of a frame in silence
        if dropped or decoder.cut_off or decoder.losses or decoder.stated_frames():
            return "ends in the middle of a frame, or is damaged"
        return ""


@dataclasses.dataclass(frozen=True)
class RawPictures:
    """What bytes without a header are: pictures of 8-bit RGB, of a size (height, width), so many a second."""

    size: tuple[int, int]
    rate: Fraction


class RawStandardInput(StandardInput):
    """Pictures on standard input without a header."""

    def __init__(self, raw: RawPictures) -> None:
        self._input = _standard_input()
        self.notes = []
        self.size, self.frame_rate = raw.size, raw.rate
        height, width = raw.size
        check_size(raw.size, f"--size: a picture on {self.path}")
        self._bytes = 3 * height * width
        self._data = self._input.read(self._bytes)
        self._of_size = f"{self._bytes} bytes, {width} x {height} pixels of 8-bit RGB"
        if self._data.startswith(b"YUV4MPEG2"):
            raise InputError(f"{self.path}: is YUV4MPEG2, which says its size and rate itself; leave --rate out")
        if len(self._data) < self._bytes:
            raise InputError(f"{self.path}: holds {len(self._data)} bytes, expected at least a frame, {self._of_size}")

    def _coming(self) -> Iterator[Frame]:
        for index in itertools.count():
            if len(self._data) < self._bytes:
                return
            yield Frame(index, f"{index:07d}", np.frombuffer(self._data, np.uint8).reshape(*self.size, 3))
            self._data = self._input.read(self._bytes)

    def _ending(self) -> str:
        if not self._data:
            return ""
        return f"ends in the middle of a frame, after {len(self._data)} of {self._of_size} (is --size right?)"


def _standard_input() -> io.BufferedIOBase:
    if sys.stdin.isatty():
        raise InputError("-: standard input is a terminal, expected a pipe with a video in it")
    return sys.stdin.buffer


class _Counted:
    """A stream as FFmpeg reads it: what is there so far, not waiting for more. Counts the bytes, and those of its
    first line."""

    def __init__(self, stream: io.BufferedIOBase) -> None:
        self._stream = stream
        self.count = self.header = 0

    def read(self, most: int) -> bytes:
        data = self._stream.read1(most)
        if not self.count:
            self.header = data.find(b"\n") + 1
        self.count += len(data)
        return data
