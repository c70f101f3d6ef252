"""`hmhi segment` as a user meets it: real files in, real files out, and one line for everything that is wrong."""

import importlib
import json
import os
import re
import shutil
from pathlib import Path

import av
import cv2
import jax
import numpy as np
import pytest
from PIL import Image
from segment_results import frames_of, masks_of, refused, same_masks
from small_videos import moving_square, write_video

from hmhi_jax.data.flow import FlowRecipe, estimate_flow, flow_picture, write_flo
from hmhi_jax.data.open_videos import open_videos
from hmhi_jax.inference.segmenter import VideoSegmenter
from hmhi_jax.interop.conversion import header_of, write_weights
from hmhi_jax.interop.identify import identify
from hmhi_jax.interop.weight_sources import read_source


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
    refused(hmhi(*command, "--backbone", "mit_b1"), "holds weights of mit_test, expected mit_b1")
    (out / "masks" / "00003.png").unlink()
    assert "finished before" not in hmhi(*command)[1]
    assert len(masks_of(out)) == 12
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

    (tmp_path / "drawn" / "flow_recipe.json").write_text(FlowRecipe(camera="affine").to_json())
    code, _, err = hmhi(tmp_path / "frames", "-o", tmp_path / "other", "--flow", tmp_path / "drawn", *common)
    assert code == 0
    assert re.search(
        r"warning: .*drawn: .* \(camera affine instead of none\).*hmhi flow DATASET --recipe .*net\.safetensors", err
    )
    assert json.loads((tmp_path / "other" / "summary.json").read_text())["flow_difference"]
    (tmp_path / "drawn" / "flow_recipe.json").unlink()

    # Flow that was made anew in the same place is other input.
    frames, again = tmp_path / "frames", ("-o", tmp_path / "out-flo", "--flow", tmp_path / "flo", *common)
    assert "finished before" in hmhi(frames, *again)[1]
    write_flo(tmp_path / "flo" / "c.flo", estimate_flow(pictures[0], pictures[1]))
    refused(
        hmhi(frames, *again), r"holds finished results made otherwise \(flow: path .*/flo, files [0-9a-f]{12}\.\.\."
    )

    out = tmp_path / "never"
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
    refused(hmhi(folder, "-o", out, "--weights", weights, "--devices", 2), r"2\.jpg: is damaged", 1)
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
        (["clip.mp4", "--memory-frames", "100000000"], "--memory-frames 100000000: expected at most 1000"),
        (["clip.mp4", "--frame-rate", "nan"], "--frame-rate nan: expected frames per second"),
        (["clip.mp4", "--frame-rate", "0.0001"], "--frame-rate 0.0001: expected frames per second"),
        (["clip.mp4", "--devices", "9"], r"--devices 9: there are 8 here \(cpu\)"),
        ([""], "input '': is empty"),
        (["mixed", "-o", "mixed/out"], "--out mixed/out: is inside the input mixed"),
        (["clip.mp4", "--flow", "flow"], r"flow: holds 3 flow pictures, expected one for each of about 12 frames"),
        (["clip.mp4", "--dtype", "int8"], "--dtype int8: expected float32, tensorfloat32 or bfloat16"),
        (["clip.mp4", "--save-every", "-1"], "--save-every -1"),
        (["clip.mp4", "--every", "0"], "--every 0: expected a number of frames, from 1 to 16"),
        (["clip.mp4", "--weights", "nobody"], "weights 'nobody': no such file, folder or shipped name"),
        (["clip.mp4", "--weights", "nothing"], r"nothing: the folder holds no weights\.safetensors"),
        (["clip.mp4", "--weights", "text.mp4"], "text.mp4: is no readable safetensors file"),
        (["clip.mp4", "--backbone", "swin_tiny"], "holds weights of mit_test, expected swin_tiny"),
        (["clip.mp4", "-o", "file"], r"file: is a file, expected a folder"),
        (["clip.mp4", "-o", "empty.mp4/out"], r"empty\.mp4/out: cannot be written \(Not a directory\)"),
    ],
)
def test_wrong_input(tmp_path, monkeypatch, hmhi, weights, clip, arguments, message):
    monkeypatch.chdir(tmp_path)
    shutil.copy(clip, "clip.mp4")
    Path("text.mp4").write_text("no film\n" * 100)
    Path("empty.mp4").touch()
    Path("file").touch()
    Path("nothing").mkdir()
    Path("mixed").mkdir()
    Path("flow").mkdir()
    for number in range(3):
        Image.new("RGB", (80, 48)).save(f"flow/{number:05d}.png")
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


def test_out_of_memory(tmp_path, monkeypatch, hmhi, weights, clip):
    from hmhi_jax.inference.network import Network

    def run(self, memory, *arguments, **options):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 55890587384 bytes.")

    monkeypatch.setattr(Network, "run", run)
    outcome = hmhi(clip, "-o", tmp_path / "out", "--weights", weights)
    refused(outcome, r"clip\.mp4: takes more memory than there is \(.*\); choose a smaller --size")


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


def test_real_frames(tmp_path, hmhi, weights, davis):
    code, _, _ = hmhi(
        davis / "JPEGImages" / "480p" / "blackswan", "-o", tmp_path / "out", "--weights", weights,
        "--size", "auto", "--max-frames", 4,
    )  # fmt: skip
    assert code == 0
    assert all(mask.shape == (480, 854) for mask in masks_of(tmp_path / "out").values())
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["network_size"] == [32, 96]


def test_a_checkpoint_folder(tmp_path, hmhi, weights, clip):
    """What `hmhi convert` wrote as a folder segments as the file does, and is known again by its content."""
    found = identify(read_source(weights))
    write_weights(found, tmp_path / "net", header_of(found))
    for name, given in (("folder", tmp_path / "net"), ("file", weights)):
        command = (clip, "-o", tmp_path / name, "--weights", given, "--no-overlay", "--max-frames", 3)
        assert hmhi(*command)[0] == 0
        assert "finished before" in hmhi(*command)[1]
    assert same_masks(masks_of(tmp_path / "folder"), masks_of(tmp_path / "file"))
    next(path for path in (tmp_path / "net").rglob("*") if path.is_file()).write_bytes(b"other")
    refused(hmhi(clip, "-o", tmp_path / "folder", "--weights", tmp_path / "net", "--no-overlay", "--max-frames", 3),
            r"holds finished results made otherwise \(weights: path .*/net, sha256")  # fmt: skip


def test_an_export(tmp_path, hmhi, weights, clip):
    from hmhi_jax.inference.export import write_export
    from hmhi_jax.interop.weights import load_weights

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
    outcome = hmhi(clip, "-o", tmp_path / "never", "--weights", tmp_path / "export", "--dtype", "bfloat16")
    refused(outcome, "export: dtype is float32 in this export")


def test_help_shows_names_of_files(hmhi):
    _, text, _ = hmhi("--help")
    assert "masks/<frame>.png" in text
    assert "soft/<frame>.png" in text
