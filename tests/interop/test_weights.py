"""Weights files: exact round trips, halved storage, and one clear error for everything that is wrong."""

import json
import os
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from hmhi_jax.data.flow import FlowRecipe
from hmhi_jax.errors import InputError
from hmhi_jax.interop import weight_places
from hmhi_jax.interop.shapes import leaves_by_path
from hmhi_jax.interop.weights import Weights, load_weights, save_weights
from hmhi_jax.models import build_model

RECIPE = FlowRecipe(camera="affine", size=(96, 160), normalisation="robust")
ARGUMENTS = {"backbone": "mit_b0", "memory_frames": 2, "top_k": 8}


@pytest.fixture(scope="module")
def variables():
    model = build_model(**ARGUMENTS)
    clip = jax.ShapeDtypeStruct((1, 2, 64, 64, 3), jnp.float32)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), clip, clip)
    return jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32), shapes)


def same(first, second) -> bool:
    leaves = jax.tree.map(lambda a, b: np.array_equal(np.asarray(a), np.asarray(b)), first, second)
    return all(jax.tree.leaves(leaves))


def test_round_trip_is_exact(tmp_path, variables):
    path = tmp_path / "new folder" / "net.safetensors"
    save_weights(path, variables, {**ARGUMENTS, "dtype": jnp.bfloat16}, (96, 160), RECIPE, {"J": 0.61}, every=2)
    weights = load_weights(path)
    assert same(weights.variables, variables)
    assert weights.model_arguments == {**ARGUMENTS, "dtype": "bfloat16"}
    assert weights.input_size == (96, 160)
    assert weights.flow_recipe == RECIPE
    assert (weights.extra, weights.every) == ({"J": 0.61}, 2)
    assert [p.name for p in path.parent.iterdir()] == ["net.safetensors"]
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode  # others may read it
    assert all(name.startswith("params/") for name in load_file(path))
    assert same(weights.fit(build_model(**ARGUMENTS)), variables)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_storage_is_float32_in_memory(tmp_path, variables, dtype):
    full, half = tmp_path / "full.safetensors", tmp_path / "half.safetensors"
    tree = {**variables, "counts": {"steps": np.int32(7)}}
    save_weights(full, tree, ARGUMENTS, (64, 64), RECIPE)
    save_weights(half, tree, ARGUMENTS, (64, 64), RECIPE, dtype=dtype)
    assert half.stat().st_size < 0.55 * full.stat().st_size
    loaded = load_weights(half).variables
    assert loaded["counts"]["steps"].dtype == np.int32
    assert loaded["counts"]["steps"] == 7
    rounded = jax.tree.map(lambda x: x.astype(jnp.dtype(dtype)).astype(np.float32), variables)
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded["params"])} == {np.dtype(np.float32)}
    assert same(loaded["params"], rounded["params"])


def test_folder_of_a_training_run(tmp_path, variables):
    with pytest.raises(InputError, match=r"holds no weights\.safetensors"):
        load_weights(tmp_path)
    save_weights(tmp_path / "weights.safetensors", variables, ARGUMENTS, (64, 64), RECIPE)
    assert same(load_weights(tmp_path).variables, variables)


def test_shipped_names_are_listed(tmp_path, monkeypatch, variables):
    package = tmp_path / "package"
    save_weights(package / "weights" / "small.safetensors", variables, ARGUMENTS, (64, 64), RECIPE)
    monkeypatch.setattr(weight_places.resources, "files", lambda _: package)
    assert load_weights("small").path.name == "small.safetensors"
    with pytest.raises(InputError, match=r"'smal'.*shipped: small\)"):
        load_weights("smal")
    beside = tmp_path / "noncommercial_weights" / "small_davis.safetensors"  # as in a checkout
    save_weights(beside, variables, ARGUMENTS, (64, 64), RECIPE)
    assert load_weights("small_davis").path == beside
    with pytest.raises(InputError, match=r"'smal'.*shipped: small, small_davis\)"):
        load_weights("smal")


def rewritten(path, change):
    """A weights file whose arrays and header went through `change`."""
    arrays = load_file(path)
    header = {"model": dict(ARGUMENTS), "input_size": [64, 64], "flow": json.loads(RECIPE.to_json())}
    metadata = change(arrays, header)
    save_file(arrays, path, metadata={"hmhi": json.dumps(header)} if metadata is None else metadata)


