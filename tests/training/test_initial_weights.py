"""Where first weights come from: laid over fresh ones, from files and from other runs."""

import numpy as np
import pytest
from safetensors.numpy import load_file
from training_process import losses, train

from hmhi_jax.errors import InputError
from hmhi_jax.interop.checkpoint_folders import read_run
from hmhi_jax.training.initial_weights import overlay


def tree(value, **parts):
    shapes = {"encoder": {"q": (2, 3), "q_adapter": (4,)}, "decoder": {"conv": (5,)}} | parts
    return {
        "params": {name: {k: np.full(s, value, np.float32) for k, s in part.items()} for name, part in shapes.items()}
    }


def test_a_backbone_fills_the_encoder_and_leaves_the_rest():
    source = {"params": {"encoder": {"q": np.ones((2, 3), np.float32)}}}
    variables, notes = overlay(tree(0.0), source, "mit.safetensors")
    assert variables["params"]["encoder"]["q"].min() == 1
    assert not variables["params"]["decoder"]["conv"].any()
    assert not variables["params"]["encoder"]["q_adapter"].any()
    assert notes == ["1 of 3 arrays from mit.safetensors", "fresh: decoder", "fresh: flow adapters"]


def test_everything_that_does_not_fit_is_told_at_once():
    source = tree(1.0, decoder={"conv": (6,), "extra": (1,)}, encoder={"q_adapter": (4,)})
    with pytest.raises(InputError) as error:
        overlay(tree(0.0), source, "w")
    for text in ("decoder/extra is not in this network", "conv has shape (6,), expected (5,)", "encoder/q is missing"):
        assert text in str(error.value)


def test_an_encoder_that_ends_earlier_leaves_the_last_blocks_out():
    def blocks(value, *names, **others):
        return tree(value, encoder=dict.fromkeys(names, (3,)) | others, decoder={})

    mine = blocks(0.0, "stage1_block0/q", "stage2_block0/q", "stage2_block1/q", **{"reduction/kernel": (2,)})
    variables, notes = overlay(
        mine, blocks(1.0, *(f"stage{stage}_block{block}/q" for stage in (1, 2) for block in range(4 * stage - 3))), "w"
    )
    assert notes == [
        "3 of 4 arrays from w",
        "left out, beyond this network's encoder: encoder/stage2_block2, encoder/stage2_block3, encoder/stage2_block4",
        "fresh: flow adapters",
    ]
    assert variables["params"]["encoder"]["stage2_block1/q"].all()
    assert not variables["params"]["encoder"]["reduction/kernel"].any()
    deeper = blocks(1.0, "stage1_block0/q", "stage1_block1/q", "stage2_block0/q", "stage2_block1/q")
    with pytest.raises(InputError, match="encoder/stage1_block1/q is not in this network"):
        overlay(mine, deeper, "w")


@pytest.mark.slow
def test_another_run_gives_weights_and_if_wanted_its_optimiser(tmp_path):
    first = tmp_path / "first"
    train(first, "--config.steps=4", "--config.optimiser.schedule=constant", "--config.optimiser.warmup_steps=0")
    variables, optimiser = read_run(first)
    assert load_file(first / "weights.safetensors").keys() == {
        f"params/{module}/{rest}" for module, rest in _paths(variables["params"])
    }
    assert optimiser is not None
    results = {}
    for kept in ("fresh", "kept"):
        run = tmp_path / kept
        output = train(
            run, "--config.steps=2", f"--config.init_from={first}", f"--config.init_optimiser={kept}",
            "--config.optimiser.schedule=constant", "--config.optimiser.warmup_steps=0",
        )  # fmt: skip
        assert f"arrays from {first}" in output
        assert ("optimiser state kept" in output) == (kept == "kept")
        results[kept] = losses(run)
    assert results["fresh"][1] == results["kept"][1] < losses(first)[1]
    assert results["fresh"][2] != results["kept"][2]
    output = train(run, "--config.steps=3", f"--config.init_from={first}", "--config.optimiser.schedule=constant",
                   "--config.optimiser.warmup_steps=0")  # fmt: skip
    assert "going on from step 2" in output  # a run's own checkpoints come before `init_from`
    assert "arrays from" not in output


def _paths(params, prefix=""):
    for name, value in params.items():
        if isinstance(value, dict):
            yield from _paths(value, f"{prefix}{name}/")
        else:
            module, _, rest = f"{prefix}{name}".partition("/")
            yield module, rest
