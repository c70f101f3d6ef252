"""Weights and data sets in, predictions, scores and a report out; started again, it goes on."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image
from quick_compiler import compiler_flags
from small_videos import moving_square, save_network

from hmhi_jax.data.flow import FlowRecipe
from hmhi_jax.errors import InputError
from hmhi_jax.evaluation import evaluate_uvos
from hmhi_jax.inference.dataset import DatasetPredictor, PredictionOutcome
from hmhi_jax.runs.evaluate import open_sets, run
from hmhi_jax.runs.evaluation_config import default_evaluation, evaluation_section, listed_readings, network_size

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A DAVIS tree of two videos with masks, and frames of one without."""
    root = tmp_path_factory.mktemp("data")
    for name, seed in (("east", 0), ("west", 1)):
        for t, picture in enumerate(moving_square(4, seed=seed)):
            mask = np.zeros(picture.shape[:2], np.uint8)
            mask[8:24, 3 * t : 3 * t + 16] = 255
            for kind, image in (("JPEGImages", picture), ("Annotations", mask)):
                path = root / "DAVIS" / kind / "480p" / name / f"{t:05}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(path)
    for t, picture in enumerate(moving_square(3, seed=2)):
        path = root / "wild" / "JPEGImages" / "north" / f"{t:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_network(tmp_path_factory.mktemp("weights") / "weights.safetensors", FlowRecipe(preset="ultrafast"))


def config(data, weights, **changes):
    c = default_evaluation()
    c.eval.weights = str(weights)
    c.eval.root = str(data)
    c.eval.sets = (
        {"path": "DAVIS", "protocol": ("davis16", "vsod")},
        {"path": "wild", "name": "in the wild"},
    )
    c.eval.extra = False
    for name, value in changes.items():
        c.eval[name] = value
    return c


def test_predictions_scores_and_report(data, weights, tmp_path, capsys):
    settings = config(data, weights, reading="release,plain")
    assert run(settings, str(tmp_path)) == 0
    printed = capsys.readouterr().out
    assert "in the wild: has no ground truth" in printed
    assert "frames per second" in printed
    summary = json.loads((tmp_path / "evaluation.json").read_text())
    figures = summary["sets"]["DAVIS"]["figures"]
    assert summary["sets"]["DAVIS"]["complete"]
    for reading in ("release", "plain"):
        folder = tmp_path / "predictions" / "DAVIS" / reading
        alone = evaluate_uvos(folder, data / "DAVIS", reading="plain")  # the files are stretched already
        assert figures[f"davis16/{reading}/J_mean"] == pytest.approx(alone["J_mean"])
        assert f"vsod/{reading}/max_F" in figures
        assert len(list((tmp_path / "predictions" / "in the wild" / reading / "north").glob("*.png"))) == 3
    stretched = np.asarray(Image.open(tmp_path / "predictions" / "DAVIS" / "release" / "east" / "00002.png"))
    assert stretched.min() == 0
    assert stretched.max() >= 254
    page = tmp_path / "reports" / "DAVIS" / "report.html"
    assert page.is_file()
    assert page.read_text().count("data:image/webp") >= 6

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "predictions").rglob("*.png")}
    removed = tmp_path / "predictions" / "DAVIS" / "plain" / "west" / "00001.png"
    removed.unlink()
    assert run(settings, str(tmp_path)) == 0
    assert removed.is_file()
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "predictions").rglob("*.png")}
    assert {path for path in after if after[path] != before[path]} == {path for path in after if "west" in path.parts}
    assert json.loads((tmp_path / "evaluation.json").read_text())["sets"]["DAVIS"]["figures"] == figures
    with pytest.raises(InputError, match="other settings"):
        run(config(data, weights, reading="release,plain", memory_frames=1), str(tmp_path))


def test_a_video_that_cannot_be_read_is_named(data, weights, tmp_path, capsys):
    shutil.copytree(data, tmp_path / "data")
    (tmp_path / "data" / "DAVIS" / "JPEGImages" / "480p" / "east" / "00001.png").write_bytes(b"")
    settings = config(tmp_path / "data", weights)
    settings.eval.sets = settings.eval.sets[:1]
    assert run(settings, str(tmp_path / "out")) == 1
    assert "DAVIS: east was not predicted" in capsys.readouterr().out
    stored = json.loads((tmp_path / "out" / "reports" / "DAVIS" / "scores.json").read_text())
    (scores, _) = next(iter(stored["runs"].values()))
    assert not scores["complete"]
    assert list(scores["videos"]) == ["west"]
    summary = json.loads((tmp_path / "out" / "evaluation.json").read_text())["sets"]["DAVIS"]
    assert list(summary["failed"]) == ["east"]
    assert "00001.png" in summary["failed"]["east"]
    assert not summary["complete"]


def test_the_first_process_notices_what_another_one_did_not_predict(data, weights, tmp_path, monkeypatch):
    """Its own videos are fine, and without masks there are no scores that could be incomplete."""
    settings = config(data, weights)
    settings.eval.sets = settings.eval.sets[1:]
    predict = DatasetPredictor.predict

    def half(predictor, *arguments, **options):
        outcome = predict(predictor, *arguments, **options)
        shutil.rmtree(tmp_path / "predictions" / "in the wild" / "release" / "north")
        return PredictionOutcome(outcome.folder)

    monkeypatch.setattr(DatasetPredictor, "predict", half)
    assert run(settings, str(tmp_path)) == 1
    failed = json.loads((tmp_path / "evaluation.json").read_text())["sets"]["in the wild"]["failed"]
    assert failed == {"north": "has no predictions; the process that had it says why"}
    monkeypatch.undo()
    assert run(settings, str(tmp_path)) == 0
    assert json.loads((tmp_path / "evaluation.json").read_text())["sets"]["in the wild"]["failed"] == {}


