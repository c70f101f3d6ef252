"""Which checkpoints a run goes on from, which are set aside, and which stop it and stay as they are."""

import errno
import logging
import os
import re
import shutil
import sys

import jax
import numpy as np
import optax
import pytest

from hmhi_jax.errors import InputError
from hmhi_jax.interop import load_weights
from hmhi_jax.interop.checkpoint_folders import SEAL, damage, read_run
from hmhi_jax.interop.weight_places import checkpoint_of
from hmhi_jax.training.checkpoints import Checkpoints, abstract, checksum
from hmhi_jax.training.mesh import make_mesh, replicated
from hmhi_jax.training.step import make_state

PARAMS = {"encoder": {"kernel": np.arange(6000, dtype=np.float32).reshape(60, 100)}, "bias": np.ones(3, np.float32)}


def state_at(step: int):
    params = jax.tree.map(lambda x: jax.numpy.asarray(x + step), PARAMS)
    return make_state({"params": params}, optax.adam(0.1), 0, True).replace(step=np.int32(step))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A run's folder with checkpoints of the steps 3 and 6."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    checkpoints = Checkpoints(folder)
    for step in (3, 6):
        checkpoints.save(state_at(step), {"position": step}, {"config": {}, "versions": {"jax": "0.0"}})
    checkpoints.close()
    return folder


@pytest.fixture
def run(written, tmp_path):
    shutil.copytree(written, tmp_path / "run")
    return tmp_path / "run"


def restored(run, check=lambda stored: None):
    checkpoints = Checkpoints(run)
    like = abstract(jax.eval_shape(lambda: state_at(0)), replicated(make_mesh(1, 1, jax.devices()[:1])))
    try:
        return checkpoints.restore_newest(like, check), checkpoints.warnings
    finally:
        checkpoints.close()


def names(run) -> set[str]:
    return {path.name for path in (run / "checkpoints").iterdir()}


def largest(run, step: int):
    files = [path for path in (run / "checkpoints" / str(step) / "state").rglob("*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


def test_the_newest_comes_back_to_the_bit(run):
    for step in (3, 6):
        assert damage(run / "checkpoints" / str(step)) is None
        assert (run / "checkpoints" / str(step) / SEAL).is_file()
    found, warnings = restored(run)
    assert (found.step, found.data, warnings) == (6, {"position": 6}, [])
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), found.state, state_at(6)))


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda run: cut(largest(run, 6)), r"state/.*: [\d,]+ bytes instead of [\d,]+"),
        (lambda run: flip(largest(run, 6)), r"state/.*: its checksum differs"),
        (lambda run: largest(run, 6).unlink(), r"state/.* is missing"),
        (lambda run: shutil.rmtree(run / "checkpoints" / "6" / "state"), "its part state is missing"),
        (lambda run: cut(run / "checkpoints" / "6" / "data" / "metadata"), "data/metadata is missing or no JSON"),
        (lambda run: (run / "checkpoints" / "6" / "run" / "metadata").unlink(), "run/metadata is missing or no JSON"),
    ],
)
def test_known_damage_sets_a_checkpoint_aside(run, damage, words, capfd):
    damage(run)
    found, (warning,) = restored(run)
    assert found.step == 3
    assert re.search(rf"checkpoints/6 cannot be read \({words}\); it is now broken-6", warning)
    np.testing.assert_array_equal(found.state.params["bias"], PARAMS["bias"] + 3)
    assert names(run) == {"3", "broken-6"}
    assert "Traceback" not in "".join(capfd.readouterr())


def test_weights_are_not_taken_from_a_damaged_checkpoint(run, capfd):
    cut(largest(run, 6))
    for read in (load_weights, read_run):
        with pytest.raises(InputError, match=r"checkpoints/6: is damaged \(state/.*; take another"):
            read(run)
    assert "Traceback" not in "".join(capfd.readouterr())
    assert names(run) == {"3", "6"}


def test_where_all_are_damaged_nothing_starts_afresh(run):
    for step in (3, 6):
        flip(largest(run, step))
    for _ in range(2):
        with pytest.raises(InputError, match=r"none of its checkpoints can be read \(broken-3, broken-6\)"):
            restored(run)


