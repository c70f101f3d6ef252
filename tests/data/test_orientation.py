"""One rule of orientation: EXIF's, for frames, flow pictures and masks, of folders, packed data sets and files."""

import io
import json

import numpy as np
import pytest
from made_datasets import HEIGHT, WIDTH, frame_picture, object_mask
from PIL import Image, ImageOps

from hmhi_jax.data.flow import FlowRecipe, flow_picture
from hmhi_jax.data.flow_folder import FlowFolder, FlowFormat, make_flow_pictures
from hmhi_jax.data.inspection import inspect_dataset
from hmhi_jax.data.layouts import open_dataset
from hmhi_jax.data.masks import read_mask, read_truth
from hmhi_jax.data.packing import PackedForm, pack_dataset
from hmhi_jax.data.pictures import picture_size, read_picture
from hmhi_jax.data.video_files import FrameFolder
from hmhi_jax.evaluation.frame_scores import read_prediction

RECIPE = FlowRecipe(preset="ultrafast")
LYING = (3, 6)  # upside down, and on its side


def save(path, array, orientation):
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(array).save(path, exif=exif, quality=95, lossless=True)
    return path


def seen(path):
    """As any viewer shows it."""
    with Image.open(io.BytesIO(path.read_bytes())) as image:  # of grey TIFF files Pillow turns the size alone
        return np.asarray(ImageOps.exif_transpose(image))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_pictures_and_masks_are_upright(tmp_path, suffix, orientation):
    frame = save(tmp_path / "frames" / f"0.{suffix}", frame_picture(0, 0), orientation)
    expected = seen(frame)
    assert expected.shape[:2] == ((HEIGHT, WIDTH) if orientation < 5 else (WIDTH, HEIGHT))
    np.testing.assert_array_equal(read_picture(frame), expected)
    assert picture_size(frame) == expected.shape[:2]
    video = FrameFolder(frame.parent)
    assert video.size == expected.shape[:2]
    np.testing.assert_array_equal(next(video.frames()).picture, expected)
    np.testing.assert_array_equal(FlowFolder(frame.parent, RECIPE)("0", expected.shape[:2]), expected)
    fast = read_picture(frame, (expected.shape[0] // 2, expected.shape[1] // 2), "fast")
    exact = read_picture(frame, (expected.shape[0] // 2, expected.shape[1] // 2))
    assert np.abs(fast.astype(int) - exact).mean() < 3
    mask = save(tmp_path / f"mask.{suffix}", object_mask(1).astype(np.uint8) * 255, orientation)
    inside = seen(mask).reshape(*expected.shape[:2], -1)[..., 0] >= 128  # WebP knows no grey
    np.testing.assert_array_equal(read_mask(mask)[..., 0], inside)
    np.testing.assert_array_equal(read_truth(mask).foreground, inside)
    np.testing.assert_array_equal(read_prediction(mask) >= 128, inside)


def lying_set(root, orientation):
    """A data set whose frames, flow pictures and masks lie alike, as stored and as seen."""
    for t in range(3):
        save(root / f"JPEGImages/bear/{t}.jpg", frame_picture(0, t), orientation)
        save(root / f"Annotations/bear/{t}.png", object_mask(t).astype(np.uint8) * 255, orientation)
    return open_dataset(root)


@pytest.mark.parametrize("orientation", LYING)
def test_flow_is_that_of_upright_frames(tmp_path, orientation):
    """What `hmhi flow` makes is what `hmhi segment` would have estimated and what a folder of flow gives it."""
    data = lying_set(tmp_path / "set", orientation)
    assert make_flow_pictures(data, RECIPE, format=FlowFormat("png")) == []
    frames = [frame.picture for frame in FrameFolder(tmp_path / "set/JPEGImages/bear").frames()]
    folder = FlowFolder(open_dataset(tmp_path / "set").videos[0].flow_folder, RECIPE)
    np.testing.assert_array_equal(folder("0", frames[0].shape[:2]), flow_picture(frames[0], frames[1], RECIPE))
    found = inspect_dataset(open_dataset(tmp_path / "set"))
    assert found.problems == []
    assert set(found.sizes) == {frames[0].shape[:2]}


@pytest.mark.parametrize("size", [None, (64, 32)])
@pytest.mark.parametrize("orientation", LYING)
def test_packed_pictures_are_those_of_the_folder(tmp_path, orientation, size):
    (video,) = lying_set(tmp_path / "set", orientation).videos
    pack_dataset(open_dataset(tmp_path / "set"), tmp_path / "packed", PackedForm(size=size, quality=0))
    (packed,) = open_dataset(tmp_path / "packed").videos
    for t in range(3):
        np.testing.assert_array_equal(read_picture(packed.frames[t]), read_picture(video.frames[t], size))
        np.testing.assert_array_equal(read_mask(packed.masks[t]), read_mask(video.masks[t], size))


@pytest.mark.parametrize("orientation", LYING)
def test_data_sets_packed_before_the_rule_are_seen_as_stored(tmp_path, orientation):
    """Their flow pictures and masks were made of frames as stored; those beside them must not be turned now."""
    (video,) = lying_set(tmp_path / "set", orientation).videos
    pack_dataset(open_dataset(tmp_path / "set"), tmp_path / "packed")
    index = tmp_path / "packed/index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"version": 1}))
    (packed,) = open_dataset(tmp_path / "packed").videos
    with Image.open(video.frames[0]) as image:
        np.testing.assert_array_equal(read_picture(packed.frames[0]), np.asarray(image))
    assert picture_size(packed.frames[0]) == read_mask(packed.masks[0]).shape[:2] == (HEIGHT, WIDTH)
    np.testing.assert_array_equal(read_mask(packed.masks[0])[..., 0], object_mask(0))
    pack_dataset(open_dataset(tmp_path / "set"), tmp_path / "packed")  # finished: the same command still says so


def test_suffixes_are_compared_without_case(tmp_path):
    """Of two pictures of one name colour PPM wins, as FBMS has them, then JPEG, whatever the case."""
    for name, level in (("a.jpg", 90), ("a.PPM", 10), ("b.png", 40), ("b.JPG", 60), ("c.Tiff", 80)):
        path = tmp_path / "frame/train/bear" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT), (level,) * 3).save(path)
    (tmp_path / "mask").mkdir()
    (video,) = open_dataset(tmp_path).videos
    assert [path.name for path in video.frames] == ["a.PPM", "b.JPG", "c.Tiff"]
    assert [int(read_picture(path)[0, 0, 0]) for path in video.frames] == [10, 60, 80]
