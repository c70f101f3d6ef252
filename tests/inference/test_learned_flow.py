"""Flow pictures by a flow network: data sets, videos, several devices, and recipes that belong to weights."""

import dataclasses
import re

import jax
import numpy as np
import pytest
from goldens import flow_cases
from small_videos import moving_square, save_network, write_video
from typer.testing import CliRunner

from hmhi_jax.cli import app
from hmhi_jax.data.flow import FlowRecipe, draw_flow, estimate_flow, flow_picture
from hmhi_jax.data.flow_folder import FlowFormat, flow_recipe_of, make_flow_pictures
from hmhi_jax.data.layouts import open_dataset
from hmhi_jax.data.pictures import read_picture
from hmhi_jax.errors import InputError
from hmhi_jax.flow_models import estimate_flow as network_flow
from hmhi_jax.inference.dataset import DatasetPredictor
from hmhi_jax.inference.learned_flow import LearnedFlow
from hmhi_jax.inference.segmenter import VideoSegmenter
from hmhi_jax.interop.conversion import write_torch_checkpoint

SIZE = (128, 136)


@pytest.fixture(scope="module")
def flow_weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("flow") / "raft_small.pth"
    write_torch_checkpoint(path, flow_cases.load("raft_small").state_dict)
    return path


@pytest.fixture(scope="module")
def network(flow_weights):
    return LearnedFlow.load(flow_weights, FlowRecipe(normalisation="robust"), iterations=2)


