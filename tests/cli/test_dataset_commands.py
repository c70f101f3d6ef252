"""`hmhi flow`, `inspect` and `pack` as commands: what they print, what they exit with."""

import re

import pytest
from made_datasets import cut_off, release_tree
from small_videos import save_network
from typer.testing import CliRunner

from hmhi_jax.cli import app
from hmhi_jax.data.flow import FlowRecipe
from hmhi_jax.data.flow_folder import flow_recipe_of
from hmhi_jax.data.layouts import open_dataset
from hmhi_jax.errors import InputError


def run(*words, exit_code=0):
    result = CliRunner().invoke(app, [str(word) for word in words])
    if isinstance(result.exception, InputError):
        raise result.exception
    assert result.exit_code == exit_code, result.output
    return result.output


@pytest.fixture
def root(tmp_path):
    root = release_tree(tmp_path / "set", videos=2, count=3)
    for path in (root / "flow").rglob("*.jpg"):
        path.unlink()
    return root


def test_flow_as_weights_want_it(root, tmp_path):
    wanted = FlowRecipe(preset="ultrafast", size=(24, 40))
    weights = save_network(tmp_path / "net.safetensors", wanted)
    file = tmp_path / "recipe.json"
    file.write_text(wanted.to_json())
    for recipe in (weights, file):
        run("flow", root, "--recipe", recipe, "--workers", "1", "--overwrite")
        assert flow_recipe_of(open_dataset(root)) == wanted
    run("flow", root, "--recipe", weights, "--camera", "affine", "--workers", "1", "--overwrite")
    assert flow_recipe_of(open_dataset(root)).camera == "affine"
    with pytest.raises(InputError, match="weights 'nobody': no such file, folder or shipped name"):
        run("flow", root, "--recipe", "nobody")


def test_flow_inspect_pack(root, tmp_path):
    output = run("inspect", root, exit_code=1)
    assert "missing flow" in output
    assert output.count("make them with `hmhi flow`") == 2
    assert "problems" not in run("inspect", root, "--quick", "--without-flow").replace("problems      │ none", "")
    output = run("flow", root, "--preset", "ultrafast", "--camera", "affine", "--workers", "1")
    assert "release, 2 videos, 6 frames, 6 flow pictures to make" in output
    assert flow_recipe_of(open_dataset(root)) == FlowRecipe(preset="ultrafast", camera="affine")
    assert "0 flow pictures to make" in run("flow", root, "--recipe", FlowRecipe().to_json())
    output = run("inspect", root)
    assert "80 x 48 (6)" in output
    output = run("pack", root, tmp_path / "packed", "--workers", "0", "--split", "train")
    assert "2 videos in 1 shards" in output
    assert "(packed)" in run("inspect", tmp_path / "packed", "--workers", "1")
    run("pack", root, tmp_path / "small", "--workers", "0", "--size", "32", "64", "--quality", "0")
    assert "64 x 32 (6)" in run("inspect", tmp_path / "small")


def test_flow_elsewhere(root, tmp_path):
    run("flow", root, "--out", tmp_path / "flows", "--preset", "ultrafast", "--workers", "1", "--format", "png")
    assert (tmp_path / "flows/video1/00002.png").exists()
    run("inspect", root, "--flows", tmp_path / "flows")
    run("pack", root, tmp_path / "packed", "--flows", tmp_path / "flows", "--workers", "0")
    run("inspect", tmp_path / "packed")


def test_broken_frames(root, tmp_path):
    cut_off(root / "frame/train/video0/00001.jpg")
    output = run("flow", root, "--preset", "ultrafast", "--workers", "1", exit_code=1)
    assert re.search(r"3 of 6 flow pictures could not be made:\n.*video0/00001\.jpg: is damaged", output)
    with pytest.raises(InputError, match="2 problems in 1 of 2 videos"):
        run("pack", root, tmp_path / "packed", "--workers", "0")
    output = run("pack", root, tmp_path / "packed", "--workers", "0", "--skip-bad")
    assert "left out: missing flow" in output
    assert "1 videos in 1 shards" in output