def test_frames_that_are_not_scored_are_a_failure(data, weights, tmp_path):
    """A mask that is damaged."""
    shutil.copytree(data, tmp_path / "data")
    masks = tmp_path / "data" / "DAVIS" / "Annotations" / "480p" / "east"
    (masks / "00001.png").write_bytes(b"no picture")
    settings = config(tmp_path / "data", weights)
    settings.eval.sets = settings.eval.sets[:1]
    assert run(settings, str(tmp_path / "out")) == 1
    summary = json.loads((tmp_path / "out" / "evaluation.json").read_text())["sets"]["DAVIS"]
    assert (summary["failed"], summary["complete"]) == ({}, False)


def test_a_training_config_names_sets_and_the_work_directory_has_the_weights(data, weights, tmp_path):
    training = ConfigDict(
        {
            "data": {"root": str(data)},
            "evaluation": {"every_steps": 10, "sets": ({"path": "DAVIS", "protocol": "davis16-inner"},)},
        }
    )
    (tmp_path / "weights.safetensors").write_bytes(weights.read_bytes())
    assert run(training, str(tmp_path)) == 0
    figures = json.loads((tmp_path / "evaluation.json").read_text())["sets"]["DAVIS"]["figures"]
    assert "davis16-inner/release/JF_mean" in figures


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"path": "DAVIS", "videos": ("south",)}, "south"),
        ({"path": "DAVIS", "protocol": "davis"}, "davis16-inner"),
        ({"path": "DAVIS", "colour": 1}, "colour"),
        ({"split": "val"}, "path"),
        ({"path": "absent"}, "absent"),
        ({"path": "DAVIS", "split": "test"}, "test"),
    ],
)
def test_sets_that_do_not_exist(data, entry, expected):
    with pytest.raises(InputError, match=expected):
        open_sets([entry], str(data))


def test_settings():
    assert listed_readings("release, plain") == ("release", "plain")
    with pytest.raises(InputError, match="plain or release"):
        listed_readings("soft")
    assert network_size("512x480") == (512, 480)
    assert network_size("") is None
    assert network_size("auto") == "auto"
    with pytest.raises(InputError, match="512x512"):
        network_size("large")
    with pytest.raises(InputError, match="no section"):
        evaluation_section(ConfigDict({}))
    with pytest.raises(InputError, match="empty"):
        evaluation_section(default_evaluation())
    with pytest.raises(InputError, match=r"config\.eval\.size is '100x64', .*two multiples of 32"):
        network_size("100x64")
    for name, value, expected in (
        ("extra", "no", "True or False"),  # a text that counts as true
        ("strict", 1, "True or False"),
        ("chunk", -1, "a whole number from 0 to 1024"),
        ("workers", 1 << 20, "a whole number from 0 to 1024"),
        ("weights", 5, "a name"),
    ):
        with pytest.raises(InputError, match=rf"config\.eval\.{name} is {value!r}, expected {expected}"):
            evaluation_section(ConfigDict({"eval": {name: value, "sets": ({"path": "x"},)}}))
    with pytest.raises(InputError, match="unknown field 'weight'"):
        evaluation_section(ConfigDict({"eval": {"weight": "tiny", "sets": ({"path": "x"},)}}))


def test_entry_point_tells_errors_in_one_line(tmp_path):
    command = [
        sys.executable, str(ROOT / "eval.py"), "--config", str(ROOT / "configs" / "davis_eval.py"),
        "--workdir", str(tmp_path), f"--config.eval.root={tmp_path}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert "DAVIS" in line
    for wrong, expected in (
        ("--config.eval.extra=perhaps", "error: flag --config.eval.extra=perhaps: .*on-boolean"),
        ("--config.eval.colour=1", "error: --config.: the config has no field 'colour'"),
        ("--config=nowhere/davis.py:x", "error: --config nowhere/davis.py:x: no such file"),
    ):
        done = subprocess.run([*command, wrong], capture_output=True, text=True, check=False)
        assert done.returncode == 2, done.stderr
        assert re.fullmatch(expected + r".*\n", done.stderr)


CONFIG = """
import small_network  # registers the network's backbone
from hmhi_jax.runs.evaluation_config import default_evaluation

def get_config():
    c = default_evaluation()
    c.eval.weights, c.eval.root = {weights!r}, {root!r}
    c.eval.sets = ({{"path": "DAVIS"}},)
    return c
"""


@pytest.mark.slow
def test_two_processes_share_the_videos(data, weights, tmp_path):
    """Each predicts one of the two; the first scores both when both are done."""
    (tmp_path / "config.py").write_text(CONFIG.format(weights=str(weights), root=str(data)))
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "PYTHONPATH": str(ROOT / "tests"),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": compiler_flags(devices=2),
    }
    processes = [
        subprocess.Popen(
            [
                sys.executable, str(ROOT / "eval.py"), f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path}",
                f"--coordinator=localhost:{port}", "--num_processes=2", f"--process_index={index}",
            ],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for index in range(2)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=500)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert all("DAVIS: 4 frames in" in output for output in outputs), outputs
    assert "JF_mean" in outputs[0]
    assert "JF_mean" not in outputs[1]
    assert json.loads((tmp_path / "evaluation.json").read_text())["sets"]["DAVIS"]["complete"]
