"""Weights through every kind of file and back, by the command people use."""

import json
import re
import shutil
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict
from goldens import cases
from typer.testing import CliRunner

from hmhi_jax.cli import app
from hmhi_jax.errors import InputError
from hmhi_jax.interop import load_weights
from hmhi_jax.interop.conversion import write_torch_checkpoint
from hmhi_jax.interop.torch_checkpoint import read_torch_checkpoint
from hmhi_jax.interop.torch_weights import UNUSED, expected_encoder_entries, expected_entries, from_torch, to_torch
from hmhi_jax.interop.weight_sources import read_source
from hmhi_jax.models import build_model
from hmhi_jax.models.backbones import BackboneSpec, register
from hmhi_jax.models.backbones.swin import SwinTransformer
from hmhi_jax.tools.compare.compare import recipe_state_dict

register(
    "swin_test",
    BackboneSpec(
        channels=(2, 4, 8, 16),
        decoder_width=16,
        build=SwinTransformer,
        arguments={"width": 2, "depths": (2, 1, 1, 1), "heads": (1, 1, 1, 1)},
    ),
)
ARGUMENTS = {"backbone": "mit_tiny", "decoder_width": 16, "feedforward": 64, "plam": False}


def convert(*arguments, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["convert", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> tuple[Path, dict[str, np.ndarray]]:
    """A checkpoint as the release's training leaves it on several GPUs, and its state dict."""
    model = build_model(**ARGUMENTS)
    drawn = recipe_state_dict({name: entry.shape for name, entry in expected_entries(model).items()}, 5)
    state = to_torch(model, from_torch(model, drawn))
    path = tmp_path_factory.mktemp("release") / "best.pth"
    optimiser = {"state": {0: {"step": np.float32(1), "exp_avg": np.zeros(3, np.float32)}}, "param_groups": []}
    network = {f"module.{name}": array for name, array in state.items()}
    write_torch_checkpoint(path, {"epoch": 7, "network": network, "optimizer": optimiser})
    return path, state


def same(state: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert set(state) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(state[name], array, err_msg=name)


def test_recipe_weights_are_the_goldens_recipe():
    shapes = {"a.weight": (3, 4), "a.bias": (3,), "n.weight": (5,), "x.gamma": (2,), "b.running_mean": (4,)}
    shapes |= {"b.running_var": (4,), "b.num_batches_tracked": (), "w.relative_position_bias_table": (9, 2)}
    same(recipe_state_dict(shapes, 3), cases.recipe.state_dict(shapes, 3))


def test_check_says_what_a_checkpoint_is(release):
    text = " ".join(convert("--check", release[0]).split())
    assert "PyTorch checkpoint, under 'network', prefix 'module.'" in text
    assert "HMHI-Net: backbone mit_tiny, sgim True, plam False" in text
    assert "decoder_width 16, feedforward 64" in text
    assert "ignored epoch, optimizer" in text
    assert "cross_attention" in text
    assert re.search(r"dropped\s+16: cross-attention that the release never reads", text)
    assert "fits yes" in text


@pytest.mark.parametrize("target", ["w.safetensors", "w.npz", "w", "torch.safetensors", "torch.npz", "w.pth"])
def test_there_and_back(release, tmp_path, target):
    path, state = release
    options = ["--names", "torch"] if target.startswith("torch") else []
    convert(path, tmp_path / target, *options)
    convert(tmp_path / target, tmp_path / "back.pth")
    same(read_torch_checkpoint(tmp_path / "back.pth", verify=True)["network"], state)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted({target, "back.pth"})


def test_our_file_says_what_it_is(release, tmp_path):
    path, state = release
    convert(path, tmp_path / "w.safetensors", "--memory-frames", 5, "--input-size", 96, 160, "--every", 3)
    weights = load_weights(tmp_path / "w.safetensors")
    assert weights.model_arguments["memory_frames"] == 5
    assert weights.input_size == (96, 160)
    assert weights.extra == {"converted_from": "best.pth", "publisher": "HMHI-Net's authors"}
    model = build_model(**weights.model_arguments)
    assert model.plam is False
    same(to_torch(model, weights.variables), state)
    # A second conversion keeps what the file knew.
    convert(tmp_path / "w.safetensors", tmp_path / "orbax")
    convert(tmp_path / "orbax", tmp_path / "again.safetensors")
    again = load_weights(tmp_path / "again.safetensors")
    assert weights.every == 3
    assert (again.model_arguments, again.input_size, again.every, again.extra) == (
        weights.model_arguments, weights.input_size, weights.every, weights.extra,
    )  # fmt: skip


def test_half_precision_halves_the_file(release, tmp_path):
    path, _ = release
    convert(path, tmp_path / "w.safetensors", "--dtype", "bfloat16")
    convert(path, tmp_path / "w.pth", "--dtype", "float16")
    stored = read_torch_checkpoint(tmp_path / "w.pth")["network"]
    assert {array.dtype for array in stored.values()} == {np.dtype(np.float16)}
    assert {a.dtype for a in read_source(tmp_path / "w.safetensors").entries.values()} == {np.dtype(ml_dtypes.bfloat16)}
    # bfloat16 sources are read as float32.
    leaves = jax.tree.leaves(load_weights(tmp_path / "w.safetensors").variables)
    assert {leaf.dtype.name for leaf in leaves} == {"float32"}
    assert convert("--check", tmp_path / "w.safetensors").count("bfloat16") == 1


def test_training_folders_are_read(release, tmp_path):
    path, state = release
    convert(path, tmp_path / "run" / "weights.safetensors")
    convert(tmp_path / "run", tmp_path / "w.pth")
    same(read_torch_checkpoint(tmp_path / "w.pth")["network"], state)


def test_an_encoder_alone(tmp_path):
    shapes = {n: e.shape for n, e in expected_encoder_entries("mit_b0").items() if "adapter." not in n}
    drawn = cases.recipe.state_dict(shapes, 2)
    plain = {name.removeprefix("backbone."): array for name, array in drawn.items()}
    head = {"head.weight": np.zeros((10, 256), np.float32), "head.bias": np.zeros(10, np.float32)}
    write_torch_checkpoint(tmp_path / "mit_b0.pth", {**plain, **head})
    text = convert(tmp_path / "mit_b0.pth", tmp_path / "encoder.safetensors")
    assert "dropped   2: classifier head: head.weight, head.bias" in text
    weights = load_weights(tmp_path / "encoder.safetensors")
    assert weights.model_arguments == {"backbone": "mit_b0"}
    assert weights.extra["part"] == "encoder"
    assert set(weights.variables) == {"params"}
    assert set(weights.variables["params"]) == {"encoder"}
    np.testing.assert_array_equal(
        weights.variables["params"]["encoder"]["stage1_block0"]["attn"]["q"]["kernel"],
        plain["block1.0.attn.q.weight"].T,
    )
    convert(tmp_path / "encoder.safetensors", tmp_path / "back.pth")
    same(read_torch_checkpoint(tmp_path / "back.pth"), plain)


def test_a_file_of_swin_s_authors(tmp_path):
    """data/swin.pth: their names and buffers under `model` in a network of widths 2 to 16, saved by torch 2.13."""
    path = Path(__file__).parent / "data" / "swin.pth"
    text = convert("--check", path)
    for line in (
        "PyTorch checkpoint, under 'model'\n",
        "names     of Swin's authors, timm before 0.9\n",
        "network   an encoder alone: backbone swin_test\n",
        "dropped   2: classifier head: head.weight, head.bias\n",
        "dropped   2: norm before the classifier: norm.weight, norm.bias\n",
        "dropped   5: relative-position indices, a constant: layers.*.blocks.*.attn.relative_position_index (5)\n",
        "dropped   1: attention masks, a constant: layers.0.blocks.1.attn_mask\n",
        "fits      yes\n",
    ):
        assert line in text

    convert(path, tmp_path / "encoder.safetensors")
    shapes = {name: entry.shape for name, entry in expected_encoder_entries("swin_test").items()}
    drawn = cases.recipe.state_dict({name.removeprefix("backbone."): shape for name, shape in shapes.items()}, 11)
    encoder = load_weights(tmp_path / "encoder.safetensors").variables["params"]["encoder"]
    for ours, theirs in {
        "stage1_block1/attn/qkv": "layers.0.blocks.1.attn.qkv",
        "stage2_merge": "layers.0.downsample.reduction",  # opens our stage, closes their layer
        "stage4_block0/project": "layers.3.blocks.0.mlp.fc2",
    }.items():
        module = encoder
        for name in ours.split("/"):
            module = module[name]
        np.testing.assert_array_equal(module["kernel"], drawn[f"{theirs}.weight"].T, err_msg=ours)

    convert(tmp_path / "encoder.safetensors", tmp_path / "back.pth")
    back = read_torch_checkpoint(tmp_path / "back.pth", verify=True)["model"]
    assert {name for name in back if not UNUSED.fullmatch(name)} == set(drawn)
    for name, array in drawn.items():
        np.testing.assert_array_equal(back[name], array, err_msg=name)


def test_batch_statistics_and_window_positions_are_written_for_strict_loaders():
    for backbone, name, content in (
        ("resnet50", "backbone.layer1.0.bn2.num_batches_tracked", np.zeros((), np.int64)),
        ("swin_tiny", "backbone.layers.0.blocks.0.attn.relative_position_index", None),
    ):
        shapes = {n: e.shape for n, e in expected_encoder_entries(backbone).items()}
        variables = {}
        for entry in expected_encoder_entries(backbone).values():
            variables[entry.path] = np.broadcast_to(
                np.float32(0), entry.layout.from_torch(np.broadcast_to(np.float32(0), entry.shape)).shape
            )
        state = to_torch(backbone, unflatten_dict(variables, sep="/"))
        assert {n for n in state if not UNUSED.fullmatch(n)} == set(shapes)
        if content is not None:
            np.testing.assert_array_equal(state[name], content)
        else:
            # Query in the middle, key at its right: same row (6), one column less (5).
            assert state[name][24, 25] == 13 * 6 + 5
            assert state[name].dtype == np.int64


# --- errors -----------------------------------------------------------------------------------------------------------


def test_everything_that_does_not_fit_is_listed(release, tmp_path):
    _, state = release
    broken = dict(state)
    del broken["decode_head.predictor.conv.bias"]
    broken["surprise.weight"] = np.zeros(2, np.float32)
    write_torch_checkpoint(tmp_path / "x.pth", {"network": broken})
    text = convert("--check", tmp_path / "x.pth", code=1)
    assert "missing   1: decode_head.predictor.conv.bias" in text
    assert "left over 1: surprise.weight" in text
    with pytest.raises(InputError, match=r"x\.pth: does not fit mit_tiny \(1 missing, 1 left over, see above\)"):
        convert(tmp_path / "x.pth", tmp_path / "w.safetensors")
    assert not (tmp_path / "w.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{path}"], "no OUT given"),
        (["{path}", "x.exe"], "suffix '.exe' says no format"),
        (["{path}", "x.npz", "--dtype", "bfloat16"], "cannot hold bfloat16"),
        (["{path}", "x.npz", "--dtype", "int4"], "--dtype int4: expected float32, bfloat16 or float16"),
        (["{path}", "x.npz", "--names", "theirs"], "--names theirs: expected ours or torch"),
        (["{path}", "x.npz", "--backbone", "vgg"], "backbone 'vgg' is not known"),
        (["{path}", "x.npz", "--input-size", "64", "100"], "--input-size 64 100: expected two multiples of 32"),
        (["missing.pth", "x.npz"], "missing.pth: cannot be read"),
    ],
)
def test_wrong_requests_are_one_line(release, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        convert(*(a.format(path=release[0]) for a in arguments))
    assert words in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_storage_is_not_converted(release, tmp_path):
    data = bytearray(release[0].read_bytes())
    position = data.index(np.ascontiguousarray(release[1]["decode_head.blend1.conv.weight"]).tobytes())
    data[position + 100] ^= 1
    (tmp_path / "x.pth").write_bytes(data)
    with pytest.raises(InputError, match="differ from their checksums"):
        convert(tmp_path / "x.pth", tmp_path / "w.safetensors")


def test_a_full_folder_is_not_overwritten(release, tmp_path):
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "thesis.txt").write_text("x")
    with pytest.raises(InputError, match="exists already"):
        convert(release[0], tmp_path / "w")
    assert [p.name for p in tmp_path.rglob("*")] == ["w", "thesis.txt"]


@pytest.mark.parametrize("name", ["x.safetensors", "x.npz", "folder"])
def test_other_damage(tmp_path, name):
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
    else:
        path.write_bytes(b"12345678{" + bytes(50) if name.endswith("s") else b"PK\x03\x04" + bytes(50))
    with pytest.raises(InputError, match=re.escape(str(path))):
        convert("--check", path)


def test_metadata_that_is_not_ours(release, tmp_path):
    convert(release[0], tmp_path / "w.npz")
    with np.load(tmp_path / "w.npz") as file:
        arrays = dict(file)
    header = json.loads(str(arrays.pop("__metadata__")))
    assert header["model"]["backbone"] == "mit_tiny"
    np.savez(tmp_path / "bare.npz", **arrays)
    with pytest.raises(InputError, match="does not name the network; say it with --backbone"):
        convert("--check", tmp_path / "bare.npz")
    shutil.copy(tmp_path / "bare.npz", tmp_path / "copy.npz")
    assert "fits      no" in convert("--check", tmp_path / "copy.npz", "--backbone", "mit_b0", code=1)
