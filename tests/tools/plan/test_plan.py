"""Whole plans: on CPU devices that stand in for chips, and on a TPU's compiler where that is installed."""

import dataclasses
import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hmhi_jax.cli import app
from hmhi_jax.errors import InputError
from hmhi_jax.tools.plan import plan as planning
from hmhi_jax.tools.plan.plan import as_json, as_text, judge, make_plan
from hmhi_jax.tools.plan.programs import Measured
from hmhi_jax.tools.plan.run_config import changed, load_config
from hmhi_jax.tools.plan.topology import CHIPS, Topology, parse_topology

ROOT = Path(__file__).parents[3]
TINY = ROOT / "tests" / "training" / "tiny_run_config.py"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    """Measurements are kept for the module, and away from the user's."""
    monkeypatch.setenv("HMHI_CACHE", str(tmp_path_factory.getbasetemp() / "plans"))


@pytest.fixture
def config():
    return load_config(TINY)


def chips(memory=None):
    """Eight CPU devices as chips with some memory and invented figures."""
    chip = dataclasses.replace(CHIPS["cpu"], memory=memory, peak={"float32": 1e12}, link=1e10)
    return Topology(chip, (8,))


@pytest.mark.slow
def test_the_real_steps_on_eight_devices(config):
    made = make_plan(config, chips(), global_batch=16, lanes=1, chunk=2)
    (step,) = made.tried.values()
    measured = step.measured
    assert made.policy == "none"
    assert (step.per_chip, made.mesh) == (2, {"data": 8, "space": 1})
    assert measured.flops > 0
    assert measured.memory["argument"] > measured.memory["alias"] > 0  # the state is donated, the batch is not
    assert measured.needed < sum(measured.memory.values())
    # The gradient, and nothing else, goes between the chips; that of what every frame runs may go once a frame.
    assert {row.kind for row in measured.collectives} == {"all-reduce"}
    gradient = measured.memory["alias"] / 3  # of parameters and two moments
    exchanged = sum(row.bytes for row in measured.collectives)
    assert 0.9 * gradient < exchanged < config.data.frames * gradient
    assert {row.axes for row in measured.collectives} == {"data"}
    assert [bool(step.measured.collectives) for step in made.inference] == [False, False]

    text, values = as_text(made), as_json(made)
    assert "all-reduce along data (8 chips)" in text or "small exchanges" in text
    assert "--config.step.checkpoint=none" in text
    assert json.loads(json.dumps(values))["training"]["none"]["flops"] == measured.flops


@pytest.mark.slow
def test_the_same_per_chip_on_two_and_eight(config, monkeypatch):
    """Weak scaling; and a second plan takes what the first one left."""
    two = make_plan(config, Topology(chips().chip, (2,)), global_batch=4, inference=False).tried["none"].measured
    eight = make_plan(config, chips(), global_batch=16, inference=False).tried["none"].measured
    assert eight.flops == pytest.approx(two.flops, rel=0.01)
    assert eight.needed == pytest.approx(two.needed, rel=0.1)

    def refuse(*_):
        raise AssertionError("compiled again")

    monkeypatch.setattr("hmhi_jax.tools.plan.programs._compile", refuse)
    again = make_plan(config, chips(), global_batch=16, inference=False)
    assert again.tried["none"].measured == eight


