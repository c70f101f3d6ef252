"""What reading and writing a video leaves behind: nothing, without waiting for the garbage collector."""

import gc
import sys
from pathlib import Path

import pytest
from small_videos import moving_square, write_video

from hmhi_jax.data.video_files import VideoFile
from hmhi_jax.inference.sound import Span
from hmhi_jax.inference.video_writer import OVERLAY, VideoWriter


def threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def read_and_write(path: Path, workplace: Path) -> None:
    video = VideoFile(path)
    writer = VideoWriter("overlay", workplace / "overlay.mp4", workplace, OVERLAY, video)
    ticks = []
    for frame in video.frames():
        ticks.append(int(frame.time / video.time_base))
        writer.add(writer.draw(frame.decoded), ticks[-1])
        if frame.index == 7:
            writer.cut()
    writer.finish([*ticks, 2 * ticks[-1]], Span())
    for frame in video.frames():
        if frame.index == 3:
            return


@pytest.mark.skipif(sys.platform != "linux", reason="counts the threads of /proc")
def test_threads_are_those_of_the_first_videos(tmp_path):
    path = write_video(tmp_path / "clip.mp4", moving_square(12))
    gc.collect()
    gc.disable()
    try:
        counts = []
        for _ in range(6):
            read_and_write(path, tmp_path)
            counts.append(threads())
    finally:
        gc.enable()
    assert counts[1:] == counts[1:2] * 5
