"""Flow that is already there: found by name, of the frames' shape, or one clear line."""

import cv2
import numpy as np
import pytest
from PIL import Image

from hmhi_jax.data.flow import FlowRecipe, draw_flow, write_flo
from hmhi_jax.data.flow_folder import FlowFolder, flow_fingerprint, flow_folder_of
from hmhi_jax.errors import InputError

SIZE = (48, 80)


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
