"""Folders of flow pictures. Of a whole data set: right frames, resumed, never mixed. Of a video: found by name, of the
frames' shape, or one clear line."""

import cv2
import numpy as np
import pytest
from made_datasets import cut_off, release_tree
from PIL import Image

from hmhi_jax.data.flow import FlowRecipe, draw_flow, flow_picture, write_flo
from hmhi_jax.data.flow_folder import (
    FlowFolder,
    FlowFormat,
    flow_fingerprint,
    flow_folder_of,
    flow_recipe_of,
    make_flow_pictures,
    missing_flows,
)
from hmhi_jax.data.layouts import open_dataset
from hmhi_jax.data.packing import pack_dataset
from hmhi_jax.data.pictures import read_picture
from hmhi_jax.errors import InputError

RECIPE = FlowRecipe(preset="ultrafast")
PNG = FlowFormat("png")
SIZE = (48, 80)


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


@pytest.fixture
def flows():
    rng = np.random.default_rng(0)
    return [cv2.resize(rng.normal(0, 3, (6, 10, 2)).astype(np.float32), SIZE[::-1]) for _ in range(3)]


def test_pictures_and_flo_files(tmp_path, flows):
    recipe = FlowRecipe(camera="affine")
    picture = draw_flow(flows[0], FlowRecipe())
    Image.fromarray(picture).save(tmp_path / "a.png")
    write_flo(tmp_path / "b.flo", flows[1])
    folder = FlowFolder(tmp_path, recipe, ["a", "b"])
    assert np.array_equal(folder("a", SIZE), picture)
    assert np.array_equal(folder("b", SIZE), draw_flow(flows[1], recipe))
    assert not np.array_equal(folder("b", SIZE), draw_flow(flows[1], FlowRecipe()))


def test_pictures_made_by_another_recipe_are_told(tmp_path, flows):
    made, wanted = FlowRecipe(size=(48, 80)), FlowRecipe(size=(24, 40), camera="affine")
    write_flo(tmp_path / "b.flo", flows[1])
    (tmp_path / "flow_recipe.json").write_text(made.to_json())
    assert FlowFolder(tmp_path, wanted).difference == ""  # .flo files are drawn as wanted
    Image.fromarray(draw_flow(flows[0], made)).save(tmp_path / "a.png")
    difference = FlowFolder(tmp_path, wanted).difference
    assert difference == "size (48, 80) instead of (24, 40), camera none instead of affine"
    assert FlowFolder(tmp_path, made).difference == ""
    (tmp_path / "flow_recipe.json").write_text("{")
    with pytest.raises(InputError, match=r"flow_recipe\.json: flow recipe: not JSON"):
        FlowFolder(tmp_path, wanted)
    (tmp_path / "flow_recipe.json").unlink()
    assert FlowFolder(tmp_path, wanted).difference == ""


def test_missing_ones_are_named_at_once(tmp_path, flows):
    write_flo(tmp_path / "00000.flo", flows[0])
    with pytest.raises(InputError, match=r"no flow for frame 00001, 00002, expected.*\(2 of 3 frames\)"):
        FlowFolder(tmp_path, FlowRecipe(), ["00000", "00001", "00002"])
    folder = FlowFolder(tmp_path, FlowRecipe())
    with pytest.raises(InputError, match=r"no flow for frame 00001.*the last frame's is the flow back"):
        folder("00001", SIZE)


def test_sizes(tmp_path, flows):
    for name, size in (("a", SIZE), ("b", (24, 40)), ("c", (48, 48))):
        Image.new("RGB", size[::-1]).save(tmp_path / f"{name}.png")
    folder = FlowFolder(tmp_path, FlowRecipe())
    assert folder("a", SIZE).shape == (48, 80, 3)
    assert folder("a", (480, 800)).shape == (48, 80, 3)  # made at a tenth
    with pytest.raises(InputError, match=r"b\.png: the flow is 40 x 24 pixels but a\.png is 80 x 48 pixels"):
        folder("b", SIZE)
    with pytest.raises(InputError, match=r"c\.png: the flow is 48 x 48 pixels but its frame is 80 x 48 pixels"):
        folder("c", SIZE)
    (tmp_path / "a.png").unlink()
    (tmp_path / "b.png").unlink()
    assert FlowFolder(tmp_path, FlowRecipe(size=(48, 48)))("c", SIZE).shape == (48, 48, 3)  # as the recipe makes it


def test_damaged_and_absent(tmp_path, flows):
    with pytest.raises(InputError, match="no such folder"):
        FlowFolder(tmp_path / "none", FlowRecipe())
    with pytest.raises(InputError, match="holds no flow pictures"):
        FlowFolder(tmp_path, FlowRecipe())
    write_flo(tmp_path / "a.flo", flows[0])
    (tmp_path / "b.png").write_text("no picture")
    folder = FlowFolder(tmp_path, FlowRecipe())
    with pytest.raises(InputError, match=r"b\.png: is no picture"):
        folder("b", SIZE)


def test_where_the_flow_of_a_video_lies(tmp_path):
    (tmp_path / "dog").mkdir()
    assert flow_folder_of(tmp_path, "dog", alone=False) == tmp_path / "dog"
    assert flow_folder_of(tmp_path, "dog", alone=True) == tmp_path / "dog"
    assert flow_folder_of(tmp_path, "cat", alone=True) == tmp_path
    with pytest.raises(InputError, match="cat: no such folder"):
        flow_folder_of(tmp_path, "cat", alone=False)


def test_a_link_to_nothing_is_named(tmp_path, flows):
    write_flo(tmp_path / "a.flo", flows[0])
    (tmp_path / "b.flo").symlink_to("/nowhere/b.flo")
    with pytest.raises(InputError, match=r"b\.flo: cannot be read \(No such file"):
        flow_fingerprint(tmp_path)
