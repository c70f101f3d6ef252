"""Exports: written, run without the model code, taken by the segmenter; every platform lowered."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

import hmhi_jax as hmhi
from hmhi_jax.data.flow import FlowRecipe
from hmhi_jax.errors import InputError
from hmhi_jax.inference.export import ExportedNetwork, write_export
from hmhi_jax.inference.network import Network
from hmhi_jax.interop.weights import save_weights

ROOT = Path(__file__).resolve().parents[2]
ARGUMENTS = {"backbone": "mit_b0", "memory_frames": 2, "decoder_width": 16, "feedforward": 32, "top_k": 5}
SIZE = (64, 96)


@pytest.fixture(scope="module")
def network():
    model = hmhi.build_model(**ARGUMENTS)
    clip = jax.ShapeDtypeStruct((1, 2, 64, 64, 3), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), clip, clip)
    rng = np.random.default_rng(0)
    return model, jax.tree.map(lambda x: rng.normal(0, 0.08, x.shape).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def inside(network, tmp_path_factory) -> Path:
    """Parameters as constants of the programs, for three platforms."""
    folder = tmp_path_factory.mktemp("export") / "inside"
    return write_export(folder, ARGUMENTS, network[1], size=SIZE, flow_recipe=FlowRecipe())


@pytest.fixture(scope="module")
def beside(network, tmp_path_factory) -> Path:
    """Parameters in a file of their own, for CPU."""
    folder = tmp_path_factory.mktemp("export") / "beside"
    return write_export(
        folder, ARGUMENTS, network[1], size=SIZE, flow_recipe=FlowRecipe(), platforms=("cpu",), parameters_inside=False
    )


def _pictures(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, count, *SIZE, 3), dtype=np.uint8)


def _logits(model, variables, frames, flows) -> np.ndarray:
    from hmhi_jax.data.preprocessing import normalise

    return np.asarray(
        jax.jit(lambda v, x, y: hmhi.segment_clip(model, v, x, y))(
            variables, normalise(frames)[None], normalise(flows)[None]
        )
    )[0, ..., 0]


@pytest.mark.slow
def test_runs_like_the_model(network, beside):
    frames, flows = _pictures(4)
    exported = ExportedNetwork(beside)
    run = Network(exported.functions, exported.variables)
    memory, found = None, []
    for x, y in zip(frames, flows, strict=True):
        (features,) = run.encode(x[None, None], y[None, None])
        memory, logits = run.start(features) if memory is None else run.step(memory, features)
        found.append(np.asarray(logits)[0, 0, ..., 0])
    np.testing.assert_allclose(found, _logits(*network, frames, flows), atol=1e-4)
    assert memory.written.tolist() == [4]
    assert (beside / "weights.safetensors").exists()


@pytest.mark.slow
def test_example_needs_no_model_code(network, inside, tmp_path):
    """In a process where importing this package, Flax or Optax fails."""
    frames, flows = _pictures(3)
    for name, pictures in (("frames", frames), ("flows", flows)):
        (tmp_path / name).mkdir()
        for i, picture in enumerate(pictures):
            Image.fromarray(picture).save(tmp_path / name / f"{i:05d}.png")
    (tmp_path / "flows" / "flow_recipe.json").write_text(FlowRecipe().to_json())  # as `hmhi flow` leaves it
    blocked = "import sys; sys.modules.update(dict.fromkeys(('hmhi_jax', 'flax', 'optax'))); import runpy; "
    arguments = [str(inside), *(str(tmp_path / name) for name in ("frames", "flows", "masks"))]
    script = str(ROOT / "examples" / "run_export.py")
    command = [sys.executable, "-c", f"{blocked}sys.argv[1:] = {arguments!r}; runpy.run_path({script!r})"]
    subprocess.run(command, check=True, env={**os.environ, "JAX_PLATFORMS": "cpu"}, cwd=tmp_path, timeout=300)
    masks = np.stack([np.asarray(Image.open(tmp_path / "masks" / f"{i:05d}.png")) for i in range(3)])
    expected = _logits(*network, frames, flows)
    clear = np.abs(expected) > 1e-3
    assert clear.mean() > 0.9
    np.testing.assert_array_equal((masks > 0)[clear], (expected > 0)[clear])


@pytest.mark.slow
def test_segmenter_takes_an_export(network, beside):
    frames, flows = _pictures(3)
    segmenter = hmhi.VideoSegmenter.load(beside)
    assert segmenter.size == SIZE
    masks = np.stack(list(segmenter.stream(frames, flows=flows, detect_cuts=False)))
    expected = _logits(*network, frames, flows)
    clear = np.abs(expected) > 1e-3
    np.testing.assert_array_equal((masks > 0)[clear], (expected > 0)[clear])
    for asked, message in (
        ({"memory_frames": 5}, "memory_frames is 2 in this export, 5 is asked for"),
        ({"dtype": "bfloat16"}, "dtype is float32 in this export, bfloat16 is asked for"),
        ({"chunk": 4}, "chunk is 1 in this export, 4 is asked for"),
    ):
        with pytest.raises(InputError, match=message):
            hmhi.VideoSegmenter.load(beside, **asked)
    with pytest.raises(InputError, match="was made for cpu, this is a gpu; export the weights anew, with --platforms"):
        ExportedNetwork(beside).require(platform="gpu")


def test_command_and_its_errors(network, tmp_path):
    from hmhi_jax.cli import app

    weights = tmp_path / "small.safetensors"
    save_weights(weights, network[1], ARGUMENTS, SIZE, FlowRecipe(), every=2)
    runner = CliRunner()
    folder = tmp_path / "net"
    done = runner.invoke(app, ["export", str(folder), "--weights", str(weights), "--platforms", "cpu", "--beside"])
    assert done.exit_code == 0, done.output
    assert "encode, start and step for cpu" in done.output
    assert ExportedNetwork(folder).header["model"]["backbone"] == "mit_b0"
    assert ExportedNetwork(folder).every == 2
    again = runner.invoke(app, ["export", str(folder), "--weights", str(weights), "--platforms", "gpu"])
    assert isinstance(again.exception, InputError)
    assert "expected names out of cpu, cuda, rocm, tpu" in str(again.exception)
    (tmp_path / "other").mkdir()
    taken = runner.invoke(app, ["export", str(tmp_path / "other"), "--weights", str(weights)])
    assert "is no export" in str(taken.exception)
    whole = (folder / "export.json").read_text()
    header = json.loads(whole)
    for name, value, reason in (
        ("input_size", [64, 64], r"its programs take pictures of \(1, 64, 96, 3\)"),
        ("batch", 2, r"its programs take pictures of \(1, 64, 96, 3\)"),
        ("model", {"memory_frames": 10**9}, "memory_frames is 1000000000, expected"),
        ("model", [], "no attribute"),
        ("flow", {"camera": "tripod"}, "camera is 'tripod'"),
        ("every", 17, "every is 17, expected"),
    ):
        (folder / "export.json").write_text(json.dumps(header | {name: value}))
        with pytest.raises(InputError, match=f"no readable export.*{reason}"):
            ExportedNetwork(folder)
    # What the programs say themselves is not asked for a second time.
    (folder / "export.json").write_text(json.dumps(header | {"platforms": 5, "parameters": "elsewhere"}))
    ExportedNetwork(folder).require(platform="cpu")
    (folder / "export.json").write_text(whole)
    arrays = load_file(folder / "weights.safetensors")
    name = next(iter(arrays))
    save_file({**arrays, name: np.full_like(arrays[name], np.nan)}, folder / "weights.safetensors")
    with pytest.raises(InputError, match=rf"1 of its arrays are not finite, first {name}"):
        ExportedNetwork(folder)
    save_file({other: array for other, array in arrays.items() if other != name}, folder / "weights.safetensors")
    with pytest.raises(InputError, match=r"encode\.stablehlo, weights\.safetensors and the others do not belong tog"):
        next(hmhi.VideoSegmenter.load(folder).stream(_pictures(2)[0]))
    save_file(arrays, folder / "weights.safetensors")
    for file, reason in (("step.stablehlo", r"step\.stablehlo is cut off"), ("weights.safetensors", "nvalid")):
        whole = (folder / file).read_bytes()
        (folder / file).write_bytes(whole[:1000])
        with pytest.raises(InputError, match=f"no readable export.*{reason}"):
            ExportedNetwork(folder)
        (folder / file).write_bytes(whole)
    (folder / "step.stablehlo").unlink()
    with pytest.raises(InputError, match="no readable export"):
        ExportedNetwork(folder)
