"""`hmhi segment` stopped, killed, started twice, or on a disk that is full: what is finished stays, and it goes on."""

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from segment_results import frames_of, masks_of, refused, same_masks, start
from small_videos import moving_square, write_video

from hmhi_jax.data.ffmpeg import Decoder


def test_ctrl_c_finishes_a_camera(tmp_path, weights):
    """Frames come through a pipe at their own pace; Ctrl-C ends the video in good order."""
    pipe, out = tmp_path / "camera.ts", tmp_path / "out"
    os.mkfifo(pipe)
    over = threading.Event()

    def film():
        with pipe.open("wb", buffering=0) as sink, av.open(sink, "w", format="mpegts") as container:
            stream = container.add_stream("mpeg2video", rate=25)
            stream.height, stream.width, stream.pix_fmt = 48, 80, "yuv420p"
            for picture in itertools.cycle(moving_square(50)):
                if over.wait(0.02):
                    return
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))

    def camera():
        with contextlib.suppress(OSError, av.FFmpegError):  # nobody reads any more
            film()

    filming = threading.Thread(target=camera)
    filming.start()
    process = start(f"file://{pipe}", "-o", out, "--weights", weights)
    try:
        wait_for(lambda: len(list((out / "masks").glob("*"))) > 8, process)
        process.send_signal(signal.SIGINT)
        text, err = process.communicate(timeout=60)
    finally:
        process.kill()
        over.set()
        filming.join()
    assert process.returncode == 0, err
    assert str(out / "sheet.png") in text
    summary = json.loads((out / "summary.json").read_text())
    assert 8 < summary["frames"] == len(masks_of(out)) == frames_of(out / "overlay.mp4")


def wait_for(condition, process):
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)


@pytest.mark.parametrize(("kind", "every"), [(signal.SIGKILL, 1), (signal.SIGKILL, 3), (signal.SIGINT, 1)])
def test_killed_and_started_again(tmp_path, hmhi, weights, kind, every):
    """Masks as if nothing had happened, no half file, and the second start does not begin from the beginning."""
    frames = 150
    clip = write_video(tmp_path / "long.mp4", moving_square(frames))
    out = tmp_path / "out"
    command = (clip, "-o", out, "--weights", weights, "--every", every, "--save-every", 20)
    process = start(*command)
    wait_for(lambda: len(list((out / "masks").glob("*"))) > 65, process)
    process.send_signal(kind)
    _, err = process.communicate(timeout=60)
    if kind == signal.SIGINT:
        assert process.returncode == 130
        assert err.splitlines()[-1] == "stopped; the same command goes on with what is unfinished"
    assert 65 < len(list((out / "masks").iterdir())) < frames
    assert not (out / "summary.json").exists()
    assert not (out / "overlay.mp4").exists()
    for path in (out / "masks").iterdir():
        assert cv2.imread(str(path), cv2.IMREAD_UNCHANGED).shape == (48, 80)

    refused(hmhi(*command[:-1], 30, "--threshold", 0.9), "holds unfinished results made otherwise")
    assert hmhi(*command)[0] == 0
    summary = json.loads((out / "summary.json").read_text())
    assert 40 <= summary["resumed_at"] < frames
    assert summary["frames"] == len(summary["area"]) == frames
    assert summary["every"] == every
    assert frames_of(out / "overlay.mp4") == frames
    assert not (out / ".unfinished").exists()

    whole = tmp_path / "whole"
    assert hmhi(*command[:2], whole, *command[3:], "--no-resume")[0] == 0
    assert same_masks(masks_of(out), masks_of(whole))
    assert (out / "sheet.png").read_bytes() == (whole / "sheet.png").read_bytes()
    assert summary["area"] == json.loads((whole / "summary.json").read_text())["area"]


def test_a_saved_memory_is_used_only_where_it_fits(tmp_path, monkeypatch, hmhi, weights):
    """An interrupted folder that was emptied by hand (what is hidden stays) starts at frame 0, whatever the video."""
    from hmhi_jax.inference import video_job

    clip, other = (write_video(tmp_path / f"{seed}.mp4", moving_square(30, seed=seed)) for seed in (0, 1))

    def stopping(video, frames, *arguments):
        for frame in frames:
            if frame.index == 25:
                raise KeyboardInterrupt
            yield frame

    command = ("--weights", weights, "--save-every", 10)
    for video in (clip, other):
        out, alone = tmp_path / f"out-{video.stem}", tmp_path / f"alone-{video.stem}"
        with monkeypatch.context() as patched:
            patched.setattr(video_job, "frames_until", stopping)
            assert hmhi(clip, "-o", out, *command)[0] == 130
        assert (out / ".unfinished" / "memory.safetensors").exists()
        shutil.rmtree(out / "masks")
        assert hmhi(video, "-o", out, *command)[0] == 0
        assert json.loads((out / "summary.json").read_text())["resumed_at"] == 0
        assert hmhi(video, "-o", alone, *command)[0] == 0
        assert same_masks(masks_of(out), masks_of(alone))
        assert (out / "overlay.mp4").read_bytes() == (alone / "overlay.mp4").read_bytes()


