"""Live sources: cameras, streams of the network, pipes."""

import itertools
import os
import stat
import sys
from collections.abc import Iterator
from typing import Any

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
    without_password,
)
from hmhi_jax.data.video import Frame, Video, check_size
from hmhi_jax.errors import InputError


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
            self._container = open_container(device, container_format=container_format)
        except InputError as error:
            where = f"{source}: no such file or folder, and no such camera: " if source.isdigit() else ""
            pipe = "; it is a pipe, and an MP4 whose index stands at its end must be a file" if _is_pipe(source) else ""
            raise InputError(f"{where}{error}{pipe}") from error
        self._stream = video_stream(self._container, source)
        self.frame_rate = frame_rate(self._stream)
        self._decoded = Decoder(self._container, self._stream).frames()
        self._first = next(self._decoded, None)
        if self._first is None:
            raise InputError(f"{source}: sends no frames that decode")
        self.size, self.sample_aspect_ratio = shown(self._first, self._stream)
        check_size(self.size, source)
        self._clock = Clock(self._container, self._stream, live=True)
        self.time_base = self._clock.time_base
        self.colours = colours_of(self._first, self._stream)

    def frames(self, start: int = 0) -> Iterator[Frame]:
        if self._first is None or start:
            raise InputError(f"{self.path}: is live and can be read only once, from its beginning")
        first, self._first = self._first, None
        index = 0
        try:
            for decoded, time, duration in self._clock.timed(itertools.chain((first,), self._decoded)):
                if (size := shown_size(decoded)) != self.size:
                    raise InputError(
                        f"{self.path}: changed from {self.size[1]} x {self.size[0]} to {size[1]} x {size[0]} pixels"
                    )
                yield Frame(index, f"{index:07d}", upright_picture(decoded), time, duration, decoded)
                index += 1
        finally:
            self._container.close()

    def fingerprint(self) -> dict[str, Any]:
        return {"path": self.path, "live": True}


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