def fake(needed, flops=1e9):
    memory = {"argument": needed // 2, "output": 0, "alias": 0, "temp": needed - needed // 2, "generated_code": 0}
    return Measured(memory, needed, False, flops, 2e-3, 1e-3, [("decoder", 1e-3)], [], 0, 1.0)


def test_policies_and_the_largest_batch(config, monkeypatch):
    """Leaner policies are tried until one fits, and the search goes on with that one."""
    monkeypatch.setattr(planning, "lower_training", lambda config, mesh, batch, policy: (mesh.size, batch, policy))
    share = {"none": 300, "read_outs": 200, "cheap": 150, "step": 100}
    asked = []

    def measure(lowered, topology, mesh):
        devices, batch, policy = lowered
        asked.append(lowered)
        return fake(50 + share[policy] * batch // devices)

    monkeypatch.setattr(planning, "measure", measure)
    made = make_plan(config, chips(memory=450), global_batch=16, inference=False)
    assert (list(made.tried), made.policy, made.largest) == (["none", "read_outs"], "read_outs", 2)
    assert made.fits
    assert {policy for devices, _, policy in asked if devices == 1} == {"read_outs"}
    assert "largest batch with read_outs: 2 clips a chip" in as_text(made)

    none_fits = make_plan(config, chips(memory=120), global_batch=16, inference=False)
    assert (none_fits.policy, none_fits.largest, none_fits.fits) == (None, 0, False)
    assert "does NOT fit" in as_text(none_fits)


def test_figures_against_the_chip():
    topology = parse_topology("v5e:2x2")
    step = judge("training step", 2.0, fake(15 << 30, flops=197e9), topology, "bfloat16")
    assert step.fits
    assert step.bound_seconds == pytest.approx(1e-3)
    assert step.utilisation == pytest.approx(0.5)
    assert not judge("training step", 2.0, fake(17 << 30), topology, "bfloat16").fits
    assert judge("training step", 2.0, fake(61 << 30), parse_topology("h100:8"), "bfloat16").fits is False


def test_config_changes(config):
    new = changed(config, ["model.dtype=bfloat16", "data.sizes=((96, 64),)", "data.frames=2"])
    assert (new.model.dtype, new.data.sizes, new.data.frames) == ("bfloat16", ((96, 64),), 2)
    for wrong in ("model.dtipe=x", "frames", "data.frames=many"):
        with pytest.raises(InputError, match="--set"):
            changed(config, [wrong])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--topology", "v9:2x2"], "--topology v9:2x2"),
        (["--topology", "cpu:8", "--config", "nothing.py"], "nothing.py: no such file"),
        (["--topology", "cpu:8", "--config", str(ROOT / "hmhi_jax" / "errors.py")], "no function get_config"),
        (["--topology", "cpu:8", "--config", str(ROOT / "configs" / "davis_eval.py")], "has no section model"),
        (["--topology", "cpu:8", "--global-batch", "12"], "12 clips cannot be split over 8 chips"),
        (["--topology", "cpu:8", "--checkpoint", "all"], "checkpoint policy 'all'"),
        (["--topology", "cpu:8", "--set", "mesh.space=3"], "mesh.space is 3"),
        (["--topology", "cpu:8", "--set", "mesh.space=4"], "32 rows on a mesh of 2 x 4"),
        (
            ["--topology", "cpu:8", "--set", "mesh.space=2", "--set", "data.sizes=((64, 64),)"],
            "64 rows on a mesh of 4 x 2",
        ),
    ],
)
def test_wrong_input_is_one_line(arguments, message):
    if "--config" not in arguments:
        arguments = [*arguments, "--config", str(TINY)]
    result = CliRunner().invoke(app, ["plan", *arguments])
    assert isinstance(result.exception, InputError)
    assert message in str(result.exception)
    assert "\n" not in str(result.exception)


def test_a_missing_extra_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "libtpu", None)
    result = CliRunner().invoke(app, ["plan", "--topology", "v5e:2x4", "--config", str(TINY)])
    assert isinstance(result.exception, InputError)
    assert "pip install 'hmhi-jax[plan-tpu]'" in str(result.exception)


@pytest.mark.plan
def test_a_tpu_without_a_tpu(config):
    """A real compilation for four v5e chips, of a small run."""
    pytest.importorskip("libtpu")
    made = make_plan(changed(config, ["model.dtype=bfloat16"]), parse_topology("v5e:2x2"), lanes=1, chunk=2)
    measured = made.tried["none"].measured
    assert made.fits
    assert made.largest > 8
    assert measured.flops > 0
    assert 0 < measured.seconds < 1
    assert any(row.kind == "all-reduce" and row.axes == "data" for row in measured.collectives)


@pytest.mark.plan
def test_a_gpu_without_a_gpu(config):
    pytest.importorskip("jax_plugins.xla_cuda12")
    made = make_plan(config, parse_topology("h100:4"), lanes=1, chunk=2, search=False)
    assert made.fits
    assert made.tried["none"].measured.flops > 0
    assert made.tried["none"].measured.collectives
