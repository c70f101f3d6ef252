"""Videos on standard input: raw pictures without a header, and what FFmpeg knows by its header, such as YUV4MPEG2."""

import dataclasses
import io
import itertools
import sys
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np

from hmhi_jax.data.ffmpeg import (
    Clock,
    Decoder,
    colours_of,
    frame_rate,
    open_container,
    shown,
    shown_size,
    upright_picture,
    video_stream,
)
from hmhi_jax.data.live_sound import LiveSound
from hmhi_jax.data.live_sources import LiveVideo
from hmhi_jax.data.video import Frame, check_size
from hmhi_jax.errors import InputError

PATH = "standard input"


@dataclasses.dataclass(frozen=True)
class RawPictures:
    """What bytes without a header are: pictures of 8-bit RGB, of a size (height, width), so many a second."""

    size: tuple[int, int]
    rate: Fraction


class StandardInput(LiveVideo):
    """A video on standard input; read once, as it comes. What ends in the middle of a frame gives the frames before,
    and then says so in `failure`."""

    path = PATH
    name = "stdin"

    def __init__(self, raw: RawPictures | None = None) -> None:
        """Reads the first frame. `raw` says what comes without a header; None leaves it to the header."""
        if sys.stdin.isatty():
            raise InputError("-: standard input is a terminal, expected a pipe with a video in it")
        self.notes = []
        self._source = _Raw(sys.stdin.buffer, raw) if raw else _Contained(sys.stdin.buffer)
        vars(self).update(self._source.properties)

    def frames(self, start: int = 0) -> Iterator[Frame]:
        if start:
            raise InputError(f"{PATH}: can be read only once, from its beginning")
        index = -1
        for index, seen in enumerate(self._source.frames()):
            yield Frame(index, f"{index:07d}", *seen)
        if ending := self._source.ending():
            self.failure = f"{PATH}: {ending}; the {index + 1} whole frames before are done"
            self.notes.append(self.failure)

    def fingerprint(self) -> dict[str, Any]:
        return {"path": PATH, "live": True}


class _Raw:
    """Pictures without a header.

    about  what is known of them, as a video's attributes
    """

    def __init__(self, stream: io.BufferedIOBase, raw: RawPictures) -> None:
        self.properties = {"size": raw.size, "frame_rate": raw.rate}
        self._size, self._stream = raw.size, stream
        check_size(raw.size, f"--size: a picture on {PATH}")
        self._bytes = 3 * raw.size[0] * raw.size[1]
        self._data = stream.read(self._bytes)
        self._of_size = f"{self._bytes} bytes, {raw.size[1]} x {raw.size[0]} pixels of 8-bit RGB"
        if self._data.startswith(b"YUV4MPEG2"):
            raise InputError(f"{PATH}: is YUV4MPEG2, which says its size and rate itself; leave --rate out")
        if len(self._data) < self._bytes:
            raise InputError(f"{PATH}: holds {len(self._data)} bytes, expected at least a frame, {self._of_size}")

    def frames(self) -> Iterator[tuple[np.ndarray]]:
        while len(self._data) == self._bytes:
            yield (np.frombuffer(self._data, np.uint8).reshape(*self._size, 3),)
            self._data = self._stream.read(self._bytes)

    def ending(self) -> str | None:
        if not self._data:
            return None
        return f"ends in the middle of a frame, after {len(self._data)} of {self._of_size} (is --size right?)"


class _Contained:
    """What says itself what it is; `about` as of `_Raw`."""

    def __init__(self, stream: io.BufferedIOBase) -> None:
        self._bytes = _Counted(stream)
        self._container = open_container(PATH, opened=self._bytes)
        stream = video_stream(self._container, PATH)
        sound, self._rate = LiveSound(self._container), frame_rate(stream)
        self._clock = Clock(self._container, stream)
        self._decoder = Decoder(self._container, stream, sound=sound)
        self._frames = self._decoder.frames()
        self._first = next(self._frames, None)
        if self._first is None:
            raise InputError(
                f"{PATH}: no frame of it can be decoded; an MP4 whose index stands at its end must be a file"
            )
        self._size, aspect = shown(self._first, stream)
        check_size(self._size, PATH)
        self.properties = {
            "size": self._size,
            "frame_rate": self._rate,
            "sample_aspect_ratio": aspect,
            "time_base": self._clock.time_base,
            "colours": colours_of(self._first, stream),
            "_clock": self._clock,
            "_heard": sound,
        }

    def frames(self) -> Iterator[tuple[np.ndarray, Fraction, Fraction | None, av.VideoFrame]]:
        """Pictures with when and for how long they are shown, and as they were decoded."""
        coming = itertools.chain((self._first,), self._frames)
        for decoded, time, duration in self._clock.timed(coming):
            if (size := shown_size(decoded)) != self._size:
                raise InputError(f"{PATH}: changed its size to {size[1]} x {size[0]} pixels")
            yield upright_picture(decoded, PATH), time, duration, decoded

    def ending(self) -> str | None:
        decoder = self._decoder
        whole = self._bytes.header + decoder.packets * (len(b"FRAME\n") + decoder.packet_bytes)
        of_y4m = self._container.format.name == "yuv4mpegpipe"  # FFmpeg drops the last part of one in silence
        damaged = decoder.cut_off or decoder.losses or decoder.stated_frames()
        if damaged or (of_y4m and self._bytes.count > whole):
            return "ends in the middle of a frame, or is damaged"
        return None


class _Counted:
    """A stream as FFmpeg reads it: what is there so far, not waiting for more. Counts the bytes, and those of its first
    line."""

    def __init__(self, stream: io.BufferedIOBase) -> None:
        self._stream = stream
        self.count = self.header = 0

    def read(self, most: int) -> bytes:
        data = self._stream.read1(most)
        if not self.count:
            self.header = data.find(b"\n") + 1
        self.count += len(data)
        return data
