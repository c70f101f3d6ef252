"""Predictions of whole data sets: the same whatever the batch and the devices, restartable, in shares."""

import functools
import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image
from small_network import random_variables, small_model

from hmhi_jax.data.flow import FlowRecipe
from hmhi_jax.data.flow_folder import FlowFormat, make_flow_pictures
from hmhi_jax.data.layouts import open_dataset
from hmhi_jax.data.packing import pack_dataset
from hmhi_jax.errors import InputError
from hmhi_jax.evaluation import evaluate
from hmhi_jax.inference import dataset as dataset_module
from hmhi_jax.inference.dataset import DatasetPredictor
from hmhi_jax.inference.masks import read_logits
from hmhi_jax.inference.prediction_files import file_name
from hmhi_jax.inference.segmenter import VideoSegmenter

LENGTHS = {"ant": 7, "bee": 3, "cow": 5, "dog": 1}
SIZE = (64, 96)
RECIPE = FlowRecipe(preset="ultrafast", neighbours="both")


@pytest.fixture(scope="module")
def network():
    model = small_model(memory_frames=2, top_k=8)
    return model, random_variables(model)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Four short videos of a moving square, without any ground truth."""
    root = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    for number, (name, length) in enumerate(LENGTHS.items()):
        folder = root / "JPEGImages" / "480p" / name
        folder.mkdir(parents=True)
        ground = random.integers(0, 120, (70 + 40 * number, 110, 3), np.uint8)
        for t in range(length):
            picture = np.roll(ground, t, axis=1).copy()
            picture[20:50, 10 + 7 * t : 40 + 7 * t] = (230, 40 * number, 30)
            Image.fromarray(picture).save(folder / f"{t:05}.png")
    return root


@pytest.fixture(scope="module")
def predictor(network):
    """Predictors on some devices, each compiled once."""
    model, variables = network

    @functools.cache
    def make(devices=1, **options):
        return DatasetPredictor(
            model,
            variables,
            size=SIZE,
            flow_recipe=RECIPE,
            flow="estimate",
            devices=jax.devices()[:devices],
            **options,
        )

    return make


def pictures(folder):
    """Every prediction by video and file name."""
    return {f"{path.parent.name}/{path.name}": np.asarray(Image.open(path)) for path in sorted(folder.glob("*/*.png"))}


@pytest.fixture(scope="module")
def alone(predictor, videos, tmp_path_factory):
    """Predictions on one device, one video after the other."""
    out = tmp_path_factory.mktemp("alone")
    outcome = predictor().predict(open_dataset(videos), out, reading="plain")
    assert sorted(outcome.predicted) == sorted(LENGTHS)
    return out


def test_every_frame_is_there_at_its_own_size(alone):
    found = pictures(alone)
    assert set(found) == {f"{name}/{t:05}.png" for name, length in LENGTHS.items() for t in range(length)}
    for number, name in enumerate(LENGTHS):
        assert found[f"{name}/00000.png"].shape == (70 + 40 * number, 110)
    assert len(np.unique(found["ant/00003.png"])) > 20


def test_same_as_the_streaming_segmenter(network, videos, alone):
    model, variables = network
    segmenter = VideoSegmenter(model, variables, size=SIZE, flow_recipe=RECIPE)
    for name in ("ant", "dog"):
        frames = [np.asarray(Image.open(path)) for path in sorted((videos / "JPEGImages" / "480p" / name).iterdir())]
        for t, soft in enumerate(segmenter.stream(frames, soft=True, refine=False)):
            saved = np.asarray(Image.open(alone / name / f"{t:05}.png"))
            np.testing.assert_allclose(saved.astype(int), soft.astype(int), atol=1)


@pytest.mark.slow
def test_devices_and_neighbours_change_nothing(predictor, videos, alone, tmp_path):
    """Eight devices, half of them without a video."""
    predictor(8).predict(open_dataset(videos), tmp_path, reading="plain")
    expected = pictures(alone)
    for name, picture in pictures(tmp_path).items():
        np.testing.assert_array_equal(picture, expected.pop(name), err_msg=name)
    assert not expected


def test_a_video_on_its_own_and_other_chunks(predictor, videos, alone, tmp_path):
    """Chunks change nothing but which frames are encoded together: rounding, one level of 255 at most."""
    data = open_dataset(videos)
    data = data.with_videos(video for video in data.videos if video.name == "ant")
    predictor(chunk=3).predict(data, tmp_path, reading="plain")
    expected = pictures(alone)
    for name, picture in pictures(tmp_path).items():
        np.testing.assert_allclose(picture.astype(int), expected[name].astype(int), atol=1, err_msg=name)


@pytest.mark.slow
def test_several_lanes_of_a_device(predictor, videos, alone, tmp_path):
    several = predictor(lanes_per_device=3)
    several.predict(open_dataset(videos), tmp_path, reading="plain")
    expected = pictures(alone)
    for name, picture in pictures(tmp_path).items():
        np.testing.assert_allclose(picture.astype(int), expected[name].astype(int), atol=1, err_msg=name)


def test_interrupted_and_started_again(predictor, videos, alone, tmp_path, monkeypatch):
    """Killed while the third video is being written, then finished; what was done is not done again."""
    one = predictor()
    done = []
    finish = dataset_module.VideoFolder.finish

    def die(folder):
        if len(done) == 2:
            raise KeyboardInterrupt
        finish(folder)
        done.append(folder.folder.name)

    monkeypatch.setattr(dataset_module.VideoFolder, "finish", die)
    with pytest.raises(KeyboardInterrupt):
        one.predict(open_dataset(videos), tmp_path, reading="plain")
    monkeypatch.undo()
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == sorted(done)
    times = {name: (tmp_path / name / "00000.png").stat().st_mtime_ns for name in done}
    counted = []
    outcome = one.predict(open_dataset(videos), tmp_path, reading="plain", advance=counted.append)
    assert sorted(outcome.present) == sorted(done)
    assert sorted(outcome.predicted) == sorted(set(LENGTHS) - set(done))
    assert sum(counted) == sum(LENGTHS.values())
    assert {name: (tmp_path / name / "00000.png").stat().st_mtime_ns for name in done} == times
    expected = pictures(alone)
    for name, picture in pictures(tmp_path).items():
        np.testing.assert_array_equal(picture, expected[name])


def test_other_settings_are_refused(predictor, network, videos, alone):
    model, variables = network
    with pytest.raises(InputError, match=r"reading: ..plain.., now ..release.."):
        predictor().predict(open_dataset(videos), alone, reading="release")
    changed = jax.tree.map(lambda x: x + 1e-6, variables)
    with pytest.raises(InputError, match="weights"):
        DatasetPredictor(model, changed, size=SIZE, flow_recipe=RECIPE, flow="estimate").predict(
            open_dataset(videos), alone, reading="plain"
        )


def copied(videos, alone, tmp_path):
    """The same data set somewhere else, and predictions of it to go on with."""
    data = shutil.copytree(videos, tmp_path / "elsewhere" / videos.name)
    out = shutil.copytree(alone, tmp_path / "out")
    return data, data / "JPEGImages" / "480p", out


def test_a_data_set_that_was_moved_goes_on(predictor, videos, alone, tmp_path):
    data, _, out = copied(videos, alone, tmp_path)
    outcome = predictor().predict(open_dataset(data), out, reading="plain")
    assert sorted(outcome.present) == sorted(LENGTHS)


def test_other_frames_under_the_same_names_are_refused(predictor, videos, alone, tmp_path):
    data, frames, out = copied(videos, alone, tmp_path)
    for path in sorted((frames / "bee").iterdir()):
        Image.open(path).resize((55, 55)).save(path)
    with pytest.raises(InputError, match="its predictions of bee were made from other pictures"):
        predictor().predict(open_dataset(data), out, reading="plain")
    # Without its predictions the video is simply not predicted yet, as one that was repaired.
    shutil.rmtree(out / "bee")
    outcome = predictor().predict(open_dataset(data), out, reading="plain")
    assert (outcome.predicted, sorted(outcome.present)) == (["bee"], ["ant", "cow", "dog"])
    assert Image.open(out / "bee" / "00000.png").size == (55, 55)
    with pytest.raises(InputError, match="its predictions of bee were made from other pictures"):
        predictor().predict(open_dataset(videos), out, reading="plain")


def test_a_part_of_a_data_set_first(predictor, videos, alone, tmp_path):
    """What was noted of the other videos stays."""
    data, _, out = copied(videos, alone, tmp_path)
    data = open_dataset(data)
    part = data.with_videos(video for video in data.videos if video.name == "dog")
    predictor().predict(part, out, reading="plain")
    assert sorted(predictor().predict(data, out, reading="plain").present) == sorted(LENGTHS)


def test_predictions_of_an_older_version_are_refused(predictor, videos, alone, tmp_path):
    data, _, out = copied(videos, alone, tmp_path)
    note = out / "predictions.json"
    old = json.loads(note.read_text())
    del old["videos"]
    note.write_text(json.dumps(old))
    with pytest.raises(
        InputError, match="does not say from which pictures the predictions of ant and 3 more were made"
    ):
        predictor().predict(open_dataset(data), out, reading="plain")
    note.write_text("[3]")
    with pytest.raises(InputError, match=r"predictions\.json: cannot be read"):
        predictor().predict(open_dataset(data), out, reading="plain")


def test_what_tells_videos_apart(videos, tmp_path):
    data = open_dataset(videos)
    assert len({video.fingerprint(flows=False) for video in data.videos}) == len(LENGTHS)
    make_flow_pictures(open_dataset(videos, flows=tmp_path / "flows"), RECIPE, format=FlowFormat(), workers=1)
    data = open_dataset(videos, flows=tmp_path / "flows")
    packed = open_dataset(pack_dataset(data, tmp_path / "packed").folder)
    for video in (data.videos[0], packed.videos[0]):
        assert video.fingerprint(flows=True) != video.fingerprint(flows=False)
    moved = open_dataset(shutil.copytree(tmp_path / "packed", tmp_path / "moved"))
    for one, other in zip(packed.videos, moved.videos, strict=True):
        assert one.fingerprint(flows=True) == other.fingerprint(flows=True)


def test_hosts_share_a_data_set(predictor, videos, alone, tmp_path):
    data = open_dataset(videos)
    one = predictor()
    shares = [one.predict(data, tmp_path, reading="plain", host=host, hosts=2).predicted for host in (0, 1)]
    assert all(shares)
    assert sorted(shares[0] + shares[1]) == sorted(LENGTHS)
    expected = pictures(alone)
    for name, picture in pictures(tmp_path).items():
        np.testing.assert_array_equal(picture, expected.pop(name))
    assert not expected


def test_a_damaged_video_does_not_stop_the_others(predictor, videos, alone, tmp_path):
    damaged = tmp_path / "data"
    shutil.copytree(videos, damaged)
    (damaged / "JPEGImages" / "480p" / "ant" / "00005.png").write_bytes(b"no picture")
    out = tmp_path / "out"
    outcome = predictor().predict(open_dataset(damaged), out, reading="plain")
    assert list(outcome.failed) == ["ant"]
    assert "00005.png" in outcome.failed["ant"]
    assert sorted(outcome.predicted) == ["bee", "cow", "dog"]
    assert not [path for path in out.iterdir() if "ant" in path.name]
    expected = pictures(alone)
    for name, picture in pictures(out).items():
        np.testing.assert_array_equal(picture, expected[name])


@pytest.mark.parametrize("name", ["chunk", "lanes_per_device", "workers"])
def test_numbers_that_nothing_can_be_done_with_are_refused(network, name):
    with pytest.raises(InputError, match=f"{name} is -1"):
        DatasetPredictor(network[0], size=SIZE, **{name: -1})


def test_flow_pictures_that_are_there(network, videos, alone, tmp_path):
    """Made by the weights' recipe they are taken; estimated ones give the same, JPEG's losses aside."""
    model, variables = network
    data = open_dataset(videos, flows=tmp_path / "flows")
    lacking = DatasetPredictor(model, variables, size=SIZE, flow_recipe=RECIPE, flow="files")
    with pytest.raises(InputError, match="hmhi flow"):
        lacking.predict(data, tmp_path / "none")
    make_flow_pictures(data, RECIPE, format=FlowFormat(), workers=1)
    data = open_dataset(videos, flows=tmp_path / "flows")
    chosen = DatasetPredictor(model, variables, size=SIZE, flow_recipe=RECIPE, devices=jax.devices()[:1])
    chosen.predict(data, tmp_path / "out", reading="plain")
    assert json.loads((tmp_path / "out" / "predictions.json").read_text())["flow"] == "files"
    expected = pictures(alone)
    differences = [
        np.abs(picture.astype(int) - expected[name].astype(int)).mean()
        for name, picture in pictures(tmp_path / "out").items()
    ]
    assert 0 < np.mean(differences) < 12
    make_flow_pictures(data, RECIPE, format=FlowFormat(quality=40), workers=1, overwrite=True)
    with pytest.raises(InputError, match=r"its predictions of ant and 3 more were made from other pictures"):
        chosen.predict(open_dataset(videos, flows=tmp_path / "flows"), tmp_path / "out", reading="plain")
    other = DatasetPredictor(model, variables, size=SIZE, flow_recipe=FlowRecipe(camera="affine"))
    assert not other.takes_flow_files(data)


def test_files_in_the_releases_layout_are_scored_alike(predictor, videos, alone, tmp_path):
    predictor().predict(open_dataset(videos), tmp_path / "out", reading="plain", layout="release")
    assert (tmp_path / "out" / "bee" / "bee_00002.png").is_file()
    for name in LENGTHS:
        for t in range(LENGTHS[name]):
            truth = np.zeros((70, 110), np.uint8)
            truth[20:50, 10 + 7 * t : 40 + 7 * t] = 255
            path = tmp_path / "gt" / name / f"{t:05}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(truth).save(path)
    ours = evaluate(alone, tmp_path / "gt", ["davis16"])[0]
    theirs = evaluate(tmp_path / "out", tmp_path / "gt", ["davis16"])[0]
    assert ours.figures == theirs.figures
    assert ours.complete
    assert theirs.complete


def test_sizes_after_each_videos_shape(network, videos, tmp_path):
    model, variables = network
    shaped = DatasetPredictor(
        model, variables, size="auto", input_size=SIZE, flow_recipe=RECIPE, devices=jax.devices()[:1]
    )
    data = open_dataset(videos)
    assert len({shaped.network_size(video) for video in data.videos}) > 1
    data = data.with_videos(video for video in data.videos if video.name in ("bee", "dog"))
    outcome = shaped.predict(data, tmp_path)
    assert sorted(outcome.predicted) == ["bee", "dog"]


def test_readings():
    logits = np.array([[-3.0, 0.0], [0.5, 1.0]], np.float32)
    probability = 1 / (1 + np.exp(-logits))
    np.testing.assert_array_equal(read_logits(logits, (2, 2), "plain"), np.rint(255 * probability))
    stretched = read_logits(logits, (2, 2), "release")
    assert stretched.min() == 0
    assert stretched.max() == 255
    # An empty frame is stretched to full contrast too: that is what the release does.
    empty = np.linspace(-9, -8, 12, dtype=np.float32).reshape(3, 4)
    assert read_logits(empty, (3, 4), "plain").max() == 0
    assert read_logits(empty, (3, 4), "release").max() >= 254
    # 0.5 is the border of both worlds: rounding puts probabilities above 128.5 / 255 in front.
    assert file_name("dog", "00001", "release") == "dog_00001.png"
    assert file_name("dog", "dog_00001", "release") == "dog_00001.png"
    assert file_name("dog", "00001", "davis") == "00001.png"
