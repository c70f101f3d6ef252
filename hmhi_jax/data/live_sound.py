"""The sound of a source that can be read only once, kept in a file of its own until the videos made of it want it."""

import contextlib
import tempfile
import threading
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from hmhi_jax.data.video import Sound

_LATER = 10  # seconds that are added to all times: the file knows none before 0


class LiveSound:
    """Takes the packets of a source's sound as they come; nothing is decoded.

    failure  why the sound is lost, as when the disk is full; empty while all is well
    """

    def __init__(self, container: av.container.InputContainer) -> None:
        self.failure = ""
        self._lock = threading.Lock()
        self._output: Any = None
        self._tracks: dict[int, Any] = {}
        if not container.streams.audio:
            return
        try:
            self._folder = tempfile.TemporaryDirectory(prefix="hmhi-sound-", ignore_cleanup_errors=True)
        except OSError as error:
            self._fail(error)
            return
        self._path = Path(self._folder.name) / "sound.mka"  # Matroska takes nearly every codec
        options = {"output_ts_offset": str(_LATER)}
        self._output = av.open(str(self._path), "w", format="matroska", options=options)
        for stream in container.streams.audio:
            with contextlib.suppress(ValueError, av.FFmpegError):  # one that nothing here knows
                self._tracks[stream.index] = self._output.add_stream_from_template(stream, opaque=True)

    def add(self, packet: av.Packet) -> None:
        """Keep a packet, if it is of a sound track."""
        with self._lock:
            track = self._tracks.get(packet.stream_index)
            if self._output is None or track is None or packet.pts is None or not packet.size:
                return
            packet.stream = track
            try:
                self._output.mux(packet)
            except OSError as error:
                self._fail(error)
            except av.FFmpegError:  # one packet of a damaged track
                pass

    def kept(self, origin: Fraction, earlier: bool) -> Sound | None:
        """What came until now; more is not taken. `origin` is the source's time, in seconds, that is 0 for its frames,
        and `earlier` as in `Sound`."""
        with self._lock:
            if self._output is not None:
                output, self._output = self._output, None
                try:
                    output.close()
                except (OSError, av.FFmpegError) as error:
                    self._fail(error)
            there = not self.failure and self._tracks and self._path.is_file() and self._path.stat().st_size
        return Sound(str(self._path), origin + _LATER, earlier) if there else None

    def _fail(self, error: OSError | av.FFmpegError) -> None:
        self.failure = error.strerror or str(error)
