"""Flow networks' weights: torchvision's and the authors' names, every kind of file, and what is refused."""

import re

import numpy as np
import pytest
from goldens import flow_cases
from typer.testing import CliRunner

from hmhi_jax.cli import app
from hmhi_jax.data.flow import FlowRecipe
from hmhi_jax.errors import InputError
from hmhi_jax.flow_models import build_flow_model
from hmhi_jax.interop import flow_from_torch, flow_to_torch, load_flow_weights
from hmhi_jax.interop.conversion import write_torch_checkpoint
from hmhi_jax.interop.flow_weights import expected_flow_entries, find_flow_weights, weights_digest

BLOCK = r"layer\d\.\d"


def authors_names(state_dict):
    """The same weights as the authors' class names them, written down from their code, norms twice where theirs are."""
    rules = [
        (r"feature_encoder\.(.*)", r"fnet.\1"),
        (r"context_encoder\.(.*)", r"cnet.\1"),
        (r"(\wnet)\.convnormrelu\.0\.(.*)", r"\1.conv1.\2"),
        (r"(\wnet)\.convnormrelu\.1\.(.*)", r"\1.norm1.\2"),
        (r"(\wnet)\.conv\.(.*)", r"\1.conv2.\2"),
        (rf"(\wnet\.{BLOCK})\.convnormrelu(\d)\.0\.(.*)", r"\1.conv\2.\3"),
        (rf"(\wnet\.{BLOCK})\.convnormrelu(\d)\.1\.(.*)", r"\1.norm\2.\3"),
        (r"update_block\.motion_encoder\.convcorr(\d)\.0\.(.*)", r"update_block.encoder.convc\1.\2"),
        (r"update_block\.motion_encoder\.convflow(\d)\.0\.(.*)", r"update_block.encoder.convf\1.\2"),
        (r"update_block\.motion_encoder\.conv\.0\.(.*)", r"update_block.encoder.conv.\1"),
        (r"update_block\.recurrent_block\.convgru(\d)\.conv(\w)\.(.*)", r"update_block.gru.conv\2\1.\3"),
        (r"mask_predictor\.convrelu\.0\.(.*)", r"update_block.mask.0.\1"),
        (r"mask_predictor\.conv\.(.*)", r"update_block.mask.2.\1"),
    ]
    small = "mask_predictor.conv.weight" not in state_dict
    renamed = {}
    for name, array in state_dict.items():
        for pattern, replacement in rules:
            name = re.sub(f"^{pattern}$", replacement, name)
        if small:
            name = re.sub(r"(update_block\.gru\.conv[zrq])1", r"\1", name)
        renamed[f"module.{name}"] = array
        if shared := re.fullmatch(rf"(cnet\.{BLOCK})\.downsample\.1\.(.*)", name):
            renamed[f"module.{shared[1]}.norm3.{shared[2]}"] = array
    return renamed


def equal(one, other):
    assert weights_digest(one) == weights_digest(other)


def run(*words, code=0):
    result = CliRunner().invoke(app, ["convert", *map(str, words)])
    if isinstance(result.exception, InputError):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output


@pytest.mark.parametrize("name", ["raft_large", "raft_small"])
def test_both_publishers_names_give_the_same_weights(name):
    case = flow_cases.load(name)
    theirs = authors_names(case.state_dict)
    assert ("module.cnet.layer2.0.norm3.weight" in theirs) == (name == "raft_large")
    assert "module.update_block.gru.convz1.weight" in theirs or name == "raft_small"
    equal(flow_from_torch(case.model, theirs), case.variables)
    back = flow_to_torch(case.variables)
    assert set(back) == set(case.state_dict)
    for entry, array in back.items():
        assert array.dtype == case.state_dict[entry].dtype
        np.testing.assert_array_equal(array, case.state_dict[entry])


def test_every_mismatch_is_listed():
    case = flow_cases.load("raft_large")
    broken = dict(case.state_dict)
    del broken["feature_encoder.conv.bias"], broken["update_block.flow_head.conv2.weight"]
    broken["update_block.extra.weight"] = np.zeros(3, np.float32)
    broken["context_encoder.conv.bias"] = np.zeros(5, np.float32)
    with pytest.raises(InputError) as error:
        flow_from_torch(case.model, broken)
    message = str(error.value)
    assert "\n" not in message
    assert "2 missing: feature_encoder.conv.bias, update_block.flow_head.conv2.weight" in message
    assert "1 unused: update_block.extra.weight" in message
    assert "1 misshapen: context_encoder.conv.bias is (5,), expected (256,)" in message


