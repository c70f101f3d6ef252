"""Sources that are read once, as they come: pipes, servers and cameras tell what files tell, and are not waited for."""

import os
import re
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_videos import moving_square, pictures_of, write_at, write_video

from hmhi_jax.data import ffmpeg
from hmhi_jax.data.live_sources import Camera
from hmhi_jax.data.open_videos import open_videos
from hmhi_jax.data.video_files import VideoFile
from hmhi_jax.errors import InputError


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.parametrize("name", ["pipe", "7"])  # a pipe may be called what a camera is called
def test_a_pipe_is_read_as_it_comes(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    data = write_video(tmp_path / "clip.mkv", moving_square(5)).read_bytes()
    expected = pictures_of(VideoFile(tmp_path / "clip.mkv"))
    pipe = Path(name)
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(data,), daemon=True)
    writer.start()
    (video,) = open_videos([pipe])
    assert (video.live, video.name) == (True, name)
    assert all(np.array_equal(a, b) for a, b in zip(pictures_of(video), expected, strict=True))
    writer.join()
    writer = threading.Thread(target=pipe.write_bytes, args=(b"no film at all" * 100,), daemon=True)
    writer.start()
    with pytest.raises(InputError, match=name + r": is no video .*; it is a pipe, and an MP4"):
        open_videos([pipe])
    writer.join()


@pytest.fixture
def silent_server(tmp_path):
    """Addresses of a server that never answers, and of one that sends a video and then nothing more."""
    data = write_video(tmp_path / "clip.ts", moving_square(25), codec="mpeg2video").read_bytes()
    over = threading.Event()

    def serve(sends: bytes) -> str:
        listening = socket.create_server(("127.0.0.1", 0))

        def answer():
            connection, _ = listening.accept()
            with connection, listening:
                connection.recv(65536)
                connection.sendall(sends)
                over.wait(60)

        threading.Thread(target=answer, daemon=True).start()
        return f"http://127.0.0.1:{listening.getsockname()[1]}/x.ts"

    yield serve(b""), serve(b"HTTP/1.1 200 OK\r\nContent-Type: video/mp2t\r\n\r\n" + data)
    over.set()


def test_a_source_that_says_nothing_is_not_waited_for(silent_server):
    never, stalls = silent_server
    with pytest.raises(InputError, match=r"/x\.ts: sends no video, waited 0\.3 seconds"):
        Camera(never, timeout=0.3)
    camera = Camera(stalls, timeout=2.0)
    frames = list(camera.frames())
    assert 20 <= len(frames) <= 25  # what the decoder holds back is lost
    assert camera.notes == [f"{stalls}: sent nothing for 2 seconds; the {len(frames)} frames until then are used"]


@pytest.mark.parametrize(
    ("suffix", "codec", "said"),
    [
        (".mkv", "libx264", "is cut off or damaged; {} of about 40 frames decode and are used"),
        (".webm", "libvpx-vp9", "is cut off or damaged; {} of about 40 frames decode and are used"),
        (".flv", "flv", "is cut off or damaged; {} of about 40 frames decode and are used"),
        (".avi", "mpeg4", "is cut off or damaged; 1 frames are damaged; {} frames decode and are used"),
        (".ts", "mpeg2video", "is cut off or damaged; 1 frames are damaged; {} frames decode and are used"),
    ],
)
def test_live_sources_and_files_tell_the_same(tmp_path, suffix, codec, said):
    """Cut off, or some bytes changed in the middle, which decoders make up for."""
    noise = np.random.default_rng(0).integers(0, 255, (40, 48, 80, 3), dtype=np.uint8)
    path = write_video(tmp_path / f"clip{suffix}", list(noise), codec=codec)
    data = bytearray(path.read_bytes())
    if "of about" in said:
        del data[len(data) // 2 :]
    else:
        middle = len(data) // 2
        data[middle : middle + 60] = bytes(byte ^ 0x55 for byte in data[middle : middle + 60])
    path.write_bytes(data)
    for video in (VideoFile(path), Camera(f"file://{path}")):
        count = len(pictures_of(video))
        assert [note.partition(f"clip{suffix}: ")[2] for note in video.notes] == [said.format(count)]


def test_a_last_picture_that_is_there_in_part_is_told(tmp_path):
    path, whole = tmp_path / "raw.y4m", b"FRAME\n" + bytes(range(128)) * 36
    for cut, frames, notes in ((0, 5, []), (1000, 4, [r"raw\.y4m: is cut off or damaged; 4 .*frames decode"])):
        data = b"YUV4MPEG2 W64 H48 F25:1 Ip A1:1 C420jpeg\n" + 5 * whole
        path.write_bytes(data[: len(data) - cut])
        for video in (VideoFile(path), Camera(f"file://{path}")):
            assert len(pictures_of(video)) == frames
            assert len(video.notes) == len(notes)
            assert all(map(re.search, notes, video.notes))


def test_a_clock_that_begins_late_is_no_damage(tmp_path):
    path = write_at(tmp_path / "late.mkv", [5000 + 40 * t for t in range(8)], "libx264")
    ticks = write_at(tmp_path / "ticks.avi", [40 * t for t in range(8)], "libx264")  # whose rate is its clock's
    for video in (VideoFile(path), Camera(f"file://{path}"), VideoFile(ticks), Camera(f"file://{ticks}")):
        assert len(pictures_of(video)) == 8
        assert video.notes == []


def test_frames_may_come_with_exif(tmp_path):
    """As in the Motion JPEG of some cameras."""
    picture, exif = moving_square(1)[0], Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a maker"  # held upright
    Image.fromarray(picture).save(tmp_path / "frame.jpg", exif=exif, quality=95)
    video = Camera(f"file://{tmp_path}/frame.jpg")
    (shown,) = pictures_of(video)
    assert video.size == (80, 48)
    assert np.abs(shown.astype(int) - np.rot90(picture, -1)).mean() < 12


def test_what_ends_at_once_is_not_closed_while_it_is_looked_at(tmp_path, monkeypatch):
    Image.fromarray(moving_square(1)[0]).save(tmp_path / "frame.jpg")
    clock = ffmpeg.Clock

    def late(stream, live):
        time.sleep(0.5)  # in which its one frame is read, and its end
        return clock(stream, live)

    monkeypatch.setattr(ffmpeg, "Clock", late)
    assert len(pictures_of(Camera(f"file://{tmp_path}/frame.jpg"))) == 1


def test_a_source_is_ended_while_it_is_waited_for(silent_server):
    camera = Camera(silent_server[1], timeout=60.0)
    timer = threading.Timer(1, camera.end)
    timer.start()
    assert list(camera.frames())
    timer.join()
    assert camera.notes == []
