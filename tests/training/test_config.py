"""Configs: every file gives one, and what may not change is named."""

import importlib
import importlib.util
import re
from pathlib import Path

import pytest

from hmhi_jax.data.layouts import Dataset
from hmhi_jax.errors import InputError
from hmhi_jax.evaluation.protocols import find_protocol
from hmhi_jax.models import build_model
from hmhi_jax.runs.evaluate import EvaluationSet
from hmhi_jax.runs.train import best_metric
from hmhi_jax.training import assemble
from hmhi_jax.training.config import check_same, default_config, differences, model_defaults, to_plain

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
TRAINING = ("ytvos_mit_b1", "davis_mit_b1", "ytvos_swin_tiny", "vsod_mit_b1", "smoke", "tiny_synthetic")


@pytest.mark.parametrize("name", TRAINING)
def test_every_training_config_assembles(name, monkeypatch):
    monkeypatch.syspath_prepend(str(CONFIGS.parent))
    spec = importlib.util.spec_from_file_location(name, CONFIGS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert "python train.py --config configs/" in module.__doc__
    config = module.get_config()
    parts = assemble.assemble(config, steps=100)
    assert parts.sizes == assemble.pipeline_config(config).sizes
    assert parts.when.total == 100
    assert parts.evaluated_model.memory_frames == (config.evaluation.memory_frames or config.model.memory_frames)
    total, every = assemble.steps_of(config, clips_per_epoch=160)
    assert 0 < every <= total


@pytest.mark.parametrize("name", ["small_synthetic", "small_davis"])
def test_stages_differ_in_length_and_data_alone(name, monkeypatch):
    monkeypatch.syspath_prepend(str(CONFIGS.parent))
    module = importlib.import_module(f"configs.{name}")
    for stage in module.STAGES:
        config = module.get_config(stage)
        pipeline = assemble.pipeline_config(config)
        assert pipeline.sampling.frames == (12 if "long" in stage else 5 if stage.startswith("cpu") else 6)
        assert bool(config.data.rendered) == ("rendered" in stage)
        assert config.data.sources or config.data.rendered
        for source in assemble.sources_of(config) if config.data.sources else ():
            assert source.path.name != "davis" or bool(source.without) == ("all" not in stage)
    with pytest.raises(ValueError, match=f"write configs/{name}.py:short or :long"):
        module.get_config("middle")


def test_the_videos_to_choose_by_are_not_trained_on(monkeypatch):
    monkeypatch.syspath_prepend(str(CONFIGS.parent))
    config = importlib.import_module("configs.small_davis").get_config("long-rendered")
    (davis,) = assemble.sources_of(config)
    (held_out,) = config.evaluation.sets
    assert set(davis.without) == set(held_out["videos"])
    assert len(davis.without) == 5
    # As many clips of DAVIS as made-up ones, within one video's share.
    assert abs(davis.repeats * 25 - config.data.rendered[0]["clips"]) < 25


def test_differences_are_named_and_free_fields_are_not():
    config = default_config()
    stored = to_plain(config)
    config.mesh.space = 2
    config.steps = 5
    assert differences(stored, to_plain(config)) == []
    config.optimiser.learning_rate = 1.0
    config.data.batch_size = 2
    lines = differences(stored, to_plain(config))
    assert lines == ["data.batch_size: checkpoint 8, now 2", "optimiser.learning_rate: checkpoint 6e-05, now 1.0"]
    assert differences(stored, to_plain(config), ("data.batch_size", "optimiser")) == []
    with pytest.raises(InputError, match=r"data\.batch_size: checkpoint 8, now 2; optimiser"):
        check_same(stored, to_plain(config), "run")


def test_the_figure_that_tells_the_best_is_one_that_evaluations_give():
    config = default_config()
    nothing = Dataset("nothing", CONFIGS, "davis", None, ())
    davis = EvaluationSet("davis", nothing, (find_protocol("davis16"),))
    both = EvaluationSet("both", nothing, (find_protocol("vsod"), find_protocol("davis16-inner")))
    assert best_metric(config, ()) == ("", False)
    assert best_metric(config, [davis, both]) == ("davis/JF_mean", False)
    assert best_metric(config, [both]) == ("both/vsod/MAE", True)
    config.evaluation.best_metric = "both/davis16-inner/J_mean"
    assert best_metric(config, [both]) == ("both/davis16-inner/J_mean", False)
    with pytest.raises(InputError, match=r"best_metric is 'both/davis16-inner/J_mean', expected one of davis/JF_mean"):
        best_metric(config, [davis])


def test_wrong_values_are_refused_with_the_field():
    config = default_config()
    with pytest.raises(InputError, match=r"config\.steps is 0 and config\.epochs 0\.0"):
        assemble.steps_of(config, 10)
    for sources, text in (
        ({"path": "d"}, r"config\.data\.sources is path: d\s+, expected a tuple"),
        (({"split": "train"},), r"config\.data\.sources\[0\]: has no path"),
        (({"path": "d", "repeats": 1.5},), r"config\.data\.sources\[0\]\.repeats is 1\.5"),
        (({"path": "d", "flow": "f"},), r"config\.data\.sources\[0\]: unknown flow, expected path, "),
    ):
        with config.ignore_type():
            config.data.sources = sources
        with pytest.raises(InputError, match=text):
            assemble.sources_of(config)
    for sizes, text in (
        ((64, 64), r"config\.data\.sizes is \(64, 64\)"),
        (((64, 100),), r"config\.data\.sizes: network size is 64 x 100 "),
    ):
        config.data.sizes = sizes
        with pytest.raises(InputError, match=text):
            assemble.sizes_of(config)
    config.step.frames = "rolled"
    with pytest.raises(InputError, match=r"config\.step\.frames is 'rolled'"):
        assemble.step_arguments(config)
    config.model.backbone = "mit_b9"
    with pytest.raises(InputError, match="mit_b9"):
        assemble.model_of(config)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("steps", -1, "a finite number, 0 or more"),
        ("steps", 5.0, "a finite number, 0 or more"),
        ("step.dropout", "no", "True or False"),  # a text that counts as true
        ("data.skip_bad", 1, "True or False"),
        ("data.reading", None, "a text"),
        ("optimiser.frozen", "^encoder", "a tuple"),  # whose letters would be patterns
        ("epochs", float("inf"), "a finite number, 0 or more"),
        ("data.batch_size", 0, "a finite number, 1 or more"),
        ("data.workers", 10**9, "from 0 to 1024"),
        ("optimiser.learning_rate", -1.0, "a finite number, more than 0"),
        ("optimiser.learning_rate", float("inf"), "a finite number, more than 0"),
        ("optimiser.b2", 1.0, "at least 0 and less than 1"),
        ("optimiser.final_fraction", 1.5, "from 0 to 1"),
        ("optimiser.weight_decay", float("nan"), "a finite number, 0 or more"),
        ("step.accumulate", 0, "a finite number, 1 or more"),
        ("step.ema_decay", 1.5, "at least 0 and less than 1"),
        ("step.map_weight", float("nan"), "a finite number, 0 or more"),
        ("checkpoints.keep_last", 0, "a finite number, 1 or more"),
        ("logging.every_steps", 0, "a finite number, 1 or more"),
    ],
)
def test_numbers_are_refused_before_anything_is_made(field, value, expected):
    config = default_config()
    section, _, name = field.rpartition(".")
    with config.ignore_type():
        (config[section] if section else config)[name] = value
    with pytest.raises(
        InputError, match=rf"^config\.{re.escape(field)} is {re.escape(repr(value))}, expected {expected}$"
    ):
        assemble.assemble(config)


