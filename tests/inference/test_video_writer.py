"""Videos that are written have the frames, times, sound, colours and orientation of the video they are made of."""

import dataclasses
import errno
import io
import os
import re
import shutil
import subprocess
import sys
import threading
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image
from small_videos import moving_square, save_frames, write_at, write_matrix

from hmhi_jax.data.ffmpeg import Decoder, planes
from hmhi_jax.data.open_videos import open_videos
from hmhi_jax.data.video import Colours, Part
from hmhi_jax.errors import InputError
from hmhi_jax.inference.sound import Span
from hmhi_jax.inference.video_writer import CUTOUTS, MATTE, OVERLAY, VideoWriter, time_base_of
from hmhi_jax.inference.writers import fit_overlay

CODECS = {"overlay": OVERLAY, "matte": MATTE, **CUTOUTS}


def masks_for(video):
    masks = []
    for number in range(video.frame_count):
        mask = np.zeros(video.size, np.uint8)
        mask[8:24, 3 * number % 40 : 3 * number % 40 + 17] = 255
        masks.append(mask)
    return masks


def write(kind, video, folder, cuts=(), begin=0, stop=None):
    """A video of a kind from the frames of another one, from frame `begin` on, broken off at `stop`."""
    path = folder / f"final.{CODECS[kind].container}"
    writer = VideoWriter(kind, path, folder, CODECS[kind], video, begin)
    times = []
    for frame, mask in zip(video.frames(), masks_for(video), strict=True):
        time = frame.index / video.frame_rate if frame.time is None else frame.time
        end = time + (frame.duration or 1 / video.frame_rate)
        times.append(round(time / time_base_of(video)))
        if frame.index == stop:
            writer.close()
            return None
        if frame.index < begin:
            continue
        if kind == "overlay":
            drawn = writer.draw(fit_overlay(frame.picture))
        elif kind == "matte":
            drawn = writer.draw_grey(mask)
        else:
            drawn = writer.draw(frame.picture if frame.decoded is None else frame.decoded, mask)
        writer.add(drawn, times[-1])
        if frame.index in cuts:
            writer.cut()
    writer.finish([*times, round(end / time_base_of(video))], Span())
    return path


def decode(path):
    """Frames of the pictures' track with their times, VP9 with its transparency."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        if stream.metadata.get("ALPHA_MODE") == "1":
            context = av.CodecContext.create("libvpx-vp9", "r")  # FFmpeg's own drops it
            packets = [packet for packet in container.demux(stream) if packet.size]
            frames = [frame for packet in (*packets, None) for frame in context.decode(packet)]
        else:
            frames = list(Decoder(stream).frames())
        return frames, [frame.pts * stream.time_base for frame in frames]


def end_of(path):
    """When the last picture ends. Matroska says how long the track is, MPEG-TS says nothing."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        if length := stream.metadata.get("DURATION"):
            hours, minutes, seconds = map(Fraction, length.split(":"))
            return 3600 * hours + 60 * minutes + seconds
        packets = [packet for packet in container.demux(stream) if packet.size]
        return max(p.pts * p.time_base + (p.duration * p.time_base or Fraction(1, 25)) for p in packets)


def sound_of(path):
    """(when it begins, samples of the first channel, their rate) of the first track."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        frames = list(container.decode(stream))
        as_floats = av.AudioResampler("fltp", stream.layout, stream.rate)
        samples = [part.to_ndarray()[0] for frame in [*frames, None] for part in as_floats.resample(frame)]
        return frames[0].pts * frames[0].time_base, np.concatenate(samples), stream.rate


def colours_in(path):
    with av.open(str(path)) as container:
        next(container.decode(video=0))
        context = container.streams.video[0].codec_context
        return Colours(context.colorspace, context.color_primaries, context.color_trc, context.color_range)


def alpha_of(frame):
    """From 0 to 1."""
    return planes(frame)[3] / (2 ** frame.format.components[3].bits - 1)


STEADY = [40 * number for number in range(12)]
VARIABLE = [0, 40, 80, 600, 640, 641, 700, 1400, 1440, 1500]
HDR = Colours(9, 9, 16, 1)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Videos of all sorts, by name."""
    folder = tmp_path_factory.mktemp("sources")
    made = {
        "phone": write_at(folder / "phone.mp4", STEADY, "libx264", sound="aac"),
        "late": write_at(folder / "late.mkv", [time + 120 for time in VARIABLE], "libx264", sound="libopus"),
        "screen": write_at(folder / "screen.webm", VARIABLE, sound="libopus", colours=Colours(1, 1, 1, 2)),
        "broadcast": write_at(folder / "broadcast.ts", [time + 80 for time in STEADY], "libx264", sound="aac"),
        "hdr": write_at(folder / "hdr.mp4", STEADY[:4], "libx264", colours=HDR),
        "odd": write_at(folder / "odd.webm", STEADY[:4], size=(49, 81)),
        "full": write_at(folder / "full.mp4", STEADY[:4], "libx264", colours=Colours(5, 5, 6, 2)),
        "frames": save_frames(folder / "frames", moving_square(5)),
    }
    write_matrix(made["phone"], 0, 1 << 16, -(1 << 16), 0)
    return made


