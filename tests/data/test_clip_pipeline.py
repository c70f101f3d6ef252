"""Batches as a function of (seed, step): workers, shards, restarts, packing; and pictures that break under way."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from made_datasets import cut_off, damage, release_tree

from hmhi_jax.data.augmentation import NONE, Augmentation
from hmhi_jax.data.clips import ClipSampling
from hmhi_jax.data.layouts import Source, entries_of, open_dataset, open_sources
from hmhi_jax.data.masks import read_mask
from hmhi_jax.data.packing import PackedForm, pack_dataset
from hmhi_jax.data.pictures import PictureError, read_picture
from hmhi_jax.data.pipeline import BatchLoader, ClipPipeline, PipelineConfig
from hmhi_jax.errors import InputError

CONFIG = PipelineConfig(
    batch_size=4,
    sizes=((32, 64), (64, 64)),
    seed=7,
    sampling=ClipSampling(frames=3),
    augmentation=Augmentation(crop=(0.5, 1.0)),
    reading="fast",
    threads=2,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return release_tree(tmp_path_factory.mktemp("data") / "set", every=2)


@pytest.fixture(scope="module")
def entries(folder):
    return entries_of([(open_dataset(folder), 1)])


def batches(entries, count, start=0, config=CONFIG, **options):
    pipeline = ClipPipeline(entries, config, **options)
    pipeline.set_state(pipeline.state_at(start))
    try:
        return [{name: np.array(value) for name, value in next(pipeline).items()} for _ in range(count)]
    finally:
        pipeline.close()


def assert_equal(some, others):
    assert len(some) == len(others)
    for one, other in zip(some, others, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_shapes_and_types(entries):
    seen = set()
    for step, batch in enumerate(batches(entries, 8)):
        height, width = BatchLoader(entries, CONFIG).size(step)
        seen.add((height, width))
        assert batch["frames"].shape == batch["flows"].shape == (4, 3, height, width, 3)
        assert batch["masks"].shape == (4, 3, height, width, 1)
        assert batch["frames"].dtype == batch["flows"].dtype == batch["masks"].dtype == np.uint8
        assert set(np.unique(batch["masks"])) <= {0, 1}
        assert batch["valid"].dtype == bool
        assert batch["index"].shape == (4, 3)
        assert all(name.startswith("set/video") for name in batch["video"])
    assert seen == set(CONFIG.sizes)


def test_what_is_in_a_batch_is_what_is_on_disk(entries):
    config = dataclasses.replace(CONFIG, augmentation=NONE, reading="exact")
    by_name = {entry.name: entry.video for entry in entries}
    for batch in batches(entries, 2, config=config):
        size = batch["frames"].shape[2:4]
        for clip, name in enumerate(batch["video"]):
            video = by_name[str(name)]
            for place, frame in enumerate(batch["index"][clip]):
                np.testing.assert_array_equal(batch["frames"][clip, place], read_picture(video.frames[frame], size))
                np.testing.assert_array_equal(batch["flows"][clip, place], read_picture(video.flows[frame], size))
                assert batch["valid"][clip, place] == (frame % 2 == 0)
                expected = read_mask(video.masks[frame], size) if frame % 2 == 0 else 0
                np.testing.assert_array_equal(batch["masks"][clip, place], expected)


def test_frames_that_seem_to_stand_still_keep_all_but_their_flow(entries):
    still = dataclasses.replace(CONFIG, augmentation=dataclasses.replace(CONFIG.augmentation, still=0.5))
    whole, lost = (batches(entries, 6, config=config) for config in (CONFIG, still))
    gone = []
    for one, other in zip(whole, lost, strict=True):
        for name in ("frames", "masks", "index"):
            np.testing.assert_array_equal(one[name], other[name])
        same = (one["flows"] == other["flows"]).all((2, 3, 4))
        white = (other["flows"] == 255).all((2, 3, 4))
        assert (same | white).all()
        assert same[:, 0].all()  # the first frame, which reads no memory, keeps its flow
        gone.append(white[:, 1:])
    assert 0.3 < np.mean(gone) < 0.7


def test_flow_of_other_videos_changes_nothing_else(entries):
    """A clip's flow pictures come from any video then, windowed and mirrored like the clip's own."""
    swapped = dataclasses.replace(CONFIG, augmentation=dataclasses.replace(CONFIG.augmentation, other_flow=0.5))
    whole, changed = (batches(entries, 8, config=config) for config in (CONFIG, swapped))
    others = []
    for one, other in zip(whole, changed, strict=True):
        for name in ("frames", "masks", "index", "valid"):
            np.testing.assert_array_equal(one[name], other[name])
        others.append((one["flows"] != other["flows"]).any((1, 2, 3, 4)))
    assert 0.2 < np.mean(others) < 0.7  # a quarter of those drawn get their own video, and perhaps the same frames
    assert_equal(changed, batches(entries, 8, config=dataclasses.replace(swapped, workers=1)))
    # With a single video, whose frames are all taken, the other one is itself.
    alone = [entry for entry in entries if entry.name == "set/video0"]
    every = dataclasses.replace(CONFIG, sampling=ClipSampling(frames=9, reach=9), batch_size=1)
    always = dataclasses.replace(every, augmentation=dataclasses.replace(every.augmentation, other_flow=1.0))
    assert_equal(batches(alone, 2, config=every), batches(alone, 2, config=always))


def test_lost_and_noisy_flow_change_nothing_else(entries):
    changes = {"no_flow": 0.4, "flow_noise": 0.4}
    wary = dataclasses.replace(CONFIG, augmentation=dataclasses.replace(CONFIG.augmentation, **changes))
    whole, changed = (batches(entries, 8, config=config) for config in (CONFIG, wary))
    lost, noisy = [], []
    for one, other in zip(whole, changed, strict=True):
        for name in ("frames", "masks", "index", "valid"):
            np.testing.assert_array_equal(one[name], other[name])
        lost.append((other["flows"] == 255).all((1, 2, 3, 4)))
        noisy.append((one["flows"] != other["flows"]).any((1, 2, 3, 4)) & ~lost[-1])
    assert 0.2 < np.mean(lost) < 0.6
    assert np.mean(noisy) > 0.1


def test_some_videos_of_a_data_set(folder):
    (only,), (rest,) = (
        open_sources([Source(folder, **choice)])
        for choice in ({"videos": ("video2", "video0")}, {"without": ("video1", "video2")})
    )
    assert [video.name for video in only[0].videos] == ["video2", "video0"]
    assert [video.name for video in rest[0].videos] == ["video0", "video3"]
    with pytest.raises(InputError, match=r"has no video cat; it has video0, video1"):
        open_sources([Source(folder, without=("cat",))])


def test_an_epoch_has_every_video_as_often_as_repeated(folder, tmp_path):
    other = release_tree(tmp_path / "other", videos=3, count=4)
    sources = [Source(folder, repeats=2), Source(other, repeats=3, split="train", name="more")]
    entries = entries_of(open_sources(sources))
    assert len(entries) == 2 * 4 + 3 * 3
    loader = BatchLoader(entries, CONFIG)
    epochs = [[loader.entry(17 * epoch + n).name for n in range(17)] for epoch in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == sorted(
            2 * [f"set/video{n}" for n in range(4)] + 3 * [f"more/video{n}" for n in range(3)]
        )
    assert epochs[0] != epochs[1] != epochs[2]
    other_seed = BatchLoader(entries, dataclasses.replace(CONFIG, seed=8))
    assert [other_seed.entry(n).name for n in range(17)] != epochs[0]


def test_the_same_seed_gives_the_same_batches_another_does_not(entries):
    first = batches(entries, 3)
    assert_equal(first, batches(entries, 3))
    other = batches(entries, 3, config=dataclasses.replace(CONFIG, seed=8))
    assert any(one["frames"].shape != two["frames"].shape or (one["frames"] != two["frames"]).any()
               for one, two in zip(first, other, strict=True))  # fmt: skip


def test_batches_do_not_depend_on_threads_or_workers(entries):
    first = batches(entries, 5)
    assert_equal(first, batches(entries, 5, config=dataclasses.replace(CONFIG, threads=1, buffer=1)))
    assert_equal(first, batches(entries, 5, config=dataclasses.replace(CONFIG, workers=2)))


def test_hosts_share_a_batch(entries):
    whole = batches(entries, 3)
    parts = [batches(entries, 3, shard=shard, shards=2) for shard in range(2)]
    for step, batch in enumerate(whole):
        for name in batch:
            np.testing.assert_array_equal(batch[name], np.concatenate([part[step][name] for part in parts]))
    with pytest.raises(InputError, match="batch_size is 4, expected a multiple of the 3 processes"):
        ClipPipeline(entries, CONFIG, shards=3)


def test_state_is_json_and_goes_on_where_it_was(entries):
    whole = batches(entries, 6)
    pipeline = ClipPipeline(entries, CONFIG)
    for _ in range(4):
        next(pipeline)
    state = json.loads(json.dumps(pipeline.get_state()))
    next(pipeline)
    pipeline.set_state(state)
    assert pipeline.step == 4
    assert_equal([next(pipeline) for _ in range(2)], whole[4:])
    pipeline.close()
    assert_equal(batches(entries, 2, start=4, config=dataclasses.replace(CONFIG, workers=1)), whole[4:])


def test_state_of_other_data_is_refused(entries):
    state = ClipPipeline(entries, CONFIG).get_state()
    with pytest.raises(InputError, match=r"seed is 7 in the checkpoint, 9 in the configuration"):
        ClipPipeline(entries, dataclasses.replace(CONFIG, seed=9)).set_state(state)
    with pytest.raises(InputError, match=r"clips is 4 in the checkpoint, 2 in the configuration"):
        ClipPipeline(entries[:2], CONFIG).set_state(state)


def test_state_in_grain_s_checkpoint_handler(entries, tmp_path):
    import grain

    pipeline = ClipPipeline(entries, CONFIG)
    next(pipeline)
    next(pipeline)
    handler = grain.checkpoint.CheckpointHandler()
    handler.save(tmp_path, pipeline)
    again = handler.restore(tmp_path, ClipPipeline(entries, CONFIG))
    assert_equal([next(again)], [next(pipeline)])
    again.close()
    pipeline.close()


def test_it_stops_where_told(entries):
    pipeline = ClipPipeline(entries, CONFIG, stop=2)
    assert len(list(pipeline)) == 2


def test_folder_and_shards_give_the_same_batches(folder, entries, tmp_path):
    pack_dataset(open_dataset(folder), tmp_path / "packed", frames_per_shard=10)
    packed = open_dataset(tmp_path / "packed")
    assert packed.layout == "packed"
    assert_equal(batches(entries, 4), batches(entries_of([(packed, 1)]), 4))


def test_shards_without_loss_at_training_size_give_the_same_batches(folder, entries, tmp_path):
    config = dataclasses.replace(CONFIG, sizes=((32, 64),), augmentation=Augmentation(), reading="exact")
    pack_dataset(open_dataset(folder), tmp_path / "small", PackedForm(size=(32, 64), quality=0))
    small = entries_of([(open_dataset(tmp_path / "small"), 1)])
    assert_equal(batches(entries, 4, config=config), batches(small, 4, config=config))


# --- Broken pictures -------------------------------------------------------------------------------------------------


@pytest.fixture
def broken(tmp_path):
    """Eight videos; one frame of the first, a flow picture of the second and a mask of the third are broken."""
    root = release_tree(tmp_path / "set", videos=8, count=3)
    cut_off(root / "frame/train/video0/00001.jpg")
    damage(root / "flow/train/video1/00001.jpg")
    damage(root / "mask/train/video2/00001.png")
    return root


@pytest.mark.parametrize("workers", [0, 1])
def test_broken_pictures_are_replaced_and_reported(broken, workers, caplog):
    entries = entries_of([(open_dataset(broken), 1)])
    config = dataclasses.replace(CONFIG, workers=workers)  # clips of 3 of 3 frames: every clip of a video is broken
    pipeline = ClipPipeline(entries, config)
    found = [next(pipeline) for _ in range(4)]
    pipeline.close()
    whole = {f"set/video{n}" for n in range(3, 8)}
    assert all(set(batch["video"]) <= whole for batch in found)
    assert_equal(found, batches(entries, 4))
    for path in ("frame/train/video0/00001.jpg", "flow/train/video1/00001.jpg", "mask/train/video2/00001.png"):
        assert f": {broken / path}: " in caplog.text


@pytest.mark.parametrize("workers", [0, 1])
def test_broken_pictures_are_fatal_when_asked(broken, workers):
    config = dataclasses.replace(CONFIG, on_corrupt="fatal", workers=workers)
    pipeline = ClipPipeline(entries_of([(open_dataset(broken), 1)]), config, stop=10)
    with pytest.raises(PictureError, match=rf"{broken}/\w+/train/video\d/00001.*a frame of set/video\d"):
        list(pipeline)
    pipeline.close()


def test_when_nothing_can_be_read_training_ends(broken):
    config = dataclasses.replace(CONFIG, batch_size=1)
    entries = tuple(entry for entry in entries_of([(open_dataset(broken), 1)]) if entry.name[-1] in "012")
    pipeline = ClipPipeline(entries, config)
    with pytest.raises(PictureError, match="8 clips in a row cannot be read"):
        next(pipeline)
    pipeline.close()


def test_missing_flow_says_what_to_do(tmp_path):
    root = release_tree(tmp_path / "set", videos=1, count=3)
    (root / "flow/train/video0/00001.jpg").unlink()
    config = dataclasses.replace(CONFIG, on_corrupt="fatal")
    pipeline = ClipPipeline(entries_of([(open_dataset(root), 1)]), config)
    with pytest.raises(PictureError, match=r"no flow picture for frame 00001; make it with `hmhi flow`"):
        next(pipeline)
    pipeline.close()


def test_videos_without_masks_are_refused(tmp_path):
    root = release_tree(tmp_path / "set", videos=1, count=3)
    for mask in (root / "mask/train/video0").iterdir():
        mask.unlink()
    with pytest.raises(InputError, match="set/video0: no frame has a mask"):
        ClipPipeline(entries_of([(open_dataset(root), 1)]), CONFIG)


@pytest.mark.parametrize(
    ("field", "value"), [("batch_size", 0), ("sizes", ((33, 64),)), ("on_corrupt", "ignore"), ("reading", "slow")]
)
def test_nonsense_is_refused(field, value):
    with pytest.raises(InputError, match=field):
        dataclasses.replace(CONFIG, **{field: value})


# --- Worker processes that die ---------------------------------------------------------------------------------------


def children(process: int) -> list[int]:
    text = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process)], capture_output=True, text=True).stdout
    return [int(word) for word in text.split()]


def python_children(process: int) -> list[int]:
    """Worker processes, not multiprocessing's resource tracker."""
    found = []
    for child in children(process):
        try:
            command = Path(f"/proc/{child}/cmdline").read_text()
        except FileNotFoundError:
            continue
        if "spawn_main" in command:
            found.append(child)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_a_killed_worker_is_an_error_not_a_hang(entries):
    before = set(python_children(os.getpid()))
    pipeline = ClipPipeline(entries, dataclasses.replace(CONFIG, workers=1), stop=20)
    next(pipeline)
    (worker,) = set(python_children(os.getpid())) - before
    os.kill(worker, signal.SIGKILL)
    with pytest.raises(RuntimeError, match=r"a data worker died while making the batch of step \d+"):
        list(pipeline)
    pipeline.close()


_PARENT = """
import sys, time
from hmhi_jax.data.layouts import open_dataset
from hmhi_jax.data.layouts import entries_of
from hmhi_jax.data.pipeline import ClipPipeline, PipelineConfig
if __name__ == "__main__":
    pipeline = ClipPipeline(entries_of([(open_dataset(sys.argv[1]), 1)]), PipelineConfig(sizes=((32, 32),), workers=1))
    next(pipeline)
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_workers_ignore_sigterm_and_end_with_their_killed_parent(folder, tmp_path):
    (tmp_path / "parent.py").write_text(_PARENT)
    parent = subprocess.Popen([sys.executable, tmp_path / "parent.py", folder], stdout=subprocess.PIPE, text=True)
    try:
        assert parent.stdout.readline() == "ready\n"
        (worker,) = python_children(parent.pid)
        os.kill(worker, signal.SIGTERM)
        time.sleep(0.5)
        assert python_children(parent.pid) == [worker]
    finally:
        parent.kill()
        parent.wait()
    for _ in range(100):
        if not os.path.exists(f"/proc/{worker}"):
            break
        time.sleep(0.1)
    assert not os.path.exists(f"/proc/{worker}")
