"""Videos as a player shows them, and folders of which nothing is left out in silence; inputs as people report them."""

import os
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image
from small_videos import moving_square, pictures_of, save_frames, write_at, write_matrix, write_video

from hmhi_jax.data.ffmpeg import without_password
from hmhi_jax.data.live_sources import Camera
from hmhi_jax.data.open_videos import find_videos, open_videos
from hmhi_jax.data.video_files import VideoFile
from hmhi_jax.errors import InputError

ONE = 1 << 16


@pytest.mark.parametrize("matrix", [(s * ONE, 0, 0, t * ONE) for s in (1, -1) for t in (1, -1)]
                         + [(0, s * ONE, t * ONE, 0) for s in (1, -1) for t in (1, -1)])  # fmt: skip
def test_every_display_matrix(tmp_path, matrix):
    """A point (x, y) of the stored picture is shown at (ax + cy, bx + dy), moved into view."""
    path = write_video(tmp_path / "phone.mp4", moving_square(2))
    stored = pictures_of(VideoFile(path))[1]
    write_matrix(path, *matrix)
    video = VideoFile(path)
    shown = pictures_of(video)[1]
    a, b, c, d = (value // ONE for value in matrix)
    y, x = np.indices(stored.shape[:2])
    across, down = a * x + c * y, b * x + d * y
    expected = np.empty_like(stored if a else stored.transpose(1, 0, 2))
    expected[down - down.min(), across - across.min()] = stored
    np.testing.assert_array_equal(shown, expected)
    assert video.size == expected.shape[:2]


def test_pixels_that_are_not_square_lie_down_with_the_picture(tmp_path):
    path = tmp_path / "wide.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 80, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        for picture in moving_square(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    assert VideoFile(path).sample_aspect_ratio == Fraction(4, 3)
    write_matrix(path, 0, ONE, ONE, 0)
    assert VideoFile(path).sample_aspect_ratio == Fraction(3, 4)


def edit_list(path, first, frames):
    """Show `frames` frames from number `first` on: change the edit that libavformat wrote, a cut without encoding."""
    data = bytearray(path.read_bytes())
    place = data.index(b"elst") + 12
    with av.open(str(path)) as container:
        ticks = round(1 / (25 * container.streams.video[0].time_base))
    begin = int.from_bytes(data[place + 4 : place + 8], "big") + first * ticks
    data[place : place + 8] = (frames * 1000 // 25).to_bytes(4, "big") + begin.to_bytes(4, "big")
    path.write_bytes(data)


def test_frames_that_an_edit_list_cuts_away_are_not_missing(tmp_path):
    path = write_video(tmp_path / "cut.mp4", moving_square(40))
    whole = pictures_of(VideoFile(path))
    edit_list(path, first=25, frames=10)
    video = VideoFile(path)
    found = pictures_of(video)
    assert (len(found), video.frame_count, video.frame_rate, video.notes) == (10, 10, 25, [])
    assert all(np.array_equal(a, b) for a, b in zip(found, whole[25:35], strict=True))


@pytest.mark.parametrize(
    ("suffix", "codec"), [(".webm", "libvpx-vp9"), (".webm", "libvpx"), (".mkv", "libx264"), (".mp4", "libx264")]
)
def test_frames_stored_when_something_changes(tmp_path, suffix, codec):
    """As screen recorders do: all frames are there, and as many a second as there are on average."""
    times = [0, 40, 80, 120, 520, 560, 600, 1200, 1240, 1800]
    video = VideoFile(write_at(tmp_path / f"screen{suffix}", times, codec))
    assert len(pictures_of(video)) == video.frame_count == len(times)
    assert video.notes == []
    assert len(times) / video.frame_rate == pytest.approx(1.84, abs=0.05 if suffix == ".mp4" else 0.005)


def test_a_screen_that_stands_still_for_long(tmp_path):
    video = VideoFile(write_at(tmp_path / "screen.webm", [0, 40, 80, 30_000, 30_040]))
    assert len(pictures_of(video)) == video.frame_count == 5
    assert video.notes == []
    assert 5 / video.frame_rate == pytest.approx(30.08, abs=0.01)


def test_recordings_joined_with_another_clock(tmp_path):
    """The clock of a broadcast jumps from two seconds to seven hours: no frame is missing, no time was spent."""
    parts = []
    for number, start in enumerate((0, 26_000_000)):
        path = write_at(tmp_path / f"{number}.ts", [start + 40 * t for t in range(25)], "libx264")
        parts.append(path.read_bytes())
    joined = tmp_path / "joined.ts"
    joined.write_bytes(b"".join(parts))
    video = VideoFile(joined)
    assert len(pictures_of(video)) == video.frame_count == 50
    assert (video.frame_rate, video.notes) == (25, [])


def test_the_track_that_players_show(tmp_path):
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as container:
        streams = []
        for number, width in enumerate((64, 96)):
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = width, 48, "yuv420p"
            stream.disposition = av.stream.Disposition.default if number else av.stream.Disposition(0)
            streams.append(stream)
        for stream in streams:
            for picture in moving_square(3, (48, stream.width)):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode(None))
    assert VideoFile(path).size == (48, 96)


@pytest.mark.parametrize("suffix", ["webp", "png", "tif", "gif"])
def test_animated_pictures_are_videos(tmp_path, suffix):
    pictures = moving_square(6)
    images = [Image.fromarray(picture) for picture in pictures]
    path = tmp_path / f"a.{suffix}"
    images[0].save(path, save_all=True, append_images=images[1:], duration=50, lossless=True)
    (video,) = open_videos([path])
    found = list(video.frames())
    assert (video.name, video.size, video.frame_count) == ("a", (48, 80), 6)
    assert video.frame_rate == (24 if suffix == "tif" else 20)
    assert [frame.index for frame in found] == list(range(6))
    if suffix != "gif":  # has 256 colours
        assert all(np.array_equal(frame.picture, picture) for frame, picture in zip(found, pictures, strict=True))
    assert [frame.name for frame in video.frames(start=4)] == ["00004", "00005"]
    before = video.fingerprint()
    os.utime(path, (1, 1))
    assert video.fingerprint() != before


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP"])
def test_animated_pictures_are_known_whatever_they_are_called(tmp_path, format):
    images = [Image.fromarray(picture) for picture in moving_square(3)]
    images[0].save(tmp_path / "a.gif", format, save_all=True, append_images=images[1:], duration=50, lossless=True)
    (tmp_path / "set").mkdir()
    (tmp_path / "set/b.mp4").write_bytes((tmp_path / "a.gif").read_bytes() + b"what a tool appended")
    for path in (tmp_path / "a.gif", tmp_path / "set"):
        (video,) = open_videos([path])
        assert len(pictures_of(video)) == 3
        assert video.notes == []


def test_pictures_without_a_time_are_shown_as_browsers_do(tmp_path):
    images = [Image.fromarray(picture) for picture in moving_square(4)]
    for suffix, short in (("webp", 10), ("gif", 10), ("png", 0)):
        path = tmp_path / f"a.{suffix}"
        images[0].save(path, save_all=True, append_images=images[1:], duration=[40, 0, short, 20])
        (video,) = open_videos([path])
        assert [frame.time for frame in video.frames()] == [0, Fraction(4, 100), Fraction(14, 100), Fraction(24, 100)]
        assert [video.frame_at(Fraction(t, 100)) for t in (0, 4, 5, 14, 24, 99)] == [0, 1, 2, 2, 3, 4]
        images[0].save(path, save_all=True, append_images=images[1:], duration=0)
        assert open_videos([path])[0].frame_rate == 10


@pytest.mark.parametrize("suffix", ["webp", "png", "tif", "gif", "apng"])
def test_animated_pictures_that_are_cut_off_give_those_that_are_whole(tmp_path, suffix):
    images = [Image.fromarray(picture) for picture in moving_square(5)]
    path, format = tmp_path / f"a.{suffix}", "PNG" if suffix == "apng" else None
    images[0].save(path, format, save_all=True, append_images=images[1:], duration=50, lossless=True)
    data = path.read_bytes()
    whole = [frame.picture for frame in open_videos([path])[0].frames()]
    counts = set()
    for length in range(len(data) * 35 // 100, len(data) - 12, len(data) // 30):
        path.write_bytes(data[:length])
        (video,) = open_videos([path])
        found = pictures_of(video)
        assert len(found) == video.frame_count < 5
        assert f"{path}: is cut off or damaged; {len(found)} " in video.notes[0]
        assert all(np.array_equal(a, b) for a, b in zip(found, whole, strict=False))
        counts.add(len(found))
    assert counts == {1, 2, 3, 4}
    path.write_bytes(data[: len(data) // 20])
    with pytest.raises(InputError, match=rf"a\.{suffix}: .*(damaged|no picture)"):
        open_videos([path])


def test_an_animated_picture_among_frames_is_told(tmp_path):
    images = [Image.fromarray(picture) for picture in moving_square(3)]
    images[0].save(tmp_path / "0.png")
    images[1].save(tmp_path / "1.png", save_all=True, append_images=images[2:])
    (video,) = open_videos([tmp_path])
    assert len(pictures_of(video)) == 2
    assert video.notes == [f"{tmp_path}: of 1.png only the first picture is read; name such a file alone to read all"]
    images[0].save(tmp_path / "2.tif", save_all=True, append_images=[images[1].resize((20, 12))], tiffinfo={254: 0})
    with pytest.raises(InputError, match=r"2\.tif: picture 1 is 20 x 12 pixels but the first is 80 x 48"):
        open_videos([tmp_path / "2.tif"])


def test_links_to_folders_are_followed_and_loops_are_not(tmp_path):
    save_frames(tmp_path / "store/a", moving_square(3))
    save_frames(tmp_path / "set/b", moving_square(3))
    (tmp_path / "set/a").symlink_to("../store/a")
    (tmp_path / "set/b/back").symlink_to("../../set")
    assert [video.name for video in open_videos([tmp_path / "set"])] == ["a", "b"]
    (tmp_path / "only").mkdir()
    (tmp_path / "only/a").symlink_to("../store/a")
    (video,) = open_videos([tmp_path / "only"])
    assert (video.name, video.frame_count) == ("a", 3)


def test_a_link_to_nothing_is_named_and_the_others_go_on(tmp_path):
    save_frames(tmp_path / "set/a", moving_square(3))
    save_frames(tmp_path / "set/b", moving_square(3))
    (tmp_path / "set/b/00003.png").symlink_to("/nowhere/00003.png")
    (tmp_path / "set/c").mkdir()
    (tmp_path / "set/c/film.mp4").write_text("no film")
    found = find_videos([tmp_path / "set"])
    assert [video.name for video in found.videos] == ["a"]
    assert len(found.failures) == 2
    assert "00003.png: is a link to /nowhere/00003.png, which is not there" in found.failures[0]
    assert "film.mp4: is no video that can be read" in found.failures[1]
    for inputs in ([tmp_path / "set"], [tmp_path / "set/b"], [tmp_path / "set/b/00003.png"]):
        with pytest.raises(InputError, match="is a link to /nowhere"):
            open_videos(inputs)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_a_pipe_among_files_is_told_and_not_waited_for(tmp_path):
    (tmp_path / "a").mkdir()
    write_video(tmp_path / "a" / "good.mp4", moving_square(3))
    os.mkfifo(tmp_path / "a" / "pipe.mp4")
    save_frames(tmp_path / "b", moving_square(2))
    os.mkfifo(tmp_path / "b" / "00002.png")
    found = find_videos([tmp_path])
    assert [video.name for video in found.videos] == ["a/good"]
    assert [failure.partition(": ")[2] for failure in found.failures] == [
        "is a pipe, a socket or a device, expected a file"
    ] * 2


def test_what_a_folder_holds_besides_is_named(tmp_path):
    for name in ("a.mp4", "b.3gp", "c.GIF", "d.mkv"):
        path = write_video(tmp_path / f"{name[0]}.mp4", moving_square(2)) if name != "c.GIF" else tmp_path / name
        if name == "c.GIF":
            images = [Image.fromarray(picture) for picture in moving_square(2)]
            images[0].save(path, "GIF", save_all=True, append_images=images[1:])
        path.rename(tmp_path / name)
    (tmp_path / "notes.txt").write_text("shot on Monday")
    (tmp_path / ".hidden").write_text("")
    found = find_videos([tmp_path])
    assert [video.name for video in found.videos] == ["a", "b", "c", "d"]
    line = f"{tmp_path}: 1 file passed over, neither pictures nor videos by suffix: notes.txt"
    assert (found.notes, found.failures) == ([line], [])
    (tmp_path / "text").mkdir()
    (tmp_path / "text/readme.md").write_text("")
    with pytest.raises(InputError, match=r"holds no frames .* and no videos; it holds readme\.md"):
        open_videos([tmp_path / "text"])


@pytest.mark.parametrize("suffix", ["ppm", "PGM", "Jpg"])
def test_frames_of_old_data_sets(tmp_path, suffix):
    for number, picture in enumerate(moving_square(3)):
        Image.fromarray(picture if suffix != "PGM" else picture[..., 0]).save(tmp_path / f"{number}.{suffix}")
    (video,) = open_videos([tmp_path])
    assert len(pictures_of(video)) == 3


NAMES = [
    "a:b.mp4",
    "http:x.mp4",
    "concat:a|b.mp4",
    "file:z.mp4",
    "%03d.mp4",
    "-i.mp4",
    "~nobody.mp4",
    "dé 'ü\"?#&*.mp4",
]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
@pytest.mark.parametrize("name", [*NAMES, os.fsdecode(b"caf\xe9.mp4")])
def test_names_that_mean_something_to_others(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "clip.mp4", moving_square(3)).rename(tmp_path / name)
    for given in (name, os.path.join(".", name), tmp_path / name, tmp_path):
        (video,) = open_videos([given])
        assert not video.live
        assert len(pictures_of(video)) == 3
        video.name.encode()
    (tmp_path / name).write_text("no film")
    with pytest.raises(InputError, match=r"is no video that can be read"):
        open_videos([tmp_path / name])


def test_what_is_no_address_is_a_missing_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a:b.mp4", "nothing", "://x", "1x://y", "http:/one/slash.mp4", "~nobody/x.mp4"):
        with pytest.raises(InputError, match="no such file or folder"):
            open_videos([name])


def test_passwords_in_addresses_are_shown_to_nobody(tmp_path):
    address = "rtsp://me:s3cr@t@127.0.0.1:1/cam?x=1"
    assert without_password(address) == "rtsp://127.0.0.1:1/cam?x=1"
    assert without_password("a@b.mp4") == "a@b.mp4"
    with pytest.raises(InputError, match=r"^rtsp://127\.0\.0\.1:1/cam") as caught:
        Camera(address)
    assert "s3cr" not in str(caught.value)
    assert "me:" not in str(caught.value)