@pytest.mark.parametrize("name", ["phone", "late", "screen", "broadcast", "hdr", "odd", "full", "frames"])
@pytest.mark.parametrize("kind", ["mov", "webm"])
def test_cutouts_keep_everything(tmp_path, sources, name, kind):
    source = sources[name]
    (video,) = open_videos([source])
    path = write(kind, video, tmp_path, cuts=(2, 5))
    parts = {file.name for file in tmp_path.iterdir()} - {path.name}
    # They stay until the summary is there, and nothing else does. The last frame may end one.
    assert len(parts) == 1 + sum(cut + 1 < video.frame_count for cut in (2, 5))
    assert all(part.startswith(f"{kind}-") for part in parts)
    frames, times = decode(path)
    assert frames[0].format.name == {"mov": "yuva444p10le", "webm": "yuva420p"}[kind]
    assert (frames[0].height, frames[0].width) == video.size

    # Every time stamp: exactly; WebM knows milliseconds only. A broadcast's count from its beginning.
    if name == "frames":
        expected, end = [number / Fraction(24) for number in range(5)], 5 / Fraction(24)
    else:
        expected, end = decode(source)[1], end_of(source)
        if name == "broadcast":
            with av.open(str(source)) as container:
                origin = min(stream.start_time * stream.time_base for stream in container.streams)
            expected, end = [time - origin for time in expected], end - origin
    rounding = Fraction(1, 2000) if kind == "webm" else 0
    assert len(times) == len(expected)
    assert max(abs(a - b) for a, b in zip(times, expected, strict=True)) <= rounding
    assert abs(end_of(path) - end) <= 2 * rounding

    # Transparency: all bits in ProRes; in VP9 to what its quantisation leaves, at edges.
    for frame, mask in zip(frames, masks_for(video), strict=True):
        error = np.abs(alpha_of(frame) - mask / 255)
        assert error.max() <= (0 if kind == "mov" else 0.1)
        assert error.mean() <= (0 if kind == "mov" else 0.002)

    # Colours are stored as they were: what a player shows is what it shows of the source.
    colours = colours_in(path)
    assert colours == dataclasses.replace(video.colours, range=colours.range)
    assert max(1, colours.range) == (1 if kind == "mov" else max(1, video.colours.range))
    for frame, original in zip(frames, video.frames(), strict=True):
        shown = frame.to_ndarray(format="rgb24").astype(int)
        assert np.abs(shown - original.picture).mean() < (3 if kind == "mov" else 8)
    if name == "hdr" and kind == "mov":  # more than the eight bits of RGB
        luma = [planes(frame)[0] for frame in (frames[0], next(video.frames()).decoded)]
        assert np.abs(luma[0].astype(int) - luma[1]).mean() < 3

    # Sound begins when it did, and is what it was; what a container does not take is encoded anew.
    if video.sound:
        (begin, before, _), (again, after, _) = sound_of(source), sound_of(path)
        assert abs(again - (begin - video.sound.origin)) <= Fraction(1, 1000)
        length = min(len(before), len(after))
        assert abs(len(before) - len(after)) <= 2048
        assert np.corrcoef(before[:length], after[:length])[0, 1] > 0.99


