"""Weights in folders: those of training, at every depth people name them, and those that `hmhi convert` writes."""

import jax
import numpy as np
import optax
import pytest
from small_network import random_variables
from small_videos import ARGUMENTS, SIZE, network, save_network
from typer.testing import CliRunner

from hmhi_jax.cli import app
from hmhi_jax.data.flow import FlowRecipe
from hmhi_jax.errors import InputError
from hmhi_jax.inference import VideoSegmenter
from hmhi_jax.interop import load_weights
from hmhi_jax.training.checkpoints import Checkpoints
from hmhi_jax.training.config import default_config, to_plain
from hmhi_jax.training.step import make_state

RECIPE = FlowRecipe(camera="affine", size=(96, 160), normalisation="robust")
CONFIG = to_plain(default_config())
CONFIG["model"] |= ARGUMENTS
CONFIG["data"] |= {"sizes": [[32, 32], list(SIZE)]}


def convert(*arguments) -> str:
    result = CliRunner().invoke(app, ["convert", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def train(workdir, record, step=3):
    """A run's folder with a checkpoint, the way training writes it, and its variables."""
    variables = random_variables(network(), seed=step)
    state = make_state(variables, optax.sgd(0.1), 0, False).replace(step=np.int32(step))
    checkpoints = Checkpoints(workdir)
    checkpoints.save(state, {"position": 0}, {"config": CONFIG, **record}, wait=True)
    checkpoints.close()
    return variables


def same(first, second) -> bool:
    return jax.tree.all(jax.tree.map(lambda a, b: np.array_equal(np.asarray(a), np.asarray(b)), first, second))


@pytest.mark.parametrize("place", [".", "checkpoints", "checkpoints/7"])
def test_the_newest_checkpoint_of_a_run(tmp_path, place):
    train(tmp_path, {"flow_recipe": RECIPE.to_json()}, step=3)
    variables = train(tmp_path, {"flow_recipe": RECIPE.to_json()}, step=7)
    weights = load_weights(tmp_path / place)
    assert same(weights.variables["params"], variables["params"])
    assert weights.path == tmp_path / "checkpoints" / "7"
    assert (weights.input_size, weights.flow_recipe) == (SIZE, RECIPE)
    segmenter = VideoSegmenter.load(tmp_path / place)
    assert (segmenter.model.top_k, segmenter.size, segmenter.flow_recipe) == (ARGUMENTS["top_k"], SIZE, RECIPE)


def test_what_training_exported_goes_before_its_checkpoints(tmp_path):
    train(tmp_path, {"flow_recipe": RECIPE.to_json()})
    exported = save_network(tmp_path / "weights.safetensors")
    assert load_weights(tmp_path).path == exported
    assert load_weights(tmp_path / "checkpoints" / "3").path.name == "3"


def test_the_flow_recipe_of_a_run_is_converted_along(tmp_path):
    train(tmp_path / "run", {"flow_recipe": RECIPE.to_json()})
    assert "warning" not in convert(tmp_path / "run", tmp_path / "net.safetensors")
    assert load_weights(tmp_path / "net.safetensors").flow_recipe == RECIPE
    # A folder of Orbax's says as much as a file does.
    convert(tmp_path / "run", tmp_path / "net")
    weights = load_weights(tmp_path / "net")
    assert (weights.flow_recipe, weights.input_size) == (RECIPE, SIZE)
    assert VideoSegmenter.load(tmp_path / "net").flow_recipe == RECIPE


def test_a_run_that_did_not_note_its_flow_recipe(tmp_path):
    train(tmp_path / "run", {})
    step = tmp_path / "run" / "checkpoints" / "3"
    with pytest.raises(InputError, match="checkpoints/3: this checkpoint does not say the flow of its network; make"):
        load_weights(tmp_path / "run")
    text = convert(tmp_path / "run", tmp_path / "assumed.safetensors")
    assert f"warning   {step} does not say how its flow pictures were made: raw DIS flow is assumed" in text
    assert load_weights(tmp_path / "assumed.safetensors").flow_recipe == FlowRecipe()
    assert "warning" not in convert(tmp_path / "run", tmp_path / "said.safetensors", "--flow", RECIPE.to_json())
    assert load_weights(tmp_path / "said.safetensors").flow_recipe == RECIPE


def test_a_flow_recipe_that_is_none(tmp_path):
    train(tmp_path, {"flow_recipe": '{"camera": "tripod"}'})
    with pytest.raises(InputError, match=r"3/run/metadata: .*camera is 'tripod'"):
        load_weights(tmp_path)


def test_a_folder_without_weights(tmp_path):
    (tmp_path / "12").mkdir()
    with pytest.raises(InputError, match=r"holds no weights\.safetensors.* and no checkpoint; give"):
        load_weights(tmp_path)
