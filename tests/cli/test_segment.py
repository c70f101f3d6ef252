"""`hmhi segment` as a user meets it: real files in, real files out, and one line for everything that is wrong."""

import contextlib
import importlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import av
import cv2
import jax
import numpy as np
import pytest
from PIL import Image
from small_videos import moving_square, save_network, write_video

from hmhi_jax import cli
from hmhi_jax.data.flow import FlowRecipe, estimate_flow, flow_picture, write_flo
from hmhi_jax.data.video import open_videos
from hmhi_jax.inference.segmenter import VideoSegmenter

TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_network(tmp_path_factory.mktemp("weights") / "net.safetensors")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", moving_square(12))


@pytest.fixture
def hmhi(monkeypatch, capsys):
    """Run the command in this process: (exit code, standard output, standard error)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["hmhi", "segment", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        return code, *capsys.readouterr()

    return run


def refused(outcome, message):
    """Exit code 2, and one line that matches."""
    code, _, err = outcome
    assert code == 2, err
    (line,) = [line for line in err.strip().splitlines() if not line.endswith(" left")]  # progress apart
    assert line.startswith("error: "), line
    assert re.search(message, line), line


def masks_of(folder):
    return {path.name: cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in sorted((folder / "masks").iterdir())}


def same_masks(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def frames_of(path):
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_video(tmp_path, hmhi, weights, clip):
    out = tmp_path / "out"
    code, text, _ = hmhi(clip, "-o", out, "--weights", weights, "--soft", "--threshold", "0.4")
    assert code == 0
    assert str(out / "sheet.png") in text
    names = [f"{i:05d}.png" for i in range(12)]
    assert tree(out) == sorted(
        ["masks", "soft", "overlay.mp4", "sheet.png", "summary.json"]
        + [f"{folder}/{name}" for folder in ("masks", "soft") for name in names]
    )
    segmenter = VideoSegmenter.load(weights)
    pictures = [frame.picture for frame in open_videos([clip])[0].frames()]
    expected = list(segmenter.stream(pictures, threshold=0.4))
    assert all(np.array_equal(a, b) for a, b in zip(masks_of(out).values(), expected, strict=True))
    soft = list(segmenter.stream(pictures, soft=True))
    assert np.array_equal(cv2.imread(str(out / "soft" / names[5]), cv2.IMREAD_UNCHANGED), soft[5])
    with av.open(str(out / "overlay.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.average_rate, stream.frames) == ("h264", 25, 12)
        assert (stream.height, stream.width) == (48, 80)
    assert Image.open(out / "sheet.png").width > 4 * 80
    summary = json.loads((out / "summary.json").read_text())
    assert summary["frames"] == 12
    assert summary["frame_size"] == [48, 80]
    assert summary["network_size"] == [64, 64]
    assert list(summary["area"]) == [name[:-4] for name in names]
    assert summary["area"]["00003"] == pytest.approx(np.mean(expected[3] > 0), abs=1e-5)
    assert summary["command"].startswith("hmhi segment ")
    assert {"decode", "flow", "network", "masks", "overlay"} <= summary["seconds"].keys()
    assert summary["versions"]["jax"] == jax.__version__
    assert summary["settings"]["threshold"] == 0.4


def test_finished_videos_are_not_redone_and_others_not_overwritten(tmp_path, hmhi, weights, clip):
    out = tmp_path / "out"
    command = (clip, "-o", out, "--weights", weights, "--no-overlay")
    assert hmhi(*command)[0] == 0
    assert not (out / "overlay.mp4").exists()
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    code, text, _ = hmhi(*command)
    assert code == 0
    assert "finished before, 12 frames" in text
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    refused(hmhi(*command, "--threshold", "0.7"), r"holds finished results made otherwise \(threshold: 0.5, now 0.7\)")
    assert hmhi(*command, "--threshold", "0.7", "--max-frames", "5", "--overwrite")[0] == 0
    assert len(masks_of(out)) == 5
    (tmp_path / "truth" / "masks").mkdir(parents=True)
    (tmp_path / "truth" / "masks" / "00000.png").write_text("precious")
    foreign = (clip, "-o", tmp_path / "truth", "--weights", weights, "--overwrite")
    refused(hmhi(*foreign), "holds masks that this command did not write")
    assert (tmp_path / "truth" / "masks" / "00000.png").read_text() == "precious"


def test_folders_flow_pictures_and_flo_files(tmp_path, hmhi, weights):
    pictures = moving_square(5)
    for name, picture in zip("abcde", pictures, strict=True):
        (tmp_path / "frames").mkdir(exist_ok=True)
        Image.fromarray(picture).save(tmp_path / "frames" / f"{name}.png")
    for kind in ("drawn", "flo"):
        (tmp_path / kind).mkdir()
    for name, a, b in zip("abcde", pictures, [*pictures[1:], pictures[-2]], strict=True):
        Image.fromarray(flow_picture(a, b, FlowRecipe())).save(tmp_path / "drawn" / f"{name}.png")
        write_flo(tmp_path / "flo" / f"{name}.flo", estimate_flow(a, b))
    common = ("--weights", weights, "--no-overlay")
    for kind in ("dis", "drawn", "flo"):
        flow = kind if kind == "dis" else tmp_path / kind
        assert hmhi(tmp_path / "frames", "-o", tmp_path / f"out-{kind}", "--flow", flow, *common)[0] == 0
    estimated, drawn, flo = (masks_of(tmp_path / f"out-{kind}") for kind in ("dis", "drawn", "flo"))
    assert list(estimated) == [f"{name}.png" for name in "abcde"]
    assert same_masks(estimated, drawn)
    assert same_masks(estimated, flo)

    frames, out = tmp_path / "frames", tmp_path / "never"
    (tmp_path / "drawn" / "c.png").unlink()
    drawn = ("--flow", tmp_path / "drawn", *common)
    refused(hmhi(frames, "-o", out, *drawn), r"drawn: no flow for frame c,.*\(1 of 5 frames\)")
    refused(hmhi(frames, "-o", out, "--flow", tmp_path / "none", *common), "none: no such folder")
    refused(hmhi(frames, "-o", out, "--flow", "none", *common), "the network sees motion")
    Image.new("RGB", (20, 20)).save(tmp_path / "drawn" / "c.png")
    refused(hmhi(frames, "-o", out, *drawn), r"c\.png: the flow is 20 x 20 pixels but its frame is 80 x 48 pixels")
    Image.fromarray(moving_square(1)[0][:, ::2]).save(frames / "f.png")
    refused(hmhi(frames, "-o", out, *common), r"f\.png is 40 x 48 pixels but a\.png is 80 x 48")


def test_several_inputs_over_several_devices(tmp_path, hmhi, weights, clip):
    """A bad one among them costs the others nothing."""
    folder = tmp_path / "in"
    (folder / "frames").mkdir(parents=True)
    shutil.copy(clip, folder / "one.mp4")
    for number, picture in enumerate(moving_square(4, seed=1)):
        Image.fromarray(picture).save(folder / "frames" / f"{number}.jpg")
    data = (folder / "frames" / "2.jpg").read_bytes()
    write_video(folder / "two.mkv", moving_square(6, (64, 48)))
    alone = tmp_path / "alone"
    assert hmhi(clip, "-o", alone, "--weights", weights)[0] == 0
    (folder / "frames" / "2.jpg").write_bytes(data[:-100])
    out = tmp_path / "out"
    refused(hmhi(folder, "-o", out, "--weights", weights, "--devices", 2), r"2\.jpg: the picture is damaged")
    assert sorted(path.name for path in out.iterdir()) == ["frames", "one", "two"]
    assert same_masks(masks_of(out / "one"), masks_of(alone))
    assert len(masks_of(out / "two")) == 6
    assert not (out / "frames" / "summary.json").exists()
    (folder / "frames" / "2.jpg").write_bytes(data)
    shutil.rmtree(out / "frames")  # the input is another one now
    code, text, _ = hmhi(folder, "-o", out, "--weights", weights)
    assert code == 0
    assert text.count("finished before") == 2
    assert list(masks_of(out / "frames")) == ["0.png", "1.png", "2.png", "3.png"]


def test_a_file_that_is_cut_off(tmp_path, hmhi, weights):
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 255, (48, 80, 3), dtype=np.uint8) for _ in range(20)]
    path = write_video(tmp_path / "cut.mp4", noise, options={"movflags": "faststart"})
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    code, _, err = hmhi(path, "-o", tmp_path / "out", "--weights", weights)
    assert code == 0
    frames = len(masks_of(tmp_path / "out"))
    assert 5 < frames < 20
    assert re.search(rf"note: .*cut\.mp4: is cut off or damaged.*; {frames} of about 20 frames decode", err)
    assert frames_of(tmp_path / "out" / "overlay.mp4") == frames


def test_one_frame(tmp_path, hmhi, weights):
    Image.fromarray(moving_square(1)[0]).save(tmp_path / "one.png")
    assert hmhi(tmp_path / "one.png", "-o", tmp_path / "out", "--weights", weights)[0] == 0
    assert list(masks_of(tmp_path / "out")) == ["one.png"]
    assert frames_of(tmp_path / "out" / "overlay.mp4") == 1


def test_a_live_source(tmp_path, hmhi, weights, clip):
    out = tmp_path / "out"
    assert hmhi(f"file://{clip}", "-o", out, "--weights", weights, "--max-frames", 7)[0] == 0
    assert list(masks_of(out)) == [f"{i:07d}.png" for i in range(7)]
    refused(hmhi(f"file://{clip}", "-o", out, "--weights", weights, "--max-frames", 7), "a camera saw before")


def start(*arguments):
    """The command in a process of its own."""
    code = (
        # Whoever runs the tests in the background may have them ignore SIGINT, which children inherit.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        f"import sys; sys.path.insert(0, {str(TESTS)!r}); import small_network; from hmhi_jax.cli import main; main()"
    )
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir}
    return subprocess.Popen(
        [sys.executable, "-c", code, "segment", *map(str, arguments)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


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


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGINT])
def test_killed_and_started_again(tmp_path, hmhi, weights, kind):
    """Masks as if nothing had happened, no half file, and the second start does not begin from the beginning."""
    frames = 150
    clip = write_video(tmp_path / "long.mp4", moving_square(frames))
    out = tmp_path / "out"
    command = (clip, "-o", out, "--weights", weights, "--save-every", 20)
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
    assert frames_of(out / "overlay.mp4") == frames
    assert not (out / ".unfinished").exists()

    whole = tmp_path / "whole"
    assert hmhi(*command[:2], whole, *command[3:], "--no-resume")[0] == 0
    assert same_masks(masks_of(out), masks_of(whole))
    assert (out / "sheet.png").read_bytes() == (whole / "sheet.png").read_bytes()
    assert summary["area"] == json.loads((whole / "summary.json").read_text())["area"]


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.mp4"], r"none\.mp4: no such file or folder"),
        (["text.mp4"], r"text\.mp4: is no video that can be read"),
        (["empty.mp4"], r"empty\.mp4: the file is empty"),
        (["nothing"], r"nothing: the folder holds no frames"),
        (["dot.png"], r"dot\.png is 1 x 1 pixels, expected at least 16 x 16"),
        (["long.png"], r"long\.png is 20000 x 20 pixels, expected at most 16384"),
        (["mixed"], r"b\.png is 90 x 48 pixels but a\.png is 80 x 48"),
        (["clip.mp4", "--size", "500"], "--size 500: expected HEIGHTxWIDTH in multiples of 32"),
        (["clip.mp4", "--size", "64*64"], "--size 64"),
        (["clip.mp4", "--threshold", "1.5"], "--threshold 1.5: expected a probability"),
        (["clip.mp4", "--memory-frames", "0"], "--memory-frames 0: expected a positive number"),
        (["clip.mp4", "--dtype", "int8"], "--dtype int8: expected float32 or bfloat16"),
        (["clip.mp4", "--save-every", "-1"], "--save-every -1"),
        (["clip.mp4", "--weights", "nobody"], "weights 'nobody': no such file, folder or shipped name"),
        (["clip.mp4", "--weights", "nothing"], r"nothing: the folder holds no weights\.safetensors"),
        (["clip.mp4", "--weights", "text.mp4"], "text.mp4: is no readable safetensors file"),
        (["clip.mp4", "--backbone", "swin_tiny"], "holds weights of mit_test, expected swin_tiny"),
        (["clip.mp4", "-o", "empty.mp4"], r"empty\.mp4: is a file, expected a folder"),
        (["clip.mp4", "-o", "empty.mp4/out"], r"empty\.mp4/out: cannot be written \(Not a directory\)"),
    ],
)
def test_wrong_input(tmp_path, monkeypatch, hmhi, weights, clip, arguments, message):
    monkeypatch.chdir(tmp_path)
    shutil.copy(clip, "clip.mp4")
    Path("text.mp4").write_text("no film\n" * 100)
    Path("empty.mp4").touch()
    Path("nothing").mkdir()
    Path("mixed").mkdir()
    for name, size in (
        ("dot.png", (1, 1)),
        ("long.png", (20000, 20)),
        ("mixed/a.png", (80, 48)),
        ("mixed/b.png", (90, 48)),
    ):
        Image.new("RGB", size).save(name)
    given = arguments if "-o" in arguments else [*arguments, "-o", "out"]
    refused(hmhi(*given, *(() if "--weights" in arguments else ("--weights", weights))), message)
    assert not list(Path().glob("out/**/*.png"))


def test_weights_that_fit_another_backbone(tmp_path, hmhi, weights, clip):
    from safetensors.numpy import load_file, save_file

    header = {"model": {"backbone": "mit_b0"}, "input_size": [64, 64], "flow": {}}
    save_file(load_file(weights), tmp_path / "b0.safetensors", metadata={"hmhi": json.dumps(header)})
    outcome = hmhi(clip, "-o", tmp_path / "out", "--weights", tmp_path / "b0.safetensors")
    refused(outcome, r"b0\.safetensors: these weights do not fit mit_b0; \d+ missing: .*misshapen")


def test_unwritable_folder(tmp_path, hmhi, weights, clip):
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(0o555)
    (tmp_path / "sealed").mkdir(mode=0o000)
    shutil.copy(weights, tmp_path / "private.safetensors")
    (tmp_path / "private.safetensors").chmod(0)
    importlib.import_module("zoneinfo")  # what is imported on the way must be in before the rights are given up
    root = os.geteuid() == 0
    above = [place for place in tmp_path.parents if "pytest-" in place.as_posix()]
    for place in (clip.parent, weights.parent, tmp_path, *above):
        place.chmod(0o755)
    if root:
        os.seteuid(65534)  # root may write anywhere
    try:
        refused(
            hmhi(clip, "-o", locked / "out", "--weights", weights),
            r"locked/out: cannot be written \(Permission denied\); choose a folder you may write to",
        )
        refused(
            hmhi(tmp_path / "sealed", "-o", tmp_path / "out", "--weights", weights), "sealed: the folder cannot be read"
        )
        refused(hmhi(tmp_path / "sealed" / "a.mp4", "-o", tmp_path / "out", "--weights", weights), "cannot be read")
    finally:
        if root:
            os.seteuid(0)


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
    out = small_disk / "out"
    command = (clip, "-o", out, "--weights", weights, "--save-every", 10)
    (small_disk / "ballast").write_bytes(b"0" * 250_000)
    refused(hmhi(*command), r"cannot be written \(No space left on device\); free some space")
    assert not (out / "summary.json").exists()
    for path in (out / "masks").iterdir():
        assert cv2.imread(str(path), cv2.IMREAD_UNCHANGED).shape == (96, 160)
    (small_disk / "ballast").unlink()
    subprocess.run(["mount", "-o", "remount,size=20m", small_disk], check=True)
    assert hmhi(*command)[0] == 0
    assert len(masks_of(out)) == 40


def test_a_disk_that_fills_up(tmp_path, monkeypatch, hmhi, weights, clip):
    """The same where no file system may be mounted: writing fails from the sixth mask on."""
    from hmhi_jax.inference import writers

    replace = os.replace

    def full(source, target):
        if Path(target).name == "00006.png":
            raise OSError(28, os.strerror(28))
        replace(source, target)

    out = tmp_path / "out"
    monkeypatch.setattr(writers.os, "replace", full)
    refused(hmhi(clip, "-o", out, "--weights", weights), r"00006\.png: cannot be written \(No space left on device\)")
    monkeypatch.setattr(writers.os, "replace", replace)
    assert {f"{i:05d}.png" for i in range(6)} <= set(masks_of(out))
    assert hmhi(clip, "-o", out, "--weights", weights)[0] == 0
    assert len(masks_of(out)) == 12


def test_real_frames(tmp_path, hmhi, weights, davis):
    code, _, _ = hmhi(
        davis / "JPEGImages" / "480p" / "blackswan", "-o", tmp_path / "out", "--weights", weights,
        "--size", "auto", "--max-frames", 4,
    )  # fmt: skip
    assert code == 0
    assert all(mask.shape == (480, 854) for mask in masks_of(tmp_path / "out").values())
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["network_size"] == [32, 96]


def test_an_export(tmp_path, hmhi, weights, clip):
    from hmhi_jax.interop.export import write_export
    from hmhi_jax.interop.weights_file import load_weights

    loaded = load_weights(weights)
    write_export(
        tmp_path / "export", loaded.model_arguments, loaded.variables, size=(64, 64), flow_recipe=loaded.flow_recipe,
        platforms=("cpu",),
    )  # fmt: skip
    for name in ("export", None):
        given = weights if name is None else tmp_path / name
        assert hmhi(clip, "-o", tmp_path / f"out-{name}", "--weights", given, "--soft", "--max-frames", 3)[0] == 0
    for one, other in zip(*(sorted((tmp_path / f"out-{n}" / "soft").iterdir()) for n in ("export", None)), strict=True):
        assert np.abs(cv2.imread(str(one), 0).astype(int) - cv2.imread(str(other), 0)).max() <= 1
    outcome = hmhi(clip, "-o", tmp_path / "never", "--weights", tmp_path / "export", "--size", "32x96")
    refused(outcome, r"export: size is \(64, 64\) in this export")