@pytest.mark.parametrize("name", ["phone", "screen", "full"])
@pytest.mark.parametrize("kind", ["overlay", "matte"])
def test_overlay_and_matte_keep_the_same(tmp_path, sources, name, kind):
    (video,) = open_videos([sources[name]])
    path = write(kind, video, tmp_path, cuts=(3,))
    frames, times = decode(path)
    assert times == decode(sources[name])[1]
    assert end_of(path) == end_of(sources[name])
    assert (frames[0].height, frames[0].width) == video.size
    colours = colours_in(path)
    assert colours == dataclasses.replace(video.colours, range=colours.range)
    assert max(1, colours.range) == max(1, video.colours.range)
    wanted = [np.dstack([mask] * 3) for mask in masks_for(video)]
    if kind == "overlay":
        wanted = [frame.picture for frame in video.frames()]
    for frame, picture in zip(frames, wanted, strict=True):
        difference = np.abs(frame.to_ndarray(format="rgb24").astype(int) - picture)
        assert difference.mean() < (10 if kind == "overlay" else 0.5)
        assert kind == "overlay" or difference.max() < 64  # on the right side of the middle everywhere
    if video.sound:
        assert np.corrcoef(*(sound_of(file)[1][:15_000] for file in (path, sources[name])))[0, 1] > 0.99


@pytest.mark.parametrize("kind", ["overlay", "mov", "webm"])
def test_a_video_broken_off_goes_on_to_the_same_bytes(tmp_path, sources, kind):
    (video,) = open_videos([sources["phone"]])
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
    whole = write(kind, video, tmp_path / "whole", cuts=(3,))
    write(kind, video, tmp_path / "broken", cuts=(3,), stop=7)
    container = CODECS[kind].container
    assert len(decode(tmp_path / "broken" / f"{kind}-000000000.{container}")[0]) == 4
    (tmp_path / "broken" / f"{kind}-000000004.{container}").write_bytes(b"half of it")  # does not count
    again = write(kind, video, tmp_path / "broken", begin=4)
    assert again.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("kind", ["overlay", "matte", "mov", "webm"])
def test_what_was_written_plays_wherever_it_ends(tmp_path, kind):
    """A part that is cut short, as by a full disk, gives the frames that were on the disk."""
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 255, (48, 80, 3), dtype=np.uint8) for _ in range(12)]
    (video,) = open_videos([save_frames(tmp_path / "noise", noise)])
    codec = dataclasses.replace(CODECS[kind], options={**CODECS[kind].options, "g": "1"})
    writer = VideoWriter("a", tmp_path / "never", tmp_path, codec, video)
    for number, picture in enumerate(noise):
        writer.add(writer.draw(picture, None if kind in ("overlay", "matte") else picture[..., 0]), number)
    writer.cut()
    (part,) = tmp_path.glob("a-*")
    data = part.read_bytes()
    part.write_bytes(data[: len(data) * 2 // 3])
    assert 5 <= len(decode(part)[0]) <= 9


def test_a_part_of_a_video_begins_at_0_with_its_sound(tmp_path, sources):
    (video,) = open_videos([sources["phone"]])
    writer = VideoWriter("part", tmp_path / "part.mov", tmp_path, CUTOUTS["mov"], video)
    frames = list(video.frames())[5:9]
    for frame in frames:
        writer.add(writer.draw(frame.decoded, np.zeros(video.size, np.uint8)), round(frame.time / video.time_base))
    ticks = [round(time / video.time_base) for time in (*(frame.time for frame in frames), Fraction(9, 25))]
    writer.finish([time - ticks[0] for time in ticks], Span(Fraction(5, 25), Fraction(9, 25)))
    assert decode(tmp_path / "part.mov")[1] == [Fraction(number, 25) for number in range(4)]
    begin, sound, rate = sound_of(tmp_path / "part.mov")
    packet = Fraction(1024, rate)
    assert 0 <= begin < packet
    assert abs(Fraction(len(sound), rate) - Fraction(4, 25)) <= 2 * packet
    original = sound_of(sources["phone"])[1]
    place = round((Fraction(5, 25) + begin) * rate)
    assert np.corrcoef(sound[1024:4096], original[place + 1024 : place + 4096])[0, 1] > 0.99


def test_a_clock_set_in_the_middle_leaves_no_sound(tmp_path):
    """As where recordings of a broadcast were joined."""
    pieces = []
    for start in (0, 60_000):
        times = [start + time for time in STEADY]
        pieces.append(write_at(tmp_path / f"{start}.ts", times, "libx264", sound="aac"))
    joined = tmp_path / "joined.ts"
    joined.write_bytes(b"".join(piece.read_bytes() for piece in pieces))
    (video,) = open_videos([joined])
    part = Part("2", "20").of(open_videos([joined])[0])
    assert video.sound
    assert part.sound
    assert len(list(part.frames())) == 18
    assert part.sound is None
    frames = list(video.frames())
    assert np.diff([float(frame.time) for frame in frames]) == pytest.approx(0.04)
    assert video.sound is None
    assert video.notes[-1].endswith("joined.ts: its clock was set in the middle; videos made of it have no sound")


@pytest.mark.parametrize("way", ["standard input", "pipe"])
def test_what_is_read_once_keeps_times_and_sound(tmp_path, monkeypatch, sources, way):
    """On standard input as in a file; of what is live from its first frame on."""
    source, begin = sources["late"], Fraction(120 if way == "pipe" else 0, 1000)
    if way == "pipe":
        os.mkfifo(place := tmp_path / "pipe")
        threading.Thread(target=lambda: place.write_bytes(source.read_bytes()), daemon=True).start()
    else:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(source.read_bytes())))
    (video,) = open_videos([place if way == "pipe" else "-"])
    video.frame_count = len(VARIABLE)  # for the masks
    path = write("mov", video, tmp_path)
    assert decode(path)[1] == [time - begin for time in decode(source)[1]]
    (first, before, rate), (again, after, _) = sound_of(source), sound_of(path)
    start = round((begin + again - first) * rate)
    assert 0 <= again <= Fraction(1, 50)
    assert abs(len(before) - start - len(after)) <= 2048
    starts = range(max(0, start - 48), start + 49, 4)  # Matroska knows milliseconds
    assert max(np.corrcoef(before[at : at + 24_000], after[:24_000])[0, 1] for at in starts) > 0.99