@pytest.fixture
def root(tmp_path):
    """Two videos of four frames in the release's layout."""
    from PIL import Image

    for video in range(2):
        for number, picture in enumerate(moving_square(4, SIZE, seed=video)):
            for kind, suffix, data in (("frame", "png", picture), ("mask", "png", picture[..., 0] // 128 * 255)):
                path = tmp_path / "set" / kind / "val" / f"video{video}" / f"{number:05}.{suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(data).save(path)
    return tmp_path / "set"


def close(one, other):
    """Equal but for rounding, which may move a vector across the seam of the colour wheel."""
    difference = np.abs(one.astype(int) - other)
    assert one.shape == other.shape
    assert (difference > 1).mean() < 1e-3


def run(*words):
    result = CliRunner().invoke(app, [str(word) for word in words])
    if isinstance(result.exception, InputError):
        raise result.exception
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def test_a_picture_is_the_network_s_flow_drawn(network):
    first, second = moving_square(2, SIZE)
    case = flow_cases.load("raft_small")
    flow = np.asarray(network_flow(case.model, case.variables, first[None], second[None], 2)[0])
    close(network.picture(first, second), draw_flow(flow, network.recipe))
    assert network.recipe.network == "raft_small"
    assert network.recipe.iterations == 2


def test_both_neighbours_and_the_camera(flow_weights):
    recipe = FlowRecipe(neighbours="both", camera="affine", normalisation="robust", size=(128, 128))
    network = LearnedFlow.load(flow_weights, recipe, iterations=2)
    before, frame, after = moving_square(3, SIZE)
    found = network.picture(frame, after, before)
    assert found.shape == (128, 128, 3)
    one_sided = network.picture(frame, after)
    assert (found != one_sided).any()
    forward = LearnedFlow.load(flow_weights, dataclasses.replace(recipe, neighbours="next"), iterations=2)
    close(one_sided, forward.picture(frame, after))
    together = network.pictures({0: before, 1: frame, 2: after}, [(0, 1, None), (1, 2, 0), (2, 1, None)])
    close(together[1], found)


def test_a_picture_does_not_depend_on_its_batch(flow_weights, network):
    frames = dict(enumerate(moving_square(5, SIZE)))
    wanted = [(0, 1, None), (1, 2, 0), (2, 3, 1), (3, 4, 2), (4, 3, None)]
    batched = LearnedFlow.load(flow_weights, network.recipe, batch=3)
    alone, together = network.pictures(frames, wanted), batched.pictures(frames, wanted)
    for one, other in zip(alone, together, strict=True):
        close(one, other)
    np.testing.assert_array_equal(together[4], batched.pictures(frames, wanted[4:])[0])


def test_hmhi_flow_goes_on_where_it_stopped_and_refuses_others(root, flow_weights, network):
    options = ("--estimator", "raft", "--flow-weights", flow_weights, "--iterations", "2", "--normalisation", "robust")
    output = run("flow", root, *options, "--devices", "2", "--format", "png")
    assert "8 flow pictures to make" in output
    dataset = open_dataset(root)
    assert flow_recipe_of(dataset) == network.recipe
    frames = [read_picture(frame) for frame in dataset.videos[1].frames]
    made = {path: path.read_bytes() for path in (root / "flow").rglob("*.png")}
    close(read_picture(dataset.videos[1].flows[0]), network.picture(frames[0], frames[1]))
    close(read_picture(dataset.videos[1].flows[3]), network.picture(frames[3], frames[2]))
    lost = sorted(made)[::3]
    for path in lost:
        path.unlink()
    assert f"{len(lost)} flow pictures to make" in run("flow", root, *options, "--format", "png")
    for path, data in made.items():
        assert path.read_bytes() == data, path
    lost[0].unlink()
    with pytest.raises(InputError, match=r"3 of 4 flow pictures are there, made with .*raft_small"):
        run("flow", root, *options[:-2], "--format", "png")


def test_a_frame_that_cannot_be_read_costs_its_own_pictures_only(root, network):
    broken = root / "frame" / "val" / "video0" / "00002.png"
    broken.write_bytes(broken.read_bytes()[:300])
    dataset = open_dataset(root)
    problems = make_flow_pictures(dataset, network.recipe, format=FlowFormat("png"), estimators=[network])
    assert len(problems) == 3  # the flow to it, from it, and back to it
    assert all("00002.png" in problem for problem in problems)
    assert sum(video.flows.has(n) for video in open_dataset(root).videos for n in range(4)) == 5


def test_videos_are_segmented_with_it(tmp_path, flow_weights, network):
    weights = save_network(tmp_path / "net.safetensors", network.recipe)
    frames = moving_square(3, SIZE)
    segmenter = VideoSegmenter.load(weights, flow_weights=flow_weights)
    masks = list(segmenter.stream(frames, soft=True))
    flows = [network.picture(frames[0], frames[1]), network.picture(*frames[1:]), network.picture(frames[2], frames[1])]
    given = list(VideoSegmenter.load(weights).stream(frames, flows=flows, soft=True))
    assert max(np.abs(a.astype(int) - b).max() for a, b in zip(masks, given, strict=True)) <= 2
    clip = write_video(tmp_path / "clip.mp4", frames)
    run("segment", clip, "--out", tmp_path / "out", "--weights", weights, "--flow", "raft", "--flow-weights",
        flow_weights, "--no-overlay")  # fmt: skip
    assert len(list((tmp_path / "out" / "masks").glob("*.png"))) == 3
    summary = (tmp_path / "out" / "summary.json").read_text()
    assert network.recipe.weights in summary
    with pytest.raises(InputError, match="is for '--flow raft', but flow is 'dis'"):
        run("segment", clip, "--out", tmp_path / "no", "--flow-weights", flow_weights)


def test_weights_that_want_it_find_theirs_in_the_hub_cache_or_say_what_is_missing(tmp_path, monkeypatch, network):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    weights = save_network(tmp_path / "net.safetensors", network.recipe)
    frames = moving_square(3, SIZE)
    with pytest.raises(InputError, match="flow weights 'raft_small': no such file, and none of that name"):
        next(VideoSegmenter.load(weights).stream(frames))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    state_dict = flow_cases.load("raft_small").state_dict
    write_torch_checkpoint(folder / "raft_small_C_T_V2-01064c6d.pth", state_dict)
    assert len(list(VideoSegmenter.load(weights).stream(frames))) == 3
    bias = "update_block.flow_head.conv2.bias"
    write_torch_checkpoint(folder / "raft_small_C_T_V2-01064c6d.pth", state_dict | {bias: state_dict[bias] + 1})
    with pytest.raises(InputError, match=r"its weights \(raft_small, checksum .*\) are not those of the flow recipe"):
        next(VideoSegmenter.load(weights).stream(frames))


def test_data_sets_are_predicted_with_it(tmp_path, monkeypatch, root, flow_weights, network):
    weights = save_network(tmp_path / "net.safetensors", network.recipe)
    dataset = open_dataset(root)
    predictor = DatasetPredictor.load(weights, flow_weights=flow_weights, devices=jax.local_devices()[:1])
    outcome = predictor.predict(dataset, tmp_path / "estimated", reading="plain")
    assert sorted(outcome.predicted) == ["video0", "video1"]
    assert not outcome.failed
    make_flow_pictures(dataset, network.recipe, format=FlowFormat("png"), estimators=[network])
    outcome = predictor.predict(open_dataset(root), tmp_path / "files", reading="plain")
    assert sorted(outcome.predicted) == ["video0", "video1"]
    for path in (tmp_path / "files").rglob("*.png"):
        other = tmp_path / "estimated" / path.relative_to(tmp_path / "files")
        assert np.abs(read_picture(path).astype(int) - read_picture(other)).max() <= 2
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    named = DatasetPredictor.load(weights, flow="estimate", devices=jax.local_devices()[:1], lanes_per_device=2)
    with pytest.raises(InputError, match="flow weights 'raft_small': no such file, and none of that name"):
        named.predict(dataset, tmp_path / "named", reading="plain")
    cache = tmp_path / "hub" / "checkpoints" / "raft_small_C_T_V2-01064c6d.pth"
    cache.parent.mkdir(parents=True)
    cache.write_bytes(flow_weights.read_bytes())
    assert sorted(named.predict(dataset, tmp_path / "named", reading="plain").predicted) == ["video0", "video1"]
    for path in (tmp_path / "named").rglob("*.png"):
        other = tmp_path / "estimated" / path.relative_to(tmp_path / "named")
        assert np.abs(read_picture(path).astype(int) - read_picture(other)).max() <= 2


def test_what_another_estimator_has_makes_no_other_recipe(flow_weights, network):
    recipe = FlowRecipe(normalisation="robust", preset="ultrafast")
    assert LearnedFlow.load(flow_weights, recipe, iterations=2).recipe == network.recipe


def test_recipes_of_raft(network):
    recipe = network.recipe
    assert FlowRecipe.from_json(recipe.to_json()) == recipe
    assert "preset" not in recipe.to_json()
    assert "network" not in FlowRecipe().to_json()
    first, second = moving_square(2, SIZE)
    for call in (estimate_flow, flow_picture):
        with pytest.raises(InputError, match="raft_small's, whose weights are needed; name them with --flow-weights"):
            call(first, second, recipe)
    for fields, message in (
        ({"network": "raft"}, "network is 'raft', expected one of 'raft_large', 'raft_small'"),
        ({"iterations": 0}, "iterations is 0, expected a whole number from 1 to 1000"),
        ({"weights": "abc"}, "weights is 'abc', expected a SHA-256 checksum"),
        ({"size": (96, 160)}, "size is (96, 160), expected (height, width), whole numbers from 128 to 8192"),
        ({"estimator": "dis"}, "network is 'raft_small', which only the estimator 'raft' has"),
    ):
        with pytest.raises(InputError, match=re.escape(message)):
            dataclasses.replace(recipe, **fields)


def test_frames_it_cannot_use_are_one_line_each(network):
    first, second = moving_square(2, (120, 160))
    with pytest.raises(InputError, match="frames are 120 x 160, expected at least 128 pixels each way for RAFT"):
        network.picture(first, second)
    with pytest.raises(InputError, match="frames of 128 x 136 and 120 x 160"):
        network.picture(moving_square(1, SIZE)[0], first)
