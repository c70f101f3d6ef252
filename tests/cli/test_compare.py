"""`hmhi compare` end to end. Without a clone of the release both sides are ours; with one (HMHI_RELEASE, and a Python
that has torch in HMHI_RELEASE_PYTHON) the real thing runs."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from hmhi_jax.cli import app
from hmhi_jax.errors import InputError
from hmhi_jax.interop.conversion import write_torch_checkpoint
from hmhi_jax.interop.torch_weights import expected_entries
from hmhi_jax.models import build_model
from hmhi_jax.tools.compare import compare as tool


def compare(*arguments, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["compare", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    """Frames of a textured square that moves over noise."""
    folder = tmp_path_factory.mktemp("video") / "square"
    folder.mkdir()
    rng = np.random.default_rng(0)
    ground, square = rng.integers(0, 255, (96, 128, 3), np.uint8), rng.integers(0, 255, (40, 40, 3), np.uint8)
    for t in range(7):
        picture = ground.copy()
        picture[20 + 2 * t : 60 + 2 * t, 10 + 6 * t : 50 + 6 * t] = square
        Image.fromarray(picture).save(folder / f"{t:05}.png")
    return folder


@pytest.fixture
def both_sides_ours(monkeypatch) -> list:
    """The release's side is played by ours, in a process as always; the second side is what the first one left, since
    both would compile for the same time to find the same. Returns the sides asked for."""
    run_side, done = tool.run_side, []

    def run_once(*arguments):
        done.append(done[0] if done else run_side(*arguments))
        return done[-1]

    monkeypatch.setattr(tool, "run_side", run_once)
    monkeypatch.setattr(tool, "check_release", lambda *arguments: None)
    monkeypatch.setattr(tool, "release_command", lambda python: tool.our_command())
    monkeypatch.setenv(
        "JAX_COMPILATION_CACHE_DIR", os.environ.get("HMHI_TEST_CACHE", str(Path.home() / ".cache/hmhi-jax/tests"))
    )
    return done


def test_frames(video, both_sides_ours, tmp_path):
    text = compare(
        "--release", tmp_path, "--input", video, "--backbone", "mit_tiny", "--size", 64, "--frames", 3,
        "--memory-frames", 1, "--out", tmp_path / "out", "--keep",
    )  # fmt: skip
    assert "within the tolerance of 0.001: 32 maps of 3 frames" in " ".join(text.split())
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["settings"]["memory_frames"] == 1
    assert [row["stage"] for row in report["stages"]] == [
        "fused1", "fused2", "fused3", "fused4", "read_shallow", "read_deep", "sgim", "plam",
        "coarse_logits", "logits", "mem_shallow", "mem_deep",
    ]  # fmt: skip
    assert all(row["largest"] == 0 for row in report["frames"])
    assert [row["jaccard"] for row in report["masks"]] == [1, 1, 1]
    assert report["ours"]["seconds_per_frame"] > 0
    assert report["ours"]["peak_mib"] > 50
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<figure>") == 12
    assert "read shallow" in page or "read_shallow" in page

    # What was kept is what the networks took: frames at their size, flow pictures beside them.
    with np.load(tmp_path / "out" / "arrays" / "clip.npz") as clip:
        assert clip["frames"].shape == clip["flows"].shape == (1, 3, 64, 64, 3)
        assert not np.array_equal(clip["flows"][0, 0], clip["flows"][0, 1])


@pytest.mark.slow
def test_training_steps_of_a_checkpoint(video, both_sides_ours, tmp_path):
    # Without the banks, whose gradients take a minute to compile.
    model = build_model("mit_tiny", shallow_memory=False, deep_memory=False)
    weights = tool.recipe_state_dict({name: entry.shape for name, entry in expected_entries(model).items()}, 1)
    network = {f"module.{name}": array for name, array in weights.items()}
    write_torch_checkpoint(tmp_path / "best.pth", {"network": network, "epoch": 1})
    text = compare(
        "--release", tmp_path, "--input", video, "--checkpoint", tmp_path / "best.pth", "--size", 64, "--frames", 4,
        "--train", 3, "--clip-frames", 2, "--out", tmp_path / "out",
    )  # fmt: skip
    text = " ".join(text.split())
    assert len(both_sides_ours) == 2
    assert "weights: best.pth" in text
    assert "within the tolerance of 0.001: 3 training steps" in text
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert len(report["ours"]["losses"]) == 3
    assert report["ours"]["losses"][2] < report["ours"]["losses"][0]  # steps 0 and 2 see the same clip
    modules = {row["module"]: row for row in report["modules"]}
    assert set(modules) == {"backbone.block1", "backbone.block2", "backbone.block3", "backbone.block4", "decode_head"}
    assert all(row["drift"] == 0 for row in modules.values())
    assert all(row["moved"] > 0 for row in modules.values())
    assert not list((tmp_path / "out").glob(".arrays*"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--size", 100], "multiple of 32"),
        (["--checkpoint", "encoder.pth"], "an encoder alone, expected weights of a whole network"),
        (["--input", "missing.mp4"], "no such file"),
        (["--out", "encoder.pth"], r"--out .*encoder\.pth: no folder can be made there \(File exists\)"),
        (["--flow", "{}}"], "not JSON"),
    ],
)
def test_wrong_requests_are_one_line(video, both_sides_ours, tmp_path, monkeypatch, options, words):
    from hmhi_jax.interop.torch_weights import expected_encoder_entries

    monkeypatch.chdir(tmp_path)
    entries = {
        n.removeprefix("backbone."): np.zeros(e.shape, np.float32)
        for n, e in expected_encoder_entries("mit_tiny").items()
    }
    write_torch_checkpoint(tmp_path / "encoder.pth", entries)
    base = {"--release": tmp_path, "--input": video, "--backbone": "mit_tiny", "--size": 64}
    base |= dict([options])
    with pytest.raises(InputError, match=words):
        compare(*(word for pair in base.items() for word in pair))
    assert [path.name for path in tmp_path.iterdir()] == ["encoder.pth"]  # no empty folder of results


@pytest.fixture
def clone() -> list[str]:
    """Options that name a clone of the release and a Python with torch."""
    if "HMHI_RELEASE" not in os.environ:
        pytest.skip("HMHI_RELEASE names no clone of the authors' release")
    return ["--release", os.environ["HMHI_RELEASE"], "--python", os.environ.get("HMHI_RELEASE_PYTHON", "python3")]


@pytest.mark.release
@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["mit_b1", "swin_tiny"])
def test_frames_of_the_real_release(clone, video, tmp_path, backbone):
    text = compare(*clone, "--input", video, "--backbone", backbone, "--size", 64, "--frames", 4, "--out", tmp_path)
    assert "within the tolerance" in text
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["release"]["parameters"] > report["ours"]["parameters"]  # it carries what it never reads
    assert min(row["sign_agreement"] for row in report["masks"]) > 0.999


@pytest.mark.release
@pytest.mark.slow
def test_a_wrong_capacity_is_found_where_it_first_matters(clone, video, tmp_path, monkeypatch):
    """Ours remembers one frame, the release two: frames 0 and 1 agree, frame 2 reads another memory."""
    run_side = tool.run_side

    def forgetful(command, name, folder, request, log):
        if name == "ours":
            request = {**request, "model": {**request["model"], "memory_frames": 1}}
        return run_side(command, name, folder, request, log)

    monkeypatch.setattr(tool, "run_side", forgetful)
    text = compare(
        *clone, "--input", video, "--size", 64, "--frames", 3, "--memory-frames", 2, "--out", tmp_path, code=1
    )
    assert "first read_shallow of frame 2" in " ".join(text.split())


@pytest.mark.release
@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["mit_b1", "swin_tiny"])
def test_training_steps_of_the_real_release(clone, video, tmp_path, backbone):
    text = compare(
        *clone, "--input", video, "--backbone", backbone, "--size", 64, "--train", 2, "--clip-frames", 2, "--frames", 4,
        "--out", tmp_path,
    )  # fmt: skip
    assert "within the tolerance" in text
    without = json.loads((tmp_path / "report.json").read_text())["release"]["without_gradient"]
    assert len(without) == 16
    assert all(".cross_attention." in name for name in without)
