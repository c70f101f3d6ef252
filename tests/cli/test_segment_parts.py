"""`hmhi segment` on parts of videos, over changes of shot, and as one of several machines."""

import json
import shutil

import numpy as np
import pytest
from segment_results import frames_of, masks_of, refused, same_masks
from small_videos import moving_square, save_frames, write_at

from hmhi_jax.data.open_videos import open_videos


@pytest.fixture(scope="module")
def shots(tmp_path_factory):
    """Three shots of 7, 1 and 6 frames, as pictures."""
    pictures = [*moving_square(7), *moving_square(1, seed=1), *moving_square(6, seed=2)]
    return save_frames(tmp_path_factory.mktemp("shots") / "frames", pictures, names=[f"{i}" for i in range(101, 115)])


def summary_of(folder):
    return json.loads((folder / "summary.json").read_text())


@pytest.mark.parametrize(
    ("start", "end", "first", "last"),
    [
        ("5", "9", 5, 8),
        ("0.2", "0.36", 5, 8),  # 25 frames a second
        ("0:00.2", "0:00:00.36s"[:-1], 5, 8),
        ("00:00:00:05", "00:00:00:09", 5, 8),
        ("0.161s", None, 5, 11),
        (None, "1", 0, 0),
    ],
)
def test_a_range(tmp_path, hmhi, weights, clip, start, end, first, last):
    """Between key frames too: the same as of a video of these frames alone, with the names of the whole."""
    given = [*(("--start", start) if start else ()), *(("--end", end) if end else ())]
    command = ("--weights", weights, "--cuts", "off", "--save-every", 2)
    assert hmhi(clip, "-o", tmp_path / "part", *given, *command)[0] == 0
    frames = [frame.picture for frame in open_videos([clip])[0].frames()][first : last + 1]
    names = [f"{i:05d}" for i in range(first, last + 1)]
    assert hmhi(save_frames(tmp_path / "alone", frames, names=names), "-o", tmp_path / "out", *command)[0] == 0
    assert list(masks_of(tmp_path / "part")) == [f"{name}.png" for name in names]
    assert same_masks(masks_of(tmp_path / "part"), masks_of(tmp_path / "out"))
    assert frames_of(tmp_path / "part" / "overlay.mp4") == len(names)
    assert "finished before" in hmhi(clip, "-o", tmp_path / "part", *given, *command)[1]


def test_a_range_of_a_folder_by_the_names_of_its_frames(tmp_path, hmhi, weights, shots):
    command = (shots, "--weights", weights, "--no-overlay", "--start", 103)
    assert hmhi(*command, "-o", tmp_path / "a", "--end", "105")[0] == 0
    assert list(masks_of(tmp_path / "a")) == ["103.png", "104.png"]
    assert hmhi(*command, "-o", tmp_path / "b", "--max-frames", 1)[0] == 0
    assert list(masks_of(tmp_path / "b")) == ["103.png"]
    refused(hmhi(*command, "-o", tmp_path / "a"), r"made otherwise \(input: .*end 4, now .*end None\)")


def test_times_of_a_video_without_a_steady_rate(tmp_path, hmhi, weights):
    screen = write_at(tmp_path / "screen.webm", [0, 40, 80, 600, 640, 1400])
    command = (screen, "--weights", weights, "--no-overlay")
    assert hmhi(*command, "-o", tmp_path / "out", "--start", "0.6", "--end", "1.4")[0] == 0
    assert list(masks_of(tmp_path / "out")) == ["00003.png", "00004.png"]
    assert hmhi(*command, "-o", tmp_path / "all", "--start", "0.601", "--end", "99")[0] == 0
    assert summary_of(tmp_path / "all")["notes"] == [f"{screen}: --end 99 is frame 99, but it ends after 6 frames"]
    assert list(masks_of(tmp_path / "all")) == ["00004.png", "00005.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--start", "12"], r"clip\.mp4: --start 12 is frame 12, but it has 12 frames, from 0 to 11"),
        (["--start", "0.5"], r"clip\.mp4: --start 0\.5 is frame 12?3?, but it has 12 frames"),
        (["--start", "5", "--end", "0:00:00.2"], r"--start 5 and --end 0:00:00\.2 hold no frame .*from 5 to before 5"),
        (["--start", "soon"], r"--start soon: expected a frame's number \(120\), seconds"),
        (["--end=-3"], r"--end -3: expected a frame's number"),
        (["--cuts", "none"], r"--cuts none: is no file, expected auto, off, or a file"),
        (["--cuts", "late.txt"], r"--cuts has frame 40, but the last of it is 11"),
        (["--shard", "4/4"], r"--shard 4/4: expected I/N, number I of N machines counted from 0"),
        (["--shard", "2"], r"--shard 2: expected I/N"),
        (["--rate", "25"], "--rate 25: is of raw pictures on standard input, but no input is '-'"),
        (["--size", "64", "--network-size", "64"], "--size 64 and --network-size 64: are the same here"),
    ],
)
def test_wrong_parts(tmp_path, monkeypatch, hmhi, weights, clip, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "late.txt").write_text("3\n40\n")
    refused(hmhi(clip, "-o", tmp_path / "out", "--weights", weights, *arguments), message)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("cuts", ["auto", "told"])
