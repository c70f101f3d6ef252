"""What people wrap state dicts in, what they keep beside them, and what only looks like weights."""

import json
import re
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file
from small_network import random_variables
from small_videos import ARGUMENTS, network, save_network

from hmhi_jax.errors import InputError
from hmhi_jax.interop import load_weights, to_torch
from hmhi_jax.interop.conversion import write_torch_checkpoint
from hmhi_jax.interop.identify import identify
from hmhi_jax.interop.shapes import leaves_by_path, not_finite
from hmhi_jax.interop.weight_sources import read_source

NET = {"decode_head.cbam1.conv1.conv.weight": np.float32([[1, 2]]), "backbone.norm1.weight": np.float32([3])}
OLD = {name: array - 1 for name, array in NET.items()}
COUNT = np.asarray(7, np.int64)


def under(prefix, entries=NET):
    return {prefix + name: array for name, array in entries.items()}


@pytest.mark.parametrize(
    ("value", "wrapper", "prefix", "ignored"),
    [
        (NET, "", "", []),
        ({"network": NET, "epoch": 3}, "network", "", ["epoch"]),
        ({**under("module."), "n_averaged": COUNT}, "", "module.", ["n_averaged"]),
        ({"model": OLD, "ema": NET}, "ema", "", ["model"]),
        ({"state_dict": NET, "ema": {"decay": 0.5}, "model": {}}, "state_dict", "", ["ema", "model"]),
        ({"params": OLD, "params_ema": NET}, "params_ema", "", ["params"]),
        ({"ema": {"module": NET, "decay": 0.99}}, "ema.module", "", ["decay"]),
        ({"state_dict": under("model."), "pytorch-lightning_version": "2"}, "state_dict", "model.",
         ["pytorch-lightning_version"]),
        ({"state_dict": {**under("model."), "criterion.weight": COUNT}}, "state_dict", "model.", ["criterion"]),
        ({"state_dict": {**under("model.", OLD), **under("ema_model.module."), "ema_model.n_averaged": COUNT}},
         "state_dict", "ema_model.module.", ["model (2 arrays)", "n_averaged"]),
        ({"ema": {"decay": 0.9, "shadow": NET}, "model": OLD}, "ema.shadow", "", ["decay", "model"]),
        ({"state_dict": {**under("model.", OLD), **under("ema.module."), "ema.n_averaged": COUNT}}, "state_dict",
         "ema.module.", ["model (2 arrays)", "n_averaged"]),
        ({**under("swa_model.module."), "swa_model.n_averaged": COUNT}, "", "swa_model.module.", ["n_averaged"]),
        ({"net_g": NET, "epoch": 3}, "net_g", "", ["epoch"]),
        ({"network": {**NET, "epoch": COUNT, "best": np.asarray(0.5, np.float32)}}, "network", "", ["best", "epoch"]),
        ({"model": under("_orig_mod.module."), "best": 0.5}, "model", "_orig_mod.module.", ["best"]),
    ],
)  # fmt: skip
def test_wrappers_are_taken_off_and_the_rest_is_listed(tmp_path, value, wrapper, prefix, ignored):
    write_torch_checkpoint(tmp_path / "x.pth", value)
    source = read_source(tmp_path / "x.pth")
    assert (source.wrapper, source.prefix, source.ignored) == (wrapper, prefix, ignored)
    assert {name: array.tolist() for name, array in source.entries.items()} == {
        name: array.tolist() for name, array in NET.items()
    }


def test_a_whole_network_in_an_average_is_recognised(tmp_path):
    state = to_torch(network(), random_variables(network()))
    write_torch_checkpoint(tmp_path / "x.pth", {**under("module.", state), "n_averaged": COUNT})
    found = identify(read_source(tmp_path / "x.pth"), backbone=ARGUMENTS["backbone"])
    assert found.whole
    assert found.fit, str(found.fit)


