"""Flow pictures of a whole data set: right frames, resumed, never mixed."""

import numpy as np
import pytest
from made_datasets import cut_off, release_tree

from hmhi_jax.data.dataset_packing import pack_dataset
from hmhi_jax.data.flow import FlowRecipe, flow_picture
from hmhi_jax.data.flow_pictures import FlowFormat, flow_recipe_of, make_flow_pictures, missing_flows
from hmhi_jax.data.layouts import open_dataset
from hmhi_jax.data.pictures import read_picture
from hmhi_jax.errors import InputError

RECIPE = FlowRecipe(preset="ultrafast")
PNG = FlowFormat("png")


@pytest.fixture
def root(tmp_path):
    """Two videos of eleven frames (more than one task each) without flow pictures, and one of a single frame."""
    root = release_tree(tmp_path / "set", videos=2, count=11)
    for folder in (root / "flow").rglob("video*"):
        for path in folder.iterdir():
            path.unlink()
    for kind, suffix in (("frame", "jpg"), ("mask", "png")):
        (root / kind / "train/single").mkdir()
        source = root / kind / "train/video0" / f"00000.{suffix}"
        (root / kind / "train/single" / source.name).write_bytes(source.read_bytes())
    return root


def make(root, recipe=RECIPE, format=PNG, **options):
    done = []
    problems = make_flow_pictures(open_dataset(root), recipe, format=format, advance=done.append, **options)
    return problems, sum(done)


def test_each_picture_is_the_flow_to_the_next_frame_the_last_back(root):
    assert missing_flows(open_dataset(root)) == 23
    assert make(root) == ([], 23)
    dataset = open_dataset(root)
    assert missing_flows(dataset) == 0
    assert flow_recipe_of(dataset) == RECIPE
    for video in dataset.videos:
        frames = [read_picture(frame) for frame in video.frames]
        others = [*frames[1:], frames[-2] if len(frames) > 1 else frames[0]]
        for flow, first, second in zip(video.flows, frames, others, strict=True):
            np.testing.assert_array_equal(read_picture(flow), flow_picture(first, second, RECIPE))
    assert not list(root.rglob("*.partial"))


def test_jpeg_is_near(root):
    make(root)
    exact = [read_picture(flow).astype(int) for flow in open_dataset(root).videos[1].flows]
    assert make(root, format=FlowFormat("jpg", 95), overwrite=True) == ([], 23)
    assert not list((root / "flow").rglob("*.png"))
    for flow, picture in zip(open_dataset(root).videos[1].flows, exact, strict=True):
        assert flow.suffix == ".jpg"
        assert np.abs(read_picture(flow) - picture).mean() < 4


def test_what_is_there_stays_and_only_the_rest_is_made(root):
    make(root)
    flows = sorted((root / "flow").rglob("*.png"))
    before = {path: path.stat().st_mtime_ns for path in flows}
    for path in flows[3:6]:
        path.unlink()
    assert make(root) == ([], 3)
    after = {path: path.stat().st_mtime_ns for path in sorted((root / "flow").rglob("*.png"))}
    assert after.keys() == before.keys()
    assert [path for path in flows if before[path] != after[path]] == flows[3:6]
    assert make(root) == ([], 0)


def test_pictures_of_another_recipe_are_not_mixed_in(root):
    make(root)
    (root / "flow/train/video0/00004.png").unlink()
    with pytest.raises(InputError, match=r"video0: 10 of 11 flow pictures are there, made with .*use --overwrite"):
        make(root, FlowRecipe(preset="ultrafast", camera="affine"))
    (root / "flow/train/video0/flow_recipe.json").unlink()
    with pytest.raises(InputError, match="made in an unknown way"):
        make(root)
    assert make(root, FlowRecipe(preset="ultrafast", camera="affine"), overwrite=True) == ([], 23)
    assert flow_recipe_of(open_dataset(root)).camera == "affine"


def test_videos_made_in_different_ways_are_told(root):
    make(root)
    (root / "flow/train/video0/flow_recipe.json").write_text(FlowRecipe().to_json())
    with pytest.raises(InputError, match="made in different ways"):
        flow_recipe_of(open_dataset(root))


def test_broken_frames_are_listed_and_the_others_made(root):
    cut_off(root / "frame/train/video0/00005.jpg")
    problems, done = make(root, workers=2)
    assert done == 23
    assert len(problems) == 2  # it is needed for two flows
    assert all("video0/00005.jpg: is damaged" in problem for problem in problems)
    video = next(video for video in open_dataset(root).videos if video.name == "video0")
    assert [frame for frame in range(11) if not video.flows.has(frame)] == [4, 5]


def test_another_folder(root, tmp_path):
    dataset = open_dataset(root, flows=tmp_path / "flows")
    make_flow_pictures(dataset, RECIPE, format=PNG)
    assert (tmp_path / "flows/video1/00010.png").exists()
    assert missing_flows(open_dataset(root, flows=tmp_path / "flows")) == 0
    assert missing_flows(open_dataset(root)) == 23


def test_read_only_data_sets_are_left_alone_even_by_root(root):
    for folder in (root / "flow/train/video0", root / "flow/train/video1", root / "flow/train", root / "flow"):
        folder.chmod(0o555)
    try:
        with pytest.raises(InputError, match=r"is read-only.*--out"):
            make(root)
    finally:
        for folder in (root / "flow", root / "flow/train", *(root / "flow/train").iterdir()):
            folder.chmod(0o755)
    assert missing_flows(open_dataset(root)) == 23


def test_a_full_disk_says_which_file(root, monkeypatch):
    def no_space(path, data):
        raise OSError(28, "No space left on device")

    dataset = open_dataset(root)
    monkeypatch.setattr("pathlib.Path.write_bytes", no_space)
    with pytest.raises(InputError, match=r"00000\.png: cannot be written \(No space left on device\)"):
        make_flow_pictures(dataset, RECIPE, format=PNG)


def test_packed_data_sets(root, tmp_path):
    make(root)
    pack_dataset(open_dataset(root), tmp_path / "packed")
    packed = open_dataset(tmp_path / "packed")
    assert flow_recipe_of(packed) == RECIPE
    with pytest.raises(InputError, match="is packed; make flow pictures of the folder it came from"):
        make_flow_pictures(packed, RECIPE, format=PNG)


@pytest.mark.parametrize(("field", "value"), [("suffix", "gif"), ("quality", 0)])
def test_nonsense_is_refused(field, value):
    with pytest.raises(InputError, match="flow pictures"):
        FlowFormat(**{field: value})