def test_shots_know_nothing_of_each_other(tmp_path, hmhi, weights, shots, cuts):
    """Each has the masks it has as a video of its own, however the command is interrupted."""
    told = tmp_path / "cuts.txt"
    told.write_text("# of the edit\n108\n109  # by the frame's name\n")
    command = (shots, "--weights", weights, "--cuts", cuts if cuts == "auto" else told, "--soft")
    assert hmhi(*command, "-o", tmp_path / "out")[0] == 0
    assert summary_of(tmp_path / "out")["cuts"] == ["108", "109"]
    whole = masks_of(tmp_path / "out")
    for start, end in ((101, 108), (108, 109), (109, 115)):
        alone = tmp_path / f"{start}"
        assert hmhi(*command[:3], "-o", alone, "--cuts", "off", "--start", start, "--end", end, "--soft")[0] == 0
        assert same_masks(masks_of(alone), {name: whole[name] for name in masks_of(alone)})
    assert hmhi(*command[:3], "-o", tmp_path / "off", "--cuts", "off", "--soft")[0] == 0
    assert summary_of(tmp_path / "off")["cuts"] == []
    soft = [(tmp_path / folder / "soft" / "110.png").read_bytes() for folder in ("out", "off")]
    assert soft[0] != soft[1]  # there was something to forget


@pytest.mark.parametrize("stopped_at", [7, 8, 10])
def test_going_on_beside_a_cut(tmp_path, monkeypatch, hmhi, weights, shots, stopped_at):
    from hmhi_jax.inference import video_job

    until = video_job.frames_until

    def stopping(*arguments):
        for frame in until(*arguments):
            yield frame
            if frame.index == stopped_at:
                raise KeyboardInterrupt

    command = (shots, "--weights", weights, "--save-every", 1)
    with monkeypatch.context() as patched:
        patched.setattr(video_job, "frames_until", stopping)
        assert hmhi(*command, "-o", tmp_path / "out")[0] == 130
    assert hmhi(*command, "-o", tmp_path / "out")[0] == 0
    assert hmhi(*command, "-o", tmp_path / "whole")[0] == 0
    summary = summary_of(tmp_path / "out")
    assert summary["resumed_at"] > 0
    assert summary["cuts"] == ["108", "109"]
    assert same_masks(masks_of(tmp_path / "out"), masks_of(tmp_path / "whole"))


def test_several_machines(tmp_path, hmhi, weights, clip):
    """Together they do all videos, each into the folder it has without them; some have nothing to do."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name in "abc":
        shutil.copy(clip, folder / f"{name}.mp4")
    (folder / "broken.mp4").write_text("no film")
    command = (folder, "-o", tmp_path / "out", "--weights", weights, "--no-overlay", "--max-frames", 2)
    outcomes = [hmhi(*command, "--shard", f"{number}/4") for number in (3, 1, 0, 2)]
    assert [code for code, _, _ in outcomes] == [0, 0, 1, 0]  # the first one tells of the broken video
    assert "shard 3/4: has none of the 3 videos that can" in outcomes[0][1]
    assert [err.count("broken.mp4") for _, _, err in outcomes] == [0, 0, 1, 0]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a", "b", "c"]
    assert "finished before" in hmhi(*command, "--shard", "0/2")[1]
    assert np.all([len(masks_of(tmp_path / "out" / name)) == 2 for name in "abc"])