def test_sound_that_cannot_be_kept_is_told(monkeypatch, sources):
    def full(**_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryDirectory", full)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(sources["late"].read_bytes())))
    (video,) = open_videos(["-"])
    assert len(list(video.frames())) == len(VARIABLE)
    assert video.sound is None
    assert re.search(r"its sound could not be kept in .* \(No space left on device\)", video.notes[-1])


def test_pictures_of_any_length(tmp_path):
    images = [Image.fromarray(picture) for picture in moving_square(3)]
    images[0].save(tmp_path / "a.webp", save_all=True, append_images=images[1:], duration=[100, 30, 200])
    (video,) = open_videos([tmp_path / "a.webp"])
    path = write("overlay", video, tmp_path)
    assert decode(path)[1] == [0, Fraction(1, 10), Fraction(13, 100)]
    assert end_of(path) == Fraction(33, 100)


def test_pixels_that_are_not_square(tmp_path):
    (video,) = open_videos([save_frames(tmp_path / "frames", moving_square(2))])
    video.sample_aspect_ratio = Fraction(13, 10)
    for kind in ("overlay", "mov", "webm"):
        (tmp_path / kind).mkdir()
        path = write(kind, video, tmp_path / kind)
        assert len(decode(path)[0]) == 2
        with av.open(str(path)) as container:
            assert container.streams.video[0].sample_aspect_ratio == Fraction(13, 10)
            assert "title" not in container.streams.video[0].metadata


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="the command ffmpeg is not installed")
@pytest.mark.parametrize(("kind", "decoder"), [("mov", []), ("webm", ["-c:v", "libvpx-vp9"])])
def test_ffmpeg_sees_the_same_transparency(tmp_path, sources, kind, decoder):
    (video,) = open_videos([sources["phone"]])
    path = write(kind, video, tmp_path)
    command = ["ffmpeg", "-v", "error", *decoder, "-i", path, "-vf", "alphaextract,format=gray", "-f", "rawvideo", "-"]
    raw = subprocess.run(command, capture_output=True, check=True).stdout
    seen = np.frombuffer(raw, np.uint8).reshape(-1, *video.size)
    assert np.abs(seen.astype(int) - np.stack(masks_for(video))).max() <= (0 if kind == "mov" else 25)


def test_the_folder_disappears(tmp_path):
    (video,) = open_videos([save_frames(tmp_path / "frames", moving_square(1))])
    place = tmp_path / "gone"
    place.mkdir()
    writer = VideoWriter("overlay", tmp_path / "overlay.mp4", place, OVERLAY, video)
    place.rmdir()
    frame = writer.draw(next(video.frames()).picture)
    with pytest.raises(InputError, match=r"overlay\.mp4: cannot be written \(No such file or directory\)"):  # noqa: PT012
        writer.add(frame, 0)
        writer.cut()