@pytest.mark.parametrize("crop", [5, (0.5,), ("a", "b")])
def test_a_crop_is_two_shares(crop):
    config = default_config()
    with config.ignore_type():
        config.data.crop = crop
    with pytest.raises(InputError, match=r"^config\.data\.crop is .*, expected two shares"):
        assemble.pipeline_config(config)


def test_switches_are_refused_with_the_field():
    config = default_config()
    for field, value, text in (
        ("memory_frames", 10**6, r"^config\.model: memory_frames is 1000000, expected a whole number from 1 to 1000$"),
        ("drop_path", float("nan"), r"^config\.model: drop_path is nan, expected at least 0 and less than 1, or None$"),
    ):
        config.model = model_defaults()
        config.model[field] = value
        with pytest.raises(InputError, match=text):
            assemble.model_of(config)
    config.evaluation.memory_frames = 0
    with pytest.raises(InputError, match=r"^config\.evaluation\.memory_frames is 0, expected a whole number"):
        assemble.evaluated(config, build_model())


def test_frames_are_written_out_where_that_is_faster():
    config = default_config()
    unrolled = {name: assemble.step_arguments(config, name)["unroll"] for name in ("cpu", "tpu", "cuda")}
    assert unrolled == {"cpu": True, "tpu": True, "cuda": False}
    assert assemble.step_arguments(config)["unroll"]  # the tests run on CPU
    config.step.frames = "scanned"
    assert not assemble.step_arguments(config, "tpu")["unroll"]
