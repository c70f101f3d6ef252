"""Live sources: cameras, streams of the network, pipes."""

import contextlib
import functools
import itertools
import os
import queue
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

import av

from hmhi_jax.data.ffmpeg import (
    CLOCK_SET,
    Clock,
    Decoder,
    colours_of,
    cut_off_note,
    frame_rate,
    indexed_frames,
    open_container,
    shown,
    shown_size,
    upright_picture,
    video_stream,
    without_password,
)
from hmhi_jax.data.live_sound import LiveSound
from hmhi_jax.data.video import Frame, Sound, Video, check_size
from hmhi_jax.errors import InputError

OPENING, BETWEEN = 10.0, 30.0  # seconds to wait for a source to answer, and for its next frame


class LiveVideo(Video):
    """A video that is read once, as it comes. Its sound is kept meanwhile, until somebody asks for it."""

    live = True
    frame_count = None
    _clock: Clock | None = None
    _heard: LiveSound | None = None  # with a clock

    @functools.cached_property
    def sound(self) -> Sound | None:
        """What came until now; later, no more is kept."""
        if self._heard is None or self._clock is None:
            return None
        sound = self._heard.kept(self._clock.origin, earlier=not self._clock.live)
        if self._clock.set_anew:
            self.notes.append(CLOCK_SET.format(self.path))
            return None
        if failure := self._heard.failure:
            self.notes.append(f"{self.path}: its sound could not be kept in {tempfile.gettempdir()} ({failure})")
        return sound


class Camera(LiveVideo):
    """A live source: a camera by number or device, a pipe, or anything with a URL that FFmpeg opens."""

    def __init__(self, given: str, timeout: float | None = None) -> None:
        """Waits for the first frame. `timeout` is how many seconds to wait for an answer, and later for each frame
        (default 10 and 30); a source that then falls silent has ended, with a note."""
        self.path = source = without_password(given)
        self.name = f"camera{source}" if source.isdigit() else source
        self.notes = []
        self._patience = timeout or BETWEEN
        self._reader = _Reader(given, timeout or OPENING, self._patience)
        try:
            self._reader.next(timeout or OPENING)
            first = self._reader.next(self._patience)
        except InputError as error:
            where = f"{source}: no such file or folder, and no such camera: " if source.isdigit() else ""
            raise InputError(f"{where}{error}{self._of_pipe()}") from error
        except TimeoutError as error:
            raise InputError(
                f"{source}: sends no video, waited {error} seconds; see that it runs, or give it more --timeout"
            ) from error
        except BaseException:  # Ctrl-C
            self.end()
            raise
        if first is None:
            raise InputError(f"{source}: sends no frames that decode{self._of_pipe()}")
        self._first: av.VideoFrame | None = first
        stream = self._reader.stream
        self.frame_rate = frame_rate(stream)
        self.size, self.sample_aspect_ratio = shown(first, stream)
        check_size(self.size, source)
        self._clock, self._heard = Clock(stream.container, stream, live=True), self._reader.sound
        self.time_base = self._clock.time_base
        self.colours = colours_of(first, stream)

    def _of_pipe(self) -> str:
        return "; it is a pipe, and an MP4 whose index stands at its end must be a file" if _is_pipe(self.path) else ""

    def frames(self, start: int = 0) -> Iterator[Frame]:
        if self._first is None or start:
            raise InputError(f"{self.path}: is live and can be read only once, from its beginning")
        first, self._first = self._first, None
        index = 0
        try:
            coming = iter(functools.partial(self._reader.next, self._patience), None)
            for decoded, time, duration in self._clock.timed(itertools.chain((first,), coming)):
                if (size := shown_size(decoded)) != self.size:
                    raise InputError(
                        f"{self.path}: changed from {self.size[1]} x {self.size[0]} to {size[1]} x {size[0]} pixels"
                    )
                picture = upright_picture(decoded, f"{self.path}: frame {index}")
                yield Frame(index, f"{index:07d}", picture, time, duration, decoded)
                index += 1
            if self._reader.cut_off or self._reader.losses:
                self.notes.append(cut_off_note(self.path, index, self._reader.expected, self._reader.losses))
        except TimeoutError as error:
            self.notes.append(f"{self.path}: sent nothing for {error} seconds; the {index} frames until then are used")
        finally:
            self.end()

    def end(self) -> None:
        self._reader.ended.set()

    def fingerprint(self) -> dict[str, Any]:
        return {"path": self.path, "live": True}


class _Reader:
    """Reads a source in a thread of its own, since FFmpeg or the system may block there for as long as they like;
    nobody waits for it, not even the end of the process.

    stream    the source's video, once `next` has given something, and `sound`, what is kept of its sound
    ended     set by whoever wants no more
    cut_off   whether the source broke off, once `next` has given None, and `expected`, how many frames it promised;
              `losses` is what is said of those that did not decode
    """

    def __init__(self, given: str, opening: float, between: float) -> None:
        self.ended = threading.Event()
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
            with open_container(device, container_format=container_format, timeout=self._timeout) as container:
                self.stream = video_stream(container, without_password(self._given))
                self.sound = LiveSound(container)
                self._put(self.stream)
                decoder = Decoder(container, self.stream, sound=self.sound)
                for frame in decoder.frames():
                    self._put(frame)
                    if self.ended.is_set():
                        return
                self.expected = indexed_frames(self.stream) or decoder.stated_frames()
                self.cut_off = decoder.cut_off or decoder.packets < self.expected
                self.losses = "" if self.cut_off else decoder.losses
            self._put(None)
        except BaseException as error:
            self._put(error)

    def _put(self, item: Any) -> None:
        while not self.ended.is_set():
            with contextlib.suppress(queue.Full):
                self._items.put(item, timeout=0.1)
                return


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
