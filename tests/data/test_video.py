"""Videos of every kind the command takes, real files all, and what is said about those it does not take."""

import os
import re
import zlib
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from PIL import Image
from small_videos import moving_square, pictures_of, save_frames, write_video

from hmhi_jax.data import ffmpeg
from hmhi_jax.data.open_videos import open_videos
from hmhi_jax.data.pictures import picture_size, read_picture
from hmhi_jax.data.video import check_size
from hmhi_jax.data.video_files import FrameFolder, VideoFile
from hmhi_jax.errors import InputError


def test_a_title_in_another_encoding(tmp_path):
    path = write_video(tmp_path / "clip.mkv", moving_square(3), title="Cafe")
    path.write_bytes(path.read_bytes().replace(b"Cafe", b"Caf\xe9"))
    (video,) = open_videos([path])
    assert len(pictures_of(video)) == 3


@pytest.mark.parametrize(
    ("suffix", "codec"), [(".mp4", "libx264"), (".mkv", "libx264"), (".webm", "libvpx-vp9"), (".avi", "mpeg4")]
)
def test_containers(tmp_path, suffix, codec):
    path = write_video(tmp_path / f"clip{suffix}", moving_square(12), codec=codec, rate=30)
    (video,) = open_videos([path])
    frames = list(video.frames())
    assert (video.name, video.size, video.frame_rate, video.frame_count) == ("clip", (48, 80), 30, 12)
    assert [frame.name for frame in frames] == [f"{i:05d}" for i in range(12)]
    assert [frame.index for frame in frames] == list(range(12))
    assert video.notes == []
    for frame, original in zip(frames, moving_square(12), strict=True):
        assert frame.picture.dtype == np.uint8
        assert np.abs(frame.picture.astype(int) - original).mean() < 12
    later = list(video.frames(start=7))
    assert [frame.index for frame in later] == list(range(7, 12))
    assert all(np.array_equal(a.picture, b.picture) for a, b in zip(frames[7:], later, strict=True))


def turn(path, matrix):
    """Write a display matrix into the track header, as phones do."""
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 4 + 40  # version 0: 4 + 20 + 16 bytes before the matrix
    data[place : place + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in matrix)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("matrix", "turns"),
    [((0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30), 3), ((-1 << 16, 0, 0, 0, -1 << 16, 0, 0, 0, 1 << 30), 2),
     ((0, -1 << 16, 0, 1 << 16, 0, 0, 0, 0, 1 << 30), 1)],
)  # fmt: skip
def test_rotated_as_the_file_says(tmp_path, matrix, turns):
    path = write_video(tmp_path / "phone.mp4", moving_square(3))
    lying = pictures_of(VideoFile(path))
    turn(path, matrix)
    video = VideoFile(path)
    assert video.size == ((80, 48) if turns % 2 else (48, 80))
    for a, b in zip(lying, pictures_of(video), strict=True):
        assert np.array_equal(np.rot90(a, turns), b)


