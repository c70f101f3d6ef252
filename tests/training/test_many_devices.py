"""The same run on one device, on eight, in two processes of four; and from one mesh to another."""

import shutil
import signal
import socket
from types import SimpleNamespace

import numpy as np
import pytest
from training_process import EVALUATION, checkpoint_steps, evaluations, finish, losses, signal_after, start, train

from hmhi_jax.training.mesh import by_process

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def on_one(tmp_path_factory):
    folder = tmp_path_factory.mktemp("devices") / "one"
    train(folder, "--profile")
    return folder


@pytest.fixture(scope="module")
def on_eight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("devices") / "eight"
    train(folder, devices=8)
    return folder


def same_losses(one, other):
    assert losses(one).keys() == losses(other).keys()
    np.testing.assert_allclose(list(losses(one).values()), list(losses(other).values()), rtol=1e-5)


def test_eight_devices_give_the_losses_of_one(on_one, on_eight):
    same_losses(on_one, on_eight)
    assert list((on_one / "profile").rglob("*.xplane.pb"))


def start_two(folder, *of_second):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    where = (f"--coordinator=localhost:{port}", "--num_processes=2", *EVALUATION)
    own = ((), of_second)
    return [start(folder, *where, f"--process_index={index}", *own[index], devices=4) for index in range(2)]


def test_one_that_cannot_read_its_weights_stops_both(tmp_path):
    absent = str(tmp_path / "absent.safetensors")
    processes = start_two(tmp_path, f"--config.init_from={absent}")
    outputs = [finish(process, code=2) for process in processes]
    assert f"error: process 1 of 2 is lost ({absent}" in outputs[0]
    assert f"error: {absent}" in outputs[1]


def test_two_processes_stop_together_and_give_the_losses_of_one(on_one, tmp_path):
    processes = start_two(tmp_path)
    signal_after(processes[1], tmp_path, 2, signal.SIGINT)  # only one of them is told
    outputs = [finish(processes[0]), finish(processes[1], code=130)]
    stopped = checkpoint_steps(tmp_path)[-1]
    assert f"SIGTERM: saved step {stopped}" in outputs[0]
    outputs = [finish(process) for process in start_two(tmp_path)]
    assert f"going on from step {stopped}" in outputs[0]
    same_losses(on_one, tmp_path)
    assert list(evaluations(tmp_path)) == [6, 12]
    assert (tmp_path / "weights.safetensors").is_file()
    assert "step 12/12" in outputs[0]
    assert "step 12/12" not in outputs[1]


def test_the_chips_of_a_process_stand_side_by_side():
    """As on a TPU slice, where numbers go along its rows and a host has a block of it."""
    chips = [SimpleNamespace(id=i, process_index=i % 4 // 2) for i in range(8)]
    assert [chip.id for chip in by_process(chips)] == [0, 1, 4, 5, 2, 3, 6, 7]


def test_a_checkpoint_of_eight_devices_goes_on_with_four_and_then_one(on_eight, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(on_eight, run)
    newest, *_ = reversed(checkpoint_steps(run))
    shutil.rmtree(run / "checkpoints" / str(newest))
    output = train(run, devices=4)
    assert f"going on from step {checkpoint_steps(on_eight)[-2]}" in output
    same_losses(on_eight, run)
    shutil.rmtree(run / "checkpoints" / str(newest))
    train(run, devices=1)
    same_losses(on_eight, run)
