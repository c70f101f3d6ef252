"""Batches on devices: the host's bytes, sharded over the mesh, a few ahead, with a state that counts what was used."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec
from made_datasets import cut_off, release_tree

from hmhi_jax.data.clips import ClipSampling
from hmhi_jax.data.device_batches import DeviceBatches, batch_shardings, network_inputs
from hmhi_jax.data.layouts import entries_of, open_dataset
from hmhi_jax.data.pictures import PictureError
from hmhi_jax.data.pipeline import ClipPipeline, PipelineConfig
from hmhi_jax.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD

CONFIG = PipelineConfig(batch_size=4, sizes=((32, 64),), seed=5, sampling=ClipSampling(frames=3), threads=2)


@pytest.fixture(scope="module")
def entries(tmp_path_factory):
    return entries_of([(open_dataset(release_tree(tmp_path_factory.mktemp("device") / "set", every=2)), 1)])


def host(entries, count):
    pipeline = ClipPipeline(entries, CONFIG)
    try:
        return [{name: np.array(value) for name, value in next(pipeline).items()} for _ in range(count)]
    finally:
        pipeline.close()


@pytest.fixture(scope="module")
def expected(entries):
    return host(entries, 6)


def test_values_steps_and_names(entries, expected):
    with DeviceBatches(ClipPipeline(entries, CONFIG)) as batches:
        for step, wanted in enumerate(expected):
            batch = next(batches)
            assert batch.step == step
            for name in ("frames", "flows", "masks", "valid"):
                np.testing.assert_array_equal(batch.arrays[name], wanted[name])
            assert batch.clips[0] == f"{wanted['video'][0]} {wanted['index'][0].tolist()}"
        assert batches.waited > 0


def test_over_a_mesh(entries, expected):
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("data", "space"))
    with DeviceBatches(ClipPipeline(entries, CONFIG), batch_shardings(mesh)) as batches:
        arrays = next(batches).arrays
    for name in ("frames", "flows", "masks", "valid"):
        np.testing.assert_array_equal(arrays[name], expected[0][name])
    assert arrays["frames"].sharding.spec == PartitionSpec("data", None, "space")
    assert {shard.data.shape for shard in arrays["frames"].addressable_shards} == {(1, 3, 16, 64, 3)}
    assert {shard.data.shape for shard in arrays["valid"].addressable_shards} == {(1, 3)}


def test_state_counts_what_was_handed_out_and_restores(entries, expected):
    batches = DeviceBatches(ClipPipeline(entries, CONFIG), depth=3)
    for _ in range(3):
        next(batches)
    state = batches.get_state()
    assert state["step"] == 3  # though more are ready
    next(batches)
    batches.set_state(state)
    batches.wait_for_next()
    assert batches.get_state() == state  # waiting takes nothing
    batch = next(batches)
    assert batch.step == 3
    np.testing.assert_array_equal(batch.arrays["frames"], expected[3]["frames"])
    batches.close()
    with pytest.raises(ValueError, match="closed"):
        next(batches)


def test_the_end_and_errors_come_through(entries, tmp_path):
    with DeviceBatches(ClipPipeline(entries, CONFIG, stop=2)) as batches:
        assert [batch.step for batch in batches] == [0, 1]
    root = release_tree(tmp_path / "set", videos=1, count=3)
    cut_off(root / "frame/train/video0/00001.jpg")
    config = dataclasses.replace(CONFIG, on_corrupt="fatal")
    with DeviceBatches(ClipPipeline(entries_of([(open_dataset(root), 1)]), config)) as batches:
        for _ in range(2):  # once broken, it stays so instead of waiting for ever
            with pytest.raises(PictureError, match=r"00001\.jpg"):
                batches.wait_for_next()
            with pytest.raises(PictureError, match=r"00001\.jpg"):
                next(batches)


def test_normalised_on_device(entries, expected):
    with DeviceBatches(ClipPipeline(entries, CONFIG)) as batches:
        frames, flows, masks, valid = jax.jit(network_inputs)(next(batches).arrays)
    assert {x.dtype for x in (frames, flows, masks, valid)} == {jnp.dtype("float32")}
    for found, name in ((frames, "frames"), (flows, "flows")):
        wanted = (expected[0][name] / 255 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    np.testing.assert_array_equal(masks, expected[0]["masks"])
    np.testing.assert_array_equal(valid, expected[0]["valid"])