def test_a_file_cut_off_gives_the_frames_that_decode(tmp_path):
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 255, (48, 80, 3), dtype=np.uint8) for _ in range(40)]
    whole = write_video(tmp_path / "whole.mp4", noise, options={"movflags": "faststart"})
    data = whole.read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(data[: len(data) * 6 // 10])
    video = VideoFile(cut)
    frames = pictures_of(video)
    assert 15 < len(frames) < 30
    assert re.search(rf"cut\.mp4: is cut off or damaged.*; {len(frames)} of about 40 frames", video.notes[0])
    assert all(np.array_equal(a, b) for a, b in zip(frames, pictures_of(VideoFile(whole)), strict=False))
    assert len(pictures_of(video)) == len(frames)
    assert len(video.notes) == 1
    matroska = write_video(tmp_path / "whole.mkv", noise)
    data = matroska.read_bytes()
    (tmp_path / "cut.mkv").write_bytes(data[: len(data) // 2])
    video = VideoFile(tmp_path / "cut.mkv")
    assert 10 < len(pictures_of(video)) < 30
    assert "of about 40 frames decode and are used" in video.notes[0]


def test_a_file_without_its_index_is_refused(tmp_path):
    path = write_video(tmp_path / "clip.mp4", moving_square(20))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(InputError, match=r"clip\.mp4: is no video that can be read.*cut off"):
        open_videos([path])


def test_no_videos(tmp_path):
    (tmp_path / "text.mp4").write_text("this is no film\n" * 50)
    (tmp_path / "list.mp4").write_text(f"ffconcat version 1.0\nfile '{tmp_path}/sound.mp4'\n")
    whole = write_video(tmp_path / "whole.mkv", moving_square(20)).read_bytes()
    (tmp_path / "begin.mkv").write_bytes(whole[:300])
    (tmp_path / "empty.mp4").touch()
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    for name, message in (
        ("text.mp4", "is no video that can be read"),
        ("list.mp4", "is no video but names other files, which are not read"),
        ("begin.mkv", "is no video that can be read; .* cut off or damaged"),
        ("empty.mp4", "the file is empty"),
        ("sound.mp4", "holds no video stream, only audio"),
        ("none.mp4", "no such file or folder"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            open_videos([tmp_path / name])
        assert str(tmp_path / name) in str(caught.value)


def test_a_device_is_a_camera(tmp_path, monkeypatch):
    """No camera here: a real device that is none, and one that FFmpeg is made to take for a camera."""
    with pytest.raises(InputError, match=r"^/dev/null: ") as caught:
        open_videos(["/dev/null"])
    assert "the file is empty" not in str(caught.value)

    clip, asked = write_video(tmp_path / "clip.mp4", moving_square(3)), []

    def opened(source, container_format=None, timeout=None):
        asked.append((source, container_format))
        return av.open(str(clip))

    monkeypatch.setattr(ffmpeg, "open_container", opened)
    (video,) = open_videos(["/dev/null"])
    assert asked == [("/dev/null", "v4l2")]
    assert (video.live, video.name, video.size) == (True, "null", (48, 80))
    assert len(pictures_of(video)) == 3


def test_camera_that_is_not_there():
    with pytest.raises(InputError, match=r"^7777: no such file or folder, and no such camera"):
        open_videos(["7777"])


def test_url_is_a_live_video(tmp_path):
    path = write_video(tmp_path / "clip.mkv", moving_square(5))
    (video,) = open_videos([f"file://{path}"])
    assert video.live
    assert video.frame_count is None
    assert len(pictures_of(video)) == 5
    with pytest.raises(InputError, match="can be read only once"):
        next(video.frames())


def test_frames_in_natural_order(tmp_path):
    pictures = moving_square(12)
    folder = save_frames(tmp_path / "frames", pictures, names=[f"shot{i}" for i in range(12)])
    (folder / "notes.txt").write_text("not a picture")
    (folder / "._shot3.png").write_text("left by a Mac")
    video = FrameFolder(folder)
    assert video.frame_names() == [f"shot{i}" for i in range(12)]
    assert (video.size, video.frame_rate, video.frame_count) == ((48, 80), Fraction(24), 12)
    assert all(np.array_equal(a, b) for a, b in zip(pictures_of(video), pictures, strict=True))
    assert [frame.name for frame in video.frames(start=10)] == ["shot10", "shot11"]


def test_picture_kinds(tmp_path):
    picture = moving_square(1)[0]
    turned = Image.Exif()
    turned[0x0112] = 6  # "the camera was held upright"
    for suffix in ("jpg", "png", "tif"):
        path = tmp_path / f"exif.{suffix}"
        Image.fromarray(picture).save(path, exif=turned)
        assert FrameFolder(tmp_path, pictures=[path]).size == (80, 48)
        assert read_picture(path).shape == (80, 48, 3)
    assert np.array_equal(read_picture(tmp_path / "exif.png"), np.rot90(picture, -1))
    grey = picture[..., 0]
    cv2.imwrite(str(tmp_path / "deep.png"), grey.astype(np.uint16) * 257)
    assert np.array_equal(read_picture(tmp_path / "deep.png"), np.repeat(grey[..., None], 3, -1))
    Image.fromarray(picture).convert("RGBA").save(tmp_path / "alpha.png")
    assert np.array_equal(read_picture(tmp_path / "alpha.png"), picture)
    for white in (65_535, 1023):
        levels = np.rint(grey / 255 * white).astype(">u2").tobytes()
        (tmp_path / "deep.pgm").write_bytes(b"P5 %d %d %d\n" % (*grey.shape[::-1], white) + levels)
        assert picture_size(tmp_path / "deep.pgm") == grey.shape
        assert np.array_equal(read_picture(tmp_path / "deep.pgm"), np.repeat(grey[..., None], 3, -1))
    for mode in ("I", "F"):
        Image.fromarray(grey).convert(mode).save(tmp_path / "wide.tif")
        for read in (read_picture, picture_size):
            with pytest.raises(InputError, match=rf"wide\.tif: has 32 bits a pixel \(mode {mode}\), expected 8 or 16"):
                read(tmp_path / "wide.tif")


def test_frames_of_two_sizes(tmp_path):
    folder = save_frames(tmp_path / "frames", [*moving_square(3), moving_square(1, (48, 64))[0]])
    with pytest.raises(InputError, match=r"00003\.png is 64 x 48 pixels but 00000\.png is 80 x 48"):
        open_videos([folder])


def test_video_that_changes_its_size(tmp_path):
    # Two VP8 key frames of different sizes in one stream: Matroska's header is of the first.
    first = write_video(tmp_path / "first.ivf", moving_square(3, (48, 64)), codec="libvpx")
    second = write_video(tmp_path / "second.ivf", moving_square(3, (64, 80)), codec="libvpx")
    joined = tmp_path / "joined.ivf"
    joined.write_bytes(first.read_bytes() + second.read_bytes()[32:])
    video = VideoFile(joined)
    with pytest.raises(InputError, match=r"frame 3 is 80 x 64 pixels but the first is 64 x 48"):
        list(video.frames())


def test_damaged_pictures(tmp_path):
    folder = save_frames(tmp_path / "frames", moving_square(3), suffix=".jpg")
    data = (folder / "00001.jpg").read_bytes()
    (folder / "00001.jpg").write_bytes(data[:-100])
    with pytest.raises(InputError, match=r"00001\.jpg: is damaged"):
        pictures_of(FrameFolder(folder))
    (folder / "00001.jpg").write_text("nothing like it")
    with pytest.raises(InputError, match=r"00001\.jpg: is no picture"):
        FrameFolder(folder)


def test_opening_reads_headers_only(tmp_path):
    folder = save_frames(tmp_path / "frames", moving_square(3))
    data = (folder / "00001.png").read_bytes()
    (folder / "00001.png").write_bytes(data[:100])
    video = FrameFolder(folder)
    with pytest.raises(InputError, match=r"00001\.png: is damaged"):
        pictures_of(video)
    exif = data[:33] + b"\0\0\0\4eXIfnone" + zlib.crc32(b"eXIfnone").to_bytes(4, "big") + data[33:]
    (folder / "00001.png").write_bytes(exif)
    with pytest.raises(InputError, match=r"00001\.png: is damaged"):
        FrameFolder(folder)


def test_sizes_that_are_refused(tmp_path):
    for name, size, message in (("dot", (1, 1), "is 1 x 1 pixels, expected at least 16"),
                                ("long", (20, 20000), "is 20000 x 20 pixels, expected at most 16384")):  # fmt: skip
        folder = tmp_path / name
        folder.mkdir()
        cv2.imwrite(str(folder / "0.png"), np.zeros((*size, 3), np.uint8))
        with pytest.raises(InputError, match=message):
            open_videos([folder])
    check_size((4320, 7680), "8K")
    with pytest.raises(InputError, match="64 megapixels"):
        check_size((16000, 16000), "wall")


def test_huge_picture_is_one_error_without_warnings(tmp_path, recwarn):
    Image.new("1", (20000, 20000)).save(tmp_path / "0.png")
    with pytest.raises(InputError, match=r"0\.png"):
        open_videos([tmp_path])
    assert not recwarn


def test_folders_of_videos_and_of_frame_folders(tmp_path):
    write_video(tmp_path / "b.mp4", moving_square(2))
    write_video(tmp_path / "a.mkv", moving_square(2))
    save_frames(tmp_path / "JPEGImages" / "480p" / "swan", moving_square(2), ".jpg")
    save_frames(tmp_path / "JPEGImages" / "480p" / "dog", moving_square(2), ".jpg")
    videos = open_videos([tmp_path])
    assert [video.name for video in videos] == ["a", "b", "JPEGImages/480p/dog", "JPEGImages/480p/swan"]
    assert [video.name for video in open_videos([tmp_path / "JPEGImages/480p/dog"])] == ["dog"]
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InputError, match="holds no frames"):
        open_videos([tmp_path / "nothing"])
    save_frames(tmp_path, moving_square(1))
    with pytest.raises(InputError, match="holds 1 pictures and 2 video files, expected one kind"):
        open_videos([tmp_path])


def test_names_of_several_inputs_differ(tmp_path):
    for place in ("one/clip.mp4", "two/clip.mp4", "two/clip.mkv", "two/other.mp4"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        write_video(tmp_path / place, moving_square(2))
    paths = [
        tmp_path / "one/clip.mp4",
        tmp_path / "two/clip.mp4",
        tmp_path / "two/clip.mkv",
        tmp_path / "two/other.mp4",
    ]
    videos = open_videos([*paths, paths[0]])  # the same twice is one
    assert [video.name for video in videos] == ["one-clip.mp4", "two-clip.mp4", "clip.mkv", "other"]


def test_pictures_named_one_by_one_are_one_video(tmp_path):
    folder = save_frames(tmp_path / "shots", moving_square(4))
    (video,) = open_videos(sorted(folder.iterdir())[1:], frame_rate=Fraction(10))
    assert (video.name, video.frame_count, video.frame_rate) == ("shots", 3, 10)
    (folder / "00002.jpg").write_bytes((folder / "00002.png").read_bytes())
    with pytest.raises(InputError, match=r"00002\.(jpg, 00002\.png|png, 00002\.jpg) would get the same mask name"):
        FrameFolder(folder)


def test_fingerprints_notice_changes(tmp_path):
    path = write_video(tmp_path / "clip.mp4", moving_square(3))
    before = VideoFile(path).fingerprint()
    assert VideoFile(path).fingerprint() == before
    write_video(path, moving_square(4))
    assert VideoFile(path).fingerprint() != before
    folder = save_frames(tmp_path / "frames", moving_square(3))
    before = FrameFolder(folder).fingerprint()
    os.utime(folder / "00001.png", (1, 1))
    assert FrameFolder(folder).fingerprint() != before