def test_a_checksum_is_the_sum_of_all_bits():
    """Of checkpoints that there are: it must not change."""
    tree = {
        "float32": np.float32([[1], [-1]]), "bfloat16": jax.numpy.bfloat16(1), "bool": np.array([True, False, True]),
        "int64": np.int64([2**32 + 7, -1]), "empty": np.zeros((0, 3), np.float32),
    }  # fmt: skip
    assert checksum(tree) == (0x3F800000 + 0xBF800000 + 0x3F80 + 2 + 8 + 2 * 0xFFFFFFFF) % 2**32


def test_arrays_that_are_not_those_that_were_saved(run):
    (run / "checkpoints" / "6" / SEAL).unlink()
    record = run / "checkpoints" / "6" / "run" / "metadata"
    number = str(checksum(state_at(6)))
    assert number in record.read_text()
    record.write_text(record.read_text().replace(number, str(int(number) ^ 1)))
    found, (warning,) = restored(run)
    assert found.step == 3
    assert "the checksum differs" in warning


@pytest.mark.parametrize("error", [KeyError("item_metadata"), ValueError("unknown version 9"), MemoryError("no room")])
def test_any_other_failure_stops_and_touches_nothing(run, monkeypatch, error):
    def fails(*_, **__):
        raise error

    before = names(run)
    with monkeypatch.context() as patched:
        patched.setattr("orbax.checkpoint.CheckpointManager.restore", fails)
        with pytest.raises(
            InputError, match=r"checkpoints/6: cannot be read here \(\w+Error: .*left as it is"
        ) as caught:
            restored(run)
    assert "written by jax 0.0, read by hmhi_jax " in str(caught.value)
    assert names(run) == before
    assert restored(run)[0].step == 6


def test_settings_are_compared_before_anything_is_renamed(run):
    def refuse(stored):
        raise InputError("other settings")

    flip(largest(run, 6))
    with pytest.raises(InputError, match="other settings"):
        restored(run, refuse)
    assert names(run) == {"3", "6"}


def test_hooks_and_loggers_of_others_stay_as_they_are(tmp_path):
    def everything():
        return sys.excepthook, sys.unraisablehook, *(logging.getLogger(n).level for n in ("absl", "asyncio", ""))

    before = everything()
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state_at(1), {"position": 1}, {"config": {}}, wait=True)
    checkpoints.close()
    restored(tmp_path)
    assert everything() == before


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_disk_without_room_is_known_before_anything_is_written(run, monkeypatch, number):
    def full(descriptor, offset, size):
        assert size == sum(x.nbytes for x in jax.tree.leaves(state_at(9)))
        raise OSError(number, os.strerror(number))

    before, checkpoints = names(run), Checkpoints(run)
    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_fallocate", full)
        with pytest.raises(InputError, match=r"the disk is full, .*complete ones: 3, 6\); free space"):
            checkpoints.save(state_at(9), {"position": 9}, {"config": {}})
    assert names(run) == before
    checkpoints.save(state_at(9), {"position": 9}, {"config": {}}, wait=True)  # when there is room
    checkpoints.close()
    assert restored(run)[0].step == 9


def test_the_checkpoint_that_evaluations_found_best_stands_for_a_run(tmp_path):
    for lowest, best in ((False, "4"), (True, "2")):
        run = tmp_path / best
        checkpoints = Checkpoints(run, keep_last=3, best_metric="J", lowest_is_best=lowest)
        for step, score in ((2, 0.25), (4, 0.75), (6, None)):
            record = {"config": {}, "best_metric": "J", "lowest_is_best": lowest}
            checkpoints.save(state_at(step), {"position": step}, record)
            if score is not None:
                checkpoints.record(step, {"J": score})
        checkpoints.close()
        assert checkpoint_of(run).name == best
        assert checkpoint_of(run, newest=True).name == "6"
        assert checkpoint_of(run / "checkpoints" / "6").name == "6"
