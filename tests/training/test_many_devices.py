"""The same run on one device, on eight, in two processes of four; and from one mesh to another."""

import shutil
import socket

import numpy as np
import pytest
from training_process import checkpoint_steps, finish, losses, start, train

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


def test_two_processes_give_the_losses_of_one(on_one, tmp_path):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    where = (f"--coordinator=localhost:{port}", "--num_processes=2")
    processes = [start(tmp_path, *where, f"--process_index={index}", devices=4) for index in range(2)]
    outputs = [finish(process) for process in processes]
    same_losses(on_one, tmp_path)
    assert "step 12/12" in outputs[0]
    assert "step 12/12" not in outputs[1]


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
