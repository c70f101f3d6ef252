"""A run survives what happens to runs: kills, signals, damaged checkpoints and pictures, full disks, bad numbers."""

import random
import shutil
import signal
import time

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from safetensors.numpy import load_file
from training_process import (
    EVALUATION,
    array_files,
    checkpoint_steps,
    evaluations,
    finish,
    losses,
    signal_after,
    start,
    train,
)

from hmhi_jax.data.flow import FlowRecipe
from hmhi_jax.interop.weights import load_weights
from hmhi_jax.training.checkpoints import checksum
from hmhi_jax.training.mesh import DATA, SPACE, make_mesh

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """A run nothing happened to."""
    folder = tmp_path_factory.mktemp("runs") / "reference"
    train(folder)
    assert list(losses(folder)) == list(range(1, 13))
    return folder


def same_weights(one, other) -> bool:
    first, second = (load_file(folder / "weights.safetensors") for folder in (one, other))
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


def test_killed_twice_a_run_gives_the_same_losses_and_weights(reference, tmp_path):
    generator = random.Random(0)
    for step in (generator.randint(4, 6), generator.randint(7, 11)):
        process = start(tmp_path)
        signal_after(process, tmp_path, step, signal.SIGKILL)
        process.wait()
        process.stdout.close()
    train(tmp_path)
    assert losses(tmp_path) == losses(reference)
    assert same_weights(tmp_path, reference)


def test_sigterm_saves_and_a_truncated_checkpoint_gives_way_to_the_one_before(reference, tmp_path):
    process = start(tmp_path)
    signal_after(process, tmp_path, 4, signal.SIGTERM)
    output = finish(process, code=0)
    steps = checkpoint_steps(tmp_path)
    if steps[-1] < 12:  # it may be quicker than the signal
        assert f"SIGTERM: saved step {steps[-1]}" in output
    biggest = array_files(tmp_path, steps[-1])[0]
    biggest.write_bytes(biggest.read_bytes()[: biggest.stat().st_size // 2])
    output = train(tmp_path)
    assert f"checkpoints/{steps[-1]} cannot be read" in output
    assert f"going on from step {steps[-2]}" in output
    assert losses(tmp_path) == losses(reference)
    assert same_weights(tmp_path, reference)


def test_sigterm_before_the_first_step_is_heeded_after_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HMHI_CACHE", str(tmp_path / "cache"))  # nothing is kept there
    run = tmp_path / "run"
    process = start(run)
    while process.poll() is None and not (run / "checkpoints").is_dir():
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)  # while weights are drawn and the step is compiled
    assert "SIGTERM: saved step" in finish(process)
    assert checkpoint_steps(run)


def test_missing_files_and_other_settings(reference, tmp_path):
    shutil.copytree(reference, tmp_path / "run")
    newest = checkpoint_steps(reference)[-1]
    shutil.rmtree(tmp_path / "run" / "checkpoints" / str(newest) / "state")
    changed = ("--config.optimiser.learning_rate=0.5", "--config.seed=3", "--config.logging.every_steps=2")
    output = train(tmp_path / "run", *changed, code=2)
    assert "optimiser.learning_rate: checkpoint 0.001, now 0.5" in output
    assert "seed: checkpoint 0, now 3" in output
    assert "logging" not in output
    output = train(tmp_path / "run")
    assert f"going on from step {checkpoint_steps(reference)[-2]}" in output
    assert losses(tmp_path / "run") == losses(reference)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / str(newest))
    fewer = "--config.data.batch_size=4", "--accept_changes=data.batch_size"
    assert f"going on from step {checkpoint_steps(reference)[-2]}" in train(tmp_path / "run", *fewer)
    assert losses(tmp_path / "run")[newest] != losses(reference)[newest]


