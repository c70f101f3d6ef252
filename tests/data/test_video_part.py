"""Parts of video files are found by the key frame before them, and are what decoding everything gives."""

import av
import numpy as np
import pytest
from small_videos import moving_square, write_at, write_video

from hmhi_jax.data.open_videos import open_videos
from hmhi_jax.data.video import Part

FRAMES = 50


def encoded(path, codec, rate=25, **options):
    """A clip whose frames differ everywhere, in groups as the encoder's options say."""
    noise = np.random.default_rng(0).integers(0, 60, (FRAMES, 48, 80, 3), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options={"g": "12", **options})
        stream.height, stream.width, stream.pix_fmt = 48, 80, "yuv420p"
        for number, picture in enumerate(moving_square(FRAMES)):
            frame = av.VideoFrame.from_ndarray(picture // 2 + noise[number], format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def same(one, other):
    """The same frame, bit for bit, at the same time and under the same name."""
    assert (one.name, one.time, one.duration) == (other.name, other.time, other.duration)
    return np.array_equal(one.picture, other.picture)


@pytest.mark.parametrize(
    ("name", "codec", "options", "sought"),
    [
        ("closed.mp4", "libx264", {"bf": "3"}, True),
        ("open.mkv", "libx264", {"bf": "3", "x264-params": "open-gop=1:b-pyramid=normal"}, True),
        ("hevc.mp4", "libx265", {"bf": "3", "x265-params": "log-level=none:open-gop=1"}, True),
        ("hidden.webm", "libvpx-vp9", {"auto-alt-ref": "1", "lag-in-frames": "16", "deadline": "realtime"}, True),
        ("refresh.mp4", "libx264", {"bf": "0", "x264-params": "intra-refresh=1"}, None),
        ("broadcast.ts", "libx264", {"bf": "3"}, False),
        ("mpeg4.avi", "mpeg4", {"bf": "2"}, True),
    ],
)
def test_frames_of_a_part(tmp_path, name, codec, options, sought):
    path = encoded(tmp_path / name, codec, **options)
    with av.open(str(path)) as container:
        keys = sum(packet.is_keyframe for packet in container.demux(video=0) if packet.size)
    assert keys > 3 or sought is not True
    whole = list(open_videos([path])[0].frames())
    for start in (1, 12, 23, 30, FRAMES - 1):
        (video,) = open_videos([path])
        part = Part(str(start), str(min(start + 5, FRAMES))).of(video)
        frames = list(part.frames())
        assert [frame.index for frame in frames] == list(range(len(frames)))
        assert all(map(same, frames, whole[start : start + 5])), start
        assert len(list(part.frames(2))) == max(0, len(frames) - 2)
        assert all(map(same, part.frames(2), whole[start + 2 : start + 5])), start
        assert all(map(same, video.frames(), whole[:3]))
        assert not part.notes
        if sought is not None and start > 24:
            assert bool(video._entry.packets) == sought


def test_what_comes_before_is_not_decoded(tmp_path):
    """The first groups are destroyed; a part after them is whole, and nothing is said of a damage."""
    path = encoded(tmp_path / "a.mp4", "libx264", bf="2")
    whole = list(open_videos([path])[0].frames())
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    for packet in packets[1:24]:  # the first frame says what the file is
        data[packet.pos + 8 : packet.pos + packet.size] = bytes(packet.size - 8)
    path.write_bytes(data)
    part = Part("40").of(open_videos([path])[0])
    assert all(map(same, part.frames(), whole[40:]))
    assert len(list(part.frames())) == FRAMES - 40
    assert not part.notes
    damaged = open_videos([path])[0]
    assert sum(1 for _ in damaged.frames()) < FRAMES
    assert "cut off or damaged" in damaged.notes[0]


def test_uneven_times_and_a_part_that_is_cut_off(tmp_path):
    times = [0, 40, 80, 600, 640, 641, 700, 1400, 1440, 1500]
    path = write_at(tmp_path / "screen.mkv", times, "libx264", rate=5)
    whole = list(open_videos([path])[0].frames())
    for start in range(1, 10):
        assert all(map(same, Part(str(start)).of(open_videos([path])[0]).frames(), whole[start:]))
    clip = write_video(tmp_path / "clip.mp4", moving_square(40), options={"movflags": "+faststart"})
    (tmp_path / "cut.mp4").write_bytes(clip.read_bytes()[:-200])
    part = Part("30").of(open_videos([tmp_path / "cut.mp4"])[0])
    count = len(list(part.frames()))
    assert 0 < count < 10
    assert part.notes == [
        f"{tmp_path}/cut.mp4: is cut off or damaged; {30 + count} of about 40 frames decode and are used"
    ]