@pytest.mark.parametrize(
    ("kind", "place", "save_every"), [("mov", "frame", 4), ("webm", "frame", 4), ("mov", "end", 4), ("mov", "end", 5)]
)
def test_videos_interrupted_go_on_to_the_same_bytes(
    tmp_path, monkeypatch, hmhi, weights, clip, kind, place, save_every
):
    """Also where it is stopped when the videos are there and the summary is not: after a saved memory of all frames, or
    of fewer."""
    from hmhi_jax.inference import video_job
    from hmhi_jax.inference.result_folder import ResultFolder

    def stopping(video, frames, *arguments):
        for frame in frames:
            if frame.index == 9:
                raise KeyboardInterrupt
            yield frame

    def stopped(folder, summary):
        raise KeyboardInterrupt

    for name in ("broken", "whole"):
        command = (clip, "-o", tmp_path / f"{name}.{kind}", "--weights", weights, "--save-every", save_every, "--matte")
        if name == "broken":
            with monkeypatch.context() as patched:
                if place == "frame":
                    patched.setattr(video_job, "frames_until", stopping)
                else:
                    patched.setattr(ResultFolder, "finish", stopped)
                assert hmhi(*command)[0] == 130
            assert (tmp_path / f"broken.{kind}").exists() == (place == "end")
        assert hmhi(*command)[0] == 0
        summary = json.loads((tmp_path / f"{name}.{kind}.results/summary.json").read_text())
        assert (summary["resumed_at"] > 0) == (name == "broken")
        assert not (tmp_path / f"{name}.{kind}.results/.unfinished").exists()
    for name in (f"broken.{kind}", f"broken.{kind}.results/matte.mp4"):
        assert (tmp_path / name).read_bytes() == (tmp_path / name.replace("broken", "whole")).read_bytes()


def test_two_commands_on_one_folder(tmp_path, hmhi, weights):
    clip = write_video(tmp_path / "long.mp4", moving_square(150))
    out = tmp_path / "out"
    command = (clip, "-o", out, "--weights", weights)
    process = start(*command)
    wait_for(lambda: len(list((out / "masks").glob("*"))) > 5, process)
    process.send_signal(signal.SIGSTOP)
    try:
        refused(hmhi(*command), "another command is writing there right now")
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 400 kB; needs the right to mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    if (
        not mount
        or subprocess.run([mount, "-t", "tmpfs", "-o", "size=400k", "tmpfs", disk], capture_output=True).returncode
    ):
        pytest.skip("may not mount a small file system here")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def test_full_disk(tmp_path, small_disk, hmhi, weights):
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 255, (96, 160, 3), dtype=np.uint8) for _ in range(40)]
    clip = write_video(tmp_path / "clip.mkv", noise)
    cut, out = small_disk / "cut.mov", small_disk / "cut.mov.results"
    command = (clip, "-o", cut, "--weights", weights, "--save-every", 10)
    (small_disk / "ballast").write_bytes(b"0" * 100_000)
    refused(hmhi(*command), r"cannot be written \(No space left on device\); free some space")
    assert not cut.exists()
    assert not (out / "summary.json").exists()
    (part,) = (out / ".unfinished").glob("cutout-*.mov")  # in the middle of a container: what was written plays
    with av.open(str(part)) as container:
        assert sum(1 for _ in Decoder(container.streams.video[0]).frames()) >= 1
    for path in (out / "masks").iterdir():
        assert cv2.imread(str(path), cv2.IMREAD_UNCHANGED).shape == (96, 160)
    (small_disk / "ballast").unlink()
    subprocess.run(["mount", "-o", "remount,size=20m", small_disk], check=True)
    assert hmhi(*command)[0] == 0
    assert len(masks_of(out)) == frames_of(cut) == 40


def test_a_disk_that_fills_up(tmp_path, monkeypatch, hmhi, weights, clip):
    """The same where no file system may be mounted: writing fails from the sixth mask on."""
    replace = os.replace

    def full(source, target):
        if Path(target).name == "00006.png":
            raise OSError(28, os.strerror(28))
        replace(source, target)

    out = tmp_path / "out"
    monkeypatch.setattr(os, "replace", full)
    refused(hmhi(clip, "-o", out, "--weights", weights), r"00006\.png: cannot be written \(No space left on device\)")
    monkeypatch.setattr(os, "replace", replace)
    assert {f"{i:05d}.png" for i in range(6)} <= set(masks_of(out))
    assert hmhi(clip, "-o", out, "--weights", weights)[0] == 0
    assert len(masks_of(out)) == 12