def test_a_checkpoint_of_other_arrays_is_refused_and_left_alone(reference, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(reference, run)
    before = checkpoint_steps(run)
    averaged = "--config.step.ema_decay=0.9", "--accept_changes=step.ema_decay"
    output = train(run, *averaged, code=2)
    assert f"checkpoints/{before[-1]}: " in output
    assert "first ema." in output
    assert checkpoint_steps(run) == before
    assert not list((run / "checkpoints").glob("broken-*"))


def test_flipped_bits_are_noticed_and_nothing_starts_afresh_by_itself(reference, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(reference, run)
    newest = checkpoint_steps(run)[-1]
    path = array_files(run, newest)[0]
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(byte ^ 1 for byte in data[middle : middle + 64])
    path.write_bytes(data)
    output = train(run)
    assert f"checkpoints/{newest} cannot be read" in output
    assert losses(run) == losses(reference)
    for step in checkpoint_steps(run):
        array_files(run, step)[0].write_bytes(b"")
    for _ in range(2):
        assert f"none of its checkpoints can be read (broken-{newest}" in train(run, code=2)
    assert same_weights(run, reference)


def test_a_checksum_is_that_of_the_bits_on_any_mesh():
    tree = {"a": np.arange(1024, dtype=np.float32).reshape(64, 16), "b": np.ones(3, np.int32)}
    placed = jax.device_put(tree["a"], NamedSharding(make_mesh(4, 2), PartitionSpec(DATA, SPACE)))
    assert int(checksum(tree)) == int(checksum({**tree, "a": placed}))
    changed = tree["a"].copy()
    changed.view(np.uint32)[63, 15] ^= 1
    assert int(checksum(tree)) != int(checksum({**tree, "a": changed}))


def test_an_evaluation_that_fails_costs_no_step_and_is_made_up_for(reference, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(reference / "data", run / "data")
    (run / "predictions").write_text("where a folder should be")
    assert str(run / "predictions") in train(run, *EVALUATION, code=2)
    assert checkpoint_steps(run)[-1] == 6
    (run / "predictions").unlink()
    (run / "weights.safetensors").mkdir()  # the evaluation goes well, the export of its weights does not
    train(run, *EVALUATION, code=2)
    assert evaluations(run) == {}
    (run / "weights.safetensors").rmdir()
    output = train(run, *EVALUATION)
    assert "going on from step 6" in output
    scores = evaluations(run)
    assert list(scores) == [6, 12]
    assert losses(run) == losses(reference)
    best = max(scores, key=scores.get)
    assert load_weights(run / "weights.safetensors").extra["step"] == best


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    output = train(tmp_path, "--config.optimiser.learning_rate=1e30", "--config.optimiser.warmup_steps=0", code=2)
    assert "is not finite" in output
    assert "data/train0" in output  # names its clips


def test_a_full_disk_is_one_line_and_leaves_older_checkpoints(reference, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(reference, run)
    before = checkpoint_steps(run)
    for step in before[1:]:
        shutil.rmtree(run / "checkpoints" / str(step))
    largest = array_files(run, before[0])[0].stat().st_size
    output = train(run, limit=largest // 2, code=2)
    assert "the disk is full" in output
    assert checkpoint_steps(run) == before[:1]
    train(run)
    assert losses(run) == losses(reference)


def test_a_bad_set_is_refused_with_its_list_or_goes_on_without(reference, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(reference / "data", run / "data")
    flows = run / "data" / "Flows" / "480p"
    next((flows / "train02").glob("*.jpg")).unlink()
    cut = run / "data" / "JPEGImages" / "480p" / "train05" / "00001.jpg"
    cut.write_bytes(cut.read_bytes()[:100])
    recipe = FlowRecipe(camera="affine")
    for folder in flows.iterdir():
        (folder / "flow_recipe.json").write_text(recipe.to_json())
    output = train(run, "--config.data.generate=0", *own_data(run), code=2)
    assert "2 problems in 2 of 8 videos" in output
    assert "train02: none for 1 of 8 frames" in output
    assert str(cut) in output
    output = train(run, "--config.data.generate=0", *own_data(run), "--skip-bad")
    assert output.count("left out") == 2
    assert len(losses(run)) == 12
    assert load_weights(run / "weights.safetensors").flow_recipe == recipe


def own_data(run):
    """Arguments that train on a data set in the run's folder as on one that was not generated."""
    return f"--config.data.root={run}", "--config.data.sources=({'path': 'data', 'split': 'train'},)"


def test_a_corrupt_picture_is_named_and_skipped_or_fatal(reference, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(reference / "data", run / "data")
    for mask in (run / "data" / "Annotations" / "480p" / "train03").glob("*.png"):
        data = bytearray(mask.read_bytes())
        data[len(data) // 2 - 8 : len(data) // 2 + 8] = bytes(16)
        mask.write_bytes(bytes(data))
    output = train(run, "--config.data.on_corrupt=fatal", code=2)
    assert "Annotations/480p/train03" in output
    assert "compiled for" not in output  # nobody waits minutes for it
    output = train(run, "--config.data.on_corrupt=skip")
    assert "Annotations/480p/train03" in output
    assert len(losses(run)) == 12