def test_every_entry_that_does_not_fit_is_in_one_error(tmp_path, variables):
    path = tmp_path / "net.safetensors"
    save_weights(path, variables, ARGUMENTS, (64, 64), RECIPE)

    def change(arrays, header):
        for name in [name for name in arrays if name.startswith("params/sgim_module/")]:
            del arrays[name]
        kernel = next(name for name in arrays if name.startswith("params/decoder/") and name.endswith("kernel"))
        arrays[kernel] = arrays[kernel][..., :1].copy()
        arrays["params/encoder/extra"] = np.zeros(3, np.float32)
        change.kernel = kernel

    rewritten(path, change)
    with pytest.raises(InputError) as caught:
        load_weights(path).fit(build_model(**ARGUMENTS))
    message = str(caught.value)
    assert re.search(r"\d+ missing: params/sgim_module/\* \(\d+\)", message)
    assert "1 left over: params/encoder/extra" in message
    assert f"1 misshapen: {change.kernel} (found" in message
    assert "\n" not in message


def test_weights_of_another_backbone(variables):
    weights = Weights(ARGUMENTS, leaves_by_path(variables), (64, 64), RECIPE, {}, Path("x.safetensors"))
    with pytest.raises(InputError, match=r"x\.safetensors: these weights do not fit mit_b1;.*misshapen.*decoder"):
        weights.fit(build_model("mit_b1", memory_frames=2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays, header: {"other": "x"}, "no entry 'hmhi'"),
        (lambda arrays, header: {"hmhi": "{"}, "expected JSON with"),
        (lambda arrays, header: header.pop("model") and None, "KeyError: 'model'"),
        (lambda arrays, header: header.update(input_size=[64]), "network size is 64 "),
        (lambda arrays, header: header.update(input_size=[100, 64]), "network size is 100 x 64 "),
        (lambda arrays, header: header.update(input_size=[64.0, True]), "network size is 64.0 x True "),
        (lambda arrays, header: header.update(input_size=[1 << 20, 1 << 20]), "at most 16 megapixels"),
        (lambda arrays, header: header.update(every=0), "every is 0, expected a number of frames, from 1 to 16"),
        (lambda arrays, header: header.update(every="3"), "every is 3, expected"),
        (lambda arrays, header: header["model"].update(memory_frames=10**9), "from 1 to 1000"),
        (lambda arrays, header: header["model"].update(memory_frames=-1), "memory_frames is -1"),
        (lambda arrays, header: header["model"].update(top_k=2**31), "top_k is 2147483648, expected"),
        (lambda arrays, header: header["model"].update(top_k=1.5), "top_k is 1.5, expected a whole number"),
        (lambda arrays, header: header["model"].update(top_k=True), "top_k is True, expected a whole number"),
        (lambda arrays, header: header["model"].update(sgim="no"), "sgim is 'no', expected True or False"),
        (lambda arrays, header: header["model"].update(plam=1), "plam is 1, expected True or False"),
        (lambda arrays, header: header["model"].update(deep_memory=None), "deep_memory is None, expected True or F"),
        (lambda arrays, header: header["model"].update(drop_path=float("nan")), "drop_path is nan, expected at least"),
        (lambda arrays, header: header["model"].update(drop_path=1.0), "less than 1, or None"),
        (lambda arrays, header: header["model"].update(subpixels=2.0), "subpixels is 2.0, expected 1 or 2 or 4"),
        (lambda arrays, header: header["model"].update(batch_norm=[]), "batch_norm is [], expected 'frozen' or 'up"),
        (lambda arrays, header: header["model"].update(backbone=5), "backbone is 5, expected a name"),
        (lambda arrays, header: header["model"].update(name="x"), "'name' is no switch of the network"),
        (lambda arrays, header: header["flow"].update(least_motion=float("nan")), "least_motion is nan"),
        (lambda arrays, header: header["flow"].update(camera="tripod"), "camera is 'tripod'"),
    ],
)
def test_bad_headers(tmp_path, variables, change, message):
    path = tmp_path / "net.safetensors"
    save_weights(path, {"params": {"a": np.ones(2, np.float32)}}, ARGUMENTS, (64, 64), RECIPE)
    rewritten(path, change)
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        load_weights(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_of_another_kind(tmp_path):
    path = tmp_path / "net.pth"
    path.write_bytes(b"PK\x03\x04 a zip of pickles, as PyTorch writes it")
    with pytest.raises(InputError, match="hmhi convert"):
        load_weights(path)


def test_a_failed_write_leaves_the_old_file_alone(tmp_path):
    tree = {"params": {"a": np.ones(2, np.float32)}}
    in_the_way = tmp_path / "file"
    in_the_way.write_text("x")
    with pytest.raises(InputError, match="cannot be written"):
        save_weights(in_the_way / "net.safetensors", tree, ARGUMENTS, (64, 64), RECIPE)
    folder = tmp_path / "net.safetensors"
    (folder / "inside").mkdir(parents=True)
    with pytest.raises(InputError, match="cannot be written"):
        save_weights(folder, tree, ARGUMENTS, (64, 64), RECIPE)
    assert os.listdir(tmp_path / "net.safetensors") == ["inside"]
    assert sorted(os.listdir(tmp_path)) == ["file", "net.safetensors"]
