"""Names of chips and shapes, and clear words where a compiler is missing."""

import importlib.util

import pytest

from hmhi_jax.errors import InputError
from hmhi_jax.kernels.platforms import DTYPES
from hmhi_jax.tools.plan import topology
from hmhi_jax.tools.plan.topology import CHIPS, check_installed, devices_of, memory_text, parse_topology, target_config


@pytest.mark.parametrize(
    ("text", "chip", "shape", "count"),
    [
        ("v5e:16x16", "v5e", (16, 16), 256),
        ("V5P:4x4x8", "v5p", (4, 4, 8), 128),
        ("v4", "v4", (1, 1, 1), 1),
        ("h100:4x8", "h100", (4, 8), 32),
        ("a100:8", "a100", (1, 8), 8),
        ("cpu:8", "cpu", (8,), 8),
    ],
)
def test_topologies(text, chip, shape, count):
    found = parse_topology(text)
    assert (found.chip.name, found.shape, found.count) == (chip, shape, count)
    assert found.single().count == 1
    assert parse_topology(str(found)) == found


@pytest.mark.parametrize("text", ["", "v9:2x2", "v5e:2x2x2", "v5e:0x4", "v5p:4x4", "v5e-16", "h100:2x2x2"])
def test_topologies_that_are_none(text):
    with pytest.raises(InputError, match="--topology"):
        parse_topology(text)


@pytest.mark.parametrize(("name", "extra"), [("v5e", "plan-tpu"), ("h100", "plan-cuda")])
def test_a_missing_compiler_is_named_with_its_extra(name, extra, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    with pytest.raises(InputError, match=extra):
        check_installed(CHIPS[name])
    with pytest.raises(InputError, match=extra):
        devices_of(parse_topology(name))


def test_cpu_devices():
    assert len(devices_of(parse_topology("cpu:8"))) == 8
    with pytest.raises(InputError, match="host_platform_device_count=999"):
        devices_of(parse_topology("cpu:999"))


def test_descriptions_of_gpus():
    text = target_config(CHIPS["h100"])
    assert "core_count: 132" in text
    assert "major: 9 minor: 0" in text
    assert text.count("{") == text.count("}")


def test_chips_have_their_figures():
    for chip in CHIPS.values():
        if chip.platform != "cpu":
            assert chip.peak["bfloat16"] > 1e14
            assert set(chip.peak) == set(DTYPES)
            assert chip.peak["bfloat16"] > chip.peak["tensorfloat32"] > chip.peak["float32"]
            assert chip.memory > 10 * topology.GIB


def test_bytes_for_people():
    assert [memory_text(n) for n in (12, 3 << 10, 5 << 20, 3 << 29)] == ["12 B", "3.0 KiB", "5.0 MiB", "1.50 GiB"]