def test_numbers_that_are_not_finite_are_told(tmp_path):
    path = save_network(tmp_path / "w.safetensors")
    weights = load_weights(path)
    name = next(iter(weights.arrays))
    weights.arrays[name] = np.full_like(weights.arrays[name], np.nan)
    with pytest.raises(InputError, match=rf"w\.safetensors: .* mit_test; 1 not finite: {re.escape(name)}"):
        weights.fit(network())
    write_torch_checkpoint(tmp_path / "x.pth", {**NET, "x.weight": np.float32([1, np.inf]), "n": COUNT})
    assert not_finite(read_source(tmp_path / "x.pth").entries) == ["x.weight"]


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("[]", "list instead of an object"),
        ('{"model": 5}', "model is 5"),
        ("[" * 50_000, "RecursionError"),
        ('{"input_size": {}}', "input_size is {}"),
    ],
)
@pytest.mark.parametrize("read", [read_source, load_weights])
def test_metadata_of_another_kind_is_one_line(tmp_path, header, words, read):
    path = tmp_path / "w.safetensors"
    save_file({"params/a": np.ones(2, np.float32)}, path, metadata={"hmhi": header})
    with pytest.raises(InputError, match=re.escape(words)) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "params", "params/", "params//x", "params/decoder/predictor/bias/x"])
def test_names_that_are_no_paths_are_left_over(tmp_path, name):
    arrays = {path: np.asarray(leaf) for path, leaf in leaves_by_path(random_variables(network())).items()}
    header = {"model": ARGUMENTS, "input_size": [64, 64], "flow": {}}
    save_file({**arrays, name: np.ones(2, np.float32)}, tmp_path / "w.safetensors", {"hmhi": json.dumps(header)})
    assert identify(read_source(tmp_path / "w.safetensors")).fit.unused == [name]
    with pytest.raises(InputError, match=rf"w\.safetensors: .*; 1 left over: {name}$"):
        load_weights(tmp_path / "w.safetensors").fit(network())


def test_types_that_weights_do_not_have_are_named(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file({"a": np.asarray([1, 2], jnp.float8_e4m3fn)}, path)
    with pytest.raises(InputError, match=r"w\.safetensors: 1 arrays of types .* first a \(F8_E4M3\)"):
        read_source(path)


def test_archives_are_looked_at_before_they_are_unpacked(tmp_path):
    np.savez_compressed(tmp_path / "bomb.npz", a=np.zeros(2**27, np.float32))
    with pytest.raises(InputError, match=r"bomb\.npz: .* that unpack to 536,871,\d+: not weights"):
        read_source(tmp_path / "bomb.npz")
    np.save(tmp_path / "a.npy", np.zeros(2, np.float32))
    claim = (tmp_path / "a.npy").read_bytes().replace(b"(2,), }             ", b"(1000000000000,), } ")
    with zipfile.ZipFile(tmp_path / "huge.npz", "w") as archive:
        archive.writestr("a.npy", claim)
    with pytest.raises(InputError, match=r"huge\.npz: .*a\.npy claims 4,000,000,000,000 bytes and has"):
        read_source(tmp_path / "huge.npz")
    for shape in (b"(True, True)}", b"('''\0"):  # flags for numbers, a text without an end
        with zipfile.ZipFile(tmp_path / "shape.npz", "w") as archive:
            stored = (tmp_path / "a.npy").read_bytes().replace(b"(2,), }".ljust(len(shape)), shape)
            archive.writestr("a.npy", stored)
        with pytest.raises(InputError, match=r"shape\.npz: is no readable NumPy archive of plain arrays"):
            read_source(tmp_path / "shape.npz")
    for strange in (np.complex64([1]), np.array(["x"]), np.zeros(1, "M8[s]"), np.zeros(1, [("a", "f4")])):
        np.savez(tmp_path / "strange.npz", a=strange)
        with pytest.raises(InputError, match=r"strange\.npz: .*\(1 of them hold no real numbers, first a \("):
            read_source(tmp_path / "strange.npz")
    np.savez(tmp_path / "objects.npz", a=np.array([json], dtype=object)[:0])
    with pytest.raises(InputError, match=r"objects\.npz: is no readable NumPy archive of plain arrays"):
        read_source(tmp_path / "objects.npz")
