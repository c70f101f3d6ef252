"""The sound of a video, for the videos that are made of it: copied where the container takes it, else encoded anew."""

import contextlib
import dataclasses
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av

from hmhi_jax.data.ffmpeg import Decoder, open_container
from hmhi_jax.data.video import Sound

# What players of a container play, by the codecs' own names; and what everything else is encoded as.
_COPIED = {
    "mp4": {"aac", "mp3", "ac3", "eac3", "alac"},
    "mov": {"aac", "mp3", "ac3", "eac3", "alac", "pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s24be"},
    "webm": {"opus", "vorbis"},
}
_ENCODED = {"mp4": "aac", "mov": "pcm_s16le", "webm": "libopus"}
_USUAL_RATE = 48_000  # every encoder takes it
_LAYOUTS = {1: "mono", 6: "5.1", 8: "7.1"}  # by the number of channels; others become stereo


@dataclasses.dataclass(frozen=True)
class Span:
    """The part of a video that is written, in seconds of its frames' times; its sound from `begin` to `end`.

    `end` None is as long as it lasts. What is shown at `begin` is shown at 0 in what is written.
    """

    begin: Fraction = Fraction(0)
    end: Fraction | None = None


class SoundTracks(contextlib.ExitStack):
    """All sound tracks of a video in an output; use as a context manager around its muxing."""

    def __init__(self, sound: Sound | None, output: av.container.OutputContainer, kind: str, span: Span) -> None:
        """Adds the tracks to `output`, a container of `kind`. A track that nothing here can decode is left out."""
        super().__init__()
        self._tracks: list[tuple[Any, Any]] = []
        self._begin = span.begin + (sound.origin if sound else 0)
        self._end = float("inf") if span.end is None else span.end - span.begin
        self._whole = not span.begin and (sound is None or sound.earlier)
        for number in range(_count(sound)):
            stream = self.enter_context(open_container(sound.path)).streams.audio[number]
            context = stream.codec_context
            if context is None:
                continue
            if context.codec.canonical_name in _COPIED[kind]:
                track = output.add_stream_from_template(stream, opaque=True)
            else:
                encoder = av.Codec(_ENCODED[kind], "w")
                rates = encoder.audio_rates or [context.sample_rate]
                rate = context.sample_rate if context.sample_rate in rates else _USUAL_RATE
                channels = context.layout.nb_channels
                layout = "stereo" if kind == "webm" and channels > 2 else _LAYOUTS.get(channels, "stereo")
                track = output.add_stream(encoder.name, rate=rate, layout=layout)
            track.metadata.update({key: stream.metadata[key] for key in ("language",) if key in stream.metadata})
            self._tracks.append((stream, track))

    def packets(self) -> list[Iterator[av.Packet]]:
        """Of each track, in the order of time."""
        return [
            self._encoded(stream, track) if track.codec_context.is_open else self._copied(stream, track)
            for stream, track in self._tracks
        ]

    def _copied(self, stream: Any, track: Any) -> Iterator[av.Packet]:
        last = None
        for packet in _packets(stream):
            if packet.pts is None or not packet.size:
                continue
            ticks = packet.pts - round(self._begin / packet.time_base)
            if ticks * packet.time_base >= self._end:
                return
            if (ticks < 0 and not self._whole) or (last is not None and ticks <= last):
                continue
            last = packet.pts = packet.dts = ticks
            packet.stream = track
            yield packet

    def _encoded(self, stream: Any, track: Any) -> Iterator[av.Packet]:
        context = track.codec_context
        resampler = av.AudioResampler(context.format, context.layout, context.sample_rate, context.frame_size or None)
        for decoded in Decoder(stream).frames():
            if decoded.pts is None:
                continue
            decoded.pts -= round(self._begin / decoded.time_base)
            if decoded.pts * decoded.time_base >= self._end:
                break
            if decoded.pts < 0 and not self._whole:
                continue
            for frame in resampler.resample(decoded):
                yield from track.encode(frame)
        for frame in resampler.resample(None):
            yield from track.encode(frame)
        yield from track.encode(None)


def _count(sound: Sound | None) -> int:
    if sound is None:
        return 0
    with open_container(sound.path) as container:
        return len(container.streams.audio)


def _packets(stream: Any) -> Iterator[av.Packet]:
    """As far as they can be read."""
    packets = stream.container.demux(stream)
    while True:
        try:
            yield next(packets)
        except (StopIteration, av.FFmpegError):
            return
