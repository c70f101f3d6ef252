"""Video files and cameras, decoded by FFmpeg's libraries through PyAV."""

import os
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from jaxtyping import UInt8

from hmhi_jax.data.video import Frame, Video, check_size
from hmhi_jax.errors import InputError

# A file promises a number of frames, or only a length to guess it from. Fewer than this share of it is worth a note.
_ENOUGH = 0.95


class VideoFile(Video):
    """A file with a video stream. Opening it decodes the first frame, so that what is no video is known at once."""

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        self.name = Path(path).stem
        self.notes = []
        if os.path.getsize(path) == 0:
            raise InputError(f"{self.path}: the file is empty")
        with _open(self.path) as container:
            stream = _video_stream(container, self.path)
            self.frame_rate = _frame_rate(stream)
            self.frame_count = _expected_frames(container, stream, self.frame_rate)
            self.sample_aspect_ratio = stream.sample_aspect_ratio or Fraction(1)
            check_size((stream.codec_context.height, stream.codec_context.width), self.path)
            first = next(_Decoder(container, stream).frames(), None)
            if first is None:
                raise InputError(f"{self.path}: no frame of it can be decoded; is the file cut off or damaged?")
            self.size = _upright_size(first)
            if abs(first.rotation) % 180 == 90:
                self.sample_aspect_ratio = 1 / self.sample_aspect_ratio
        check_size(self.size, self.path)

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
        expected = self.frame_count or 0
        about = f" of about {expected}" if expected > decoded else ""
        used = f"{decoded}{about} frames decode and are used"
        if decoder.cut_off or (not decoder.undecodable and decoded < _ENOUGH * expected - 1):
            self.notes.append(f"{self.path}: is cut off or damaged; {used}")
        elif decoder.undecodable:
            self.notes.append(
                f"{self.path}: is cut off or damaged, {decoder.undecodable} packets do not decode; {used}"
            )

    def fingerprint(self) -> dict[str, Any]:
        status = os.stat(self.path)
        return {"path": os.path.abspath(self.path), "bytes": status.st_size, "modified": status.st_mtime_ns}


class Camera(Video):
    """A live source: a camera by number or device, or anything with a URL that FFmpeg opens. It can be read once."""

    live = True

    def __init__(self, source: str) -> None:
        self.path = source
        self.name = f"camera{source}" if source.isdigit() else source
        self.frame_count = None
        self.notes = []
        device, container_format = _camera_device(source)
        try:
            self._container = _open(device, container_format=container_format)
        except InputError as error:
            where = "no such file or folder, and no such camera: " if source.isdigit() else ""
            raise InputError(f"{source}: {where}{error}" if where else str(error)) from error
        self._stream = _video_stream(self._container, source)
        self.frame_rate = _frame_rate(self._stream)
        self.sample_aspect_ratio = self._stream.sample_aspect_ratio or Fraction(1)
        self._decoded = _Decoder(self._container, self._stream).frames()
        self._first = next(self._decoded, None)
        if self._first is None:
            raise InputError(f"{source}: sends no frames that decode")
        self.size = _upright_size(self._first)
        check_size(self.size, source)

    def frames(self, start: int = 0) -> Iterator[Frame]:
        if self._first is None or start:
            raise InputError(f"{self.path}: is live and can be read only once, from its beginning")
        first, self._first = self._first, None
        index = 0
        try:
            for decoded in _chain(first, self._decoded):
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


def _open(source: str, container_format: str | None = None) -> av.container.InputContainer:
    try:
        return av.open(source, format=container_format, **_ANY_METADATA)
    except PermissionError as error:
        raise InputError(f"{source}: cannot be read (permission denied)") from error
    except av.error.InvalidDataError as error:
        raise InputError(
            f"{source}: is no video that can be read; if it should be one, the file is cut off or damaged"
        ) from error
    except (av.FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{source}: cannot be opened as a video ({reason})") from error


def _video_stream(container: av.container.InputContainer, path: str) -> av.video.stream.VideoStream:
    """The first video stream that is no cover picture."""
    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic:
            if stream.codec_context is None:
                raise InputError(f"{path}: its codec cannot be decoded here; re-encode it, for example as H.264")
            return stream
    kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
    raise InputError(f"{path}: holds no video stream, only {kinds}")


def _frame_rate(stream: av.video.stream.VideoStream) -> Fraction:
    return Fraction(stream.average_rate or stream.guessed_rate or 25)


def _expected_frames(
    container: av.container.InputContainer, stream: av.video.stream.VideoStream, frame_rate: Fraction
) -> int | None:
    """The number the file states, else what its length makes likely."""
    if stream.frames:
        return stream.frames
    if stream.duration:
        return max(1, round(stream.duration * stream.time_base * frame_rate))
    if container.duration:
        return max(1, round(Fraction(container.duration, av.time_base) * frame_rate))
    return None


def _quarter_turns(frame: av.VideoFrame) -> int:
    """Counterclockwise quarter turns that show the frame upright (the display matrix phones write)."""
    return round(frame.rotation / 90) % 4


def _upright_size(frame: av.VideoFrame) -> tuple[int, int]:
    return (frame.width, frame.height) if _quarter_turns(frame) % 2 else (frame.height, frame.width)


def _upright_picture(frame: av.VideoFrame) -> UInt8[np.ndarray, "H W 3"]:
    picture = frame.to_ndarray(format="rgb24")
    turns = _quarter_turns(frame)
    return np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture


def _camera_device(source: str) -> tuple[str, str | None]:
    """What FFmpeg calls a camera on this system, and by which of its formats it is read."""
    if not source.isdigit():  # a URL, or a device of Linux
        return source, "v4l2" if "://" not in source else None
    if sys.platform == "darwin":
        return source, "avfoundation"
    if sys.platform == "win32":
        return f"video={source}", "dshow"
    return f"/dev/video{source}", "v4l2"


def _chain(first: av.VideoFrame, others: Iterator[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    yield first
    yield from others