def test_other_weights_are_named_for_what_they_are():
    large, small = flow_cases.load("raft_large"), flow_cases.load("raft_small")
    with pytest.raises(InputError, match=r"^the weights are raft_small's, expected raft_large's"):
        flow_from_torch(large.model, small.state_dict)
    with pytest.raises(InputError, match=r"^the weights are raft_large's, expected raft_small's"):
        flow_from_torch(small.model, authors_names(large.state_dict))
    without = {name: array for name, array in large.state_dict.items() if not name.startswith("mask_predictor")}
    with pytest.raises(InputError, match=r"do not fit raft_large. 4 missing: mask_predictor.convrelu.0.bias, "):
        flow_from_torch(large.model, without)
    with pytest.raises(InputError, match=r"are of another network than RAFT: .* 2 entries \(layer1.weight, "):
        flow_from_torch(large.model, {"layer1.weight": np.zeros(2), "head.bias": np.zeros(1)})


def test_conversion_to_every_kind_of_file_and_back(tmp_path):
    case = flow_cases.load("raft_small")
    source = tmp_path / "raft-small.pth"
    write_torch_checkpoint(source, authors_names(case.state_dict))
    output = run(source, "--check")
    assert "names     of RAFT's authors" in output
    assert "network   optical flow: raft_small" in output
    assert "fits      yes" in output
    for target, options in (
        ("ours.safetensors", ()),
        ("torch.safetensors", ("--names", "torch")),
        ("ours.npz", ()),
        ("torchvision.pth", ()),
        ("folder", ()),
    ):
        assert "raft_small" in run(source, tmp_path / target, *options)
        found = load_flow_weights(tmp_path / target)
        assert found.network == "raft_small"
        equal(found.variables, case.variables)
        equal(load_flow_weights(tmp_path / target).variables, case.variables)
    run(tmp_path / "ours.safetensors", tmp_path / "back.pth")
    equal(load_flow_weights(tmp_path / "back.pth").variables, case.variables)
    run(source, tmp_path / "half.safetensors", "--dtype", "float16")
    half = load_flow_weights(tmp_path / "half.safetensors").variables
    assert weights_digest(half) != weights_digest(case.variables)
    with pytest.raises(InputError, match=r"--flow: is for networks of segmentation, but .* is raft_small's"):
        run(source, tmp_path / "x.safetensors", "--flow", FlowRecipe().to_json())


def test_weights_that_do_not_fit_are_not_converted(tmp_path):
    case = flow_cases.load("raft_large")
    without = {name: array for name, array in case.state_dict.items() if not name.startswith("mask_predictor")}
    source = tmp_path / "no-mask.pth"
    write_torch_checkpoint(source, without)
    assert "missing   4: mask_predictor" in run(source, "--check", code=1)
    with pytest.raises(InputError, match=r"no-mask.pth: does not fit raft_large \(4 missing, see above\)"):
        run(source, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()
    with pytest.raises(InputError, match=r"no-mask.pth: the weights do not fit raft_large. 4 missing: mask_predictor"):
        load_flow_weights(source)
    other = tmp_path / "other.pth"
    write_torch_checkpoint(other, {"conv1.weight": np.zeros((64, 3, 7, 7), np.float32)})
    with pytest.raises(InputError, match=r"other.pth: the weights are of another network than RAFT"):
        load_flow_weights(other)


def test_the_hub_cache_is_looked_in(tmp_path, monkeypatch):
    case = flow_cases.load("raft_small")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    with pytest.raises(InputError, match=rf"flow weights 'raft_small': no such file, and none .* in {folder}"):
        find_flow_weights("raft_small")
    folder.mkdir(parents=True)
    for name in ("raft_small_C_T_V1-ad48884c.pth", "raft_small_C_T_V2-01064c6d.pth"):
        write_torch_checkpoint(folder / name, case.state_dict)
    assert find_flow_weights("raft_small").name == "raft_small_C_T_V2-01064c6d.pth"
    assert find_flow_weights("raft_small_C_T_V1").name == "raft_small_C_T_V1-ad48884c.pth"
    equal(load_flow_weights("raft_small").variables, case.variables)
    for name in ("SKHT_V2-ff5fadd5", "SKHT_K_V2-b5c70766", "V2-1bb1363a", "SKHT_V1-00000000"):
        (folder / f"raft_large_C_T_{name}.pth").touch()
    assert find_flow_weights("raft_large").name == "raft_large_C_T_SKHT_V2-ff5fadd5.pth"
    run("raft_small", tmp_path / "small.safetensors")
    assert load_flow_weights(tmp_path / "small.safetensors").network == "raft_small"


@pytest.mark.parametrize(("name", "parameters"), [("raft_large", 5_257_536), ("raft_small", 990_162)])
def test_parameters_are_as_many_as_torchvision_s(name, parameters):
    entries = expected_flow_entries(name)
    assert sum(np.prod(e.shape) for key, e in entries.items() if "running_" not in key) == parameters
    assert build_flow_model(name).name_of_network == name
