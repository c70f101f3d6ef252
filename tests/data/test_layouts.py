"""Every layout, on real files: what is found, what masks say, what is refused."""

import os

import numpy as np
import pytest
from made_datasets import every_layout, frame_picture, object_mask, release_tree, write_flows, write_video

from hmhi_jax.data.layout_rules import LAYOUTS
from hmhi_jax.data.layouts import open_dataset
from hmhi_jax.data.masks import read_mask
from hmhi_jax.data.pictures import read_picture
from hmhi_jax.errors import InputError


@pytest.fixture(scope="module")
def layouts(tmp_path_factory):
    return every_layout(tmp_path_factory.mktemp("layouts"))


# Layout: split to open, names of videos, annotated frames of the first, labels.
EXPECTED = {
    "release": (None, ["aeroplane_0001", "train0002"], (0, 1, 2, 3), ["aeroplane", "train"]),
    "release-readme": ("val", ["aeroplane_0001", "train0002"], (0, 1, 2, 3), ["aeroplane", "train"]),
    "davis-2016": (None, ["bear", "dog-agility"], (0, 1, 2, 3), [None, None]),
    "davis-2017": ("train", ["bear", "dogs-jump"], (0, 1, 2, 3), [None, None]),
    "youtube-vos": ("train", ["003234408d", "0043f083b5"], (0, 1, 2, 3), [None, None]),
    "jpegimages": (None, ["cat_0001", "cow_0001"], (0, 2), ["cat", "cow"]),
    "davsod": (None, ["select_0001", "select_0002"], (0, 1, 2, 3), [None, None]),
    "visal": (None, ["bird", "motorcross"], (0, 3), [None, None]),
    "youtube-objects": (None, ["aeroplane_0001_001", "train_0012_003"], (0, 2), ["aeroplane", "train"]),
    "fbms": (None, ["cars1", "goats01"], (0, 3), [None, None]),
}


def test_every_layout_is_covered():
    assert set(EXPECTED) == {layout.name for layout in LAYOUTS}


@pytest.mark.parametrize("layout", EXPECTED)
def test_layout_is_recognised_and_read(layouts, layout):
    split, names, annotated, labels = EXPECTED[layout]
    dataset = open_dataset(layouts[layout], split=split)
    assert dataset.layout == layout
    assert [video.name for video in dataset.videos] == names
    assert [video.label for video in dataset.videos] == labels
    assert dataset.videos[0].annotated == annotated
    for number, video in enumerate(dataset.videos):
        assert len(video) == 4
        assert not video.strays or layout == "fbms"  # its grey renderings of colour masks
        for frame in range(4):
            found = read_picture(video.frames[frame]).astype(int)
            assert np.abs(found - frame_picture(number, frame)).max() < 12  # JPEG
            assert video.flows[frame] is None
            if frame in video.annotated:
                np.testing.assert_array_equal(read_mask(video.masks[frame])[..., 0], object_mask(frame))
    named = open_dataset(layouts[layout], split=split, layout=layout)
    assert named == dataset


def test_flow_pictures_are_found_beside_frames_in_every_layout(layouts, tmp_path):
    """Wherever `hmhi flow` writes, the same data set reads."""
    for layout, (split, *_) in EXPECTED.items():
        dataset = open_dataset(layouts[layout], split=split)
        out = open_dataset(layouts[layout], split=split, flows=tmp_path / layout)
        for number, (video, elsewhere) in enumerate(zip(dataset.videos, out.videos, strict=True)):
            assert video.flow_folder.startswith(str(layouts[layout]))
            assert elsewhere.flow_folder == str(tmp_path / layout / video.name)
            for name in video.frame_names:
                write_flows(tmp_path / "one", number, 1)
                for place in (video, elsewhere):
                    target = type(tmp_path)(place.flow_folder, f"{name}.jpg")
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes((tmp_path / "one/00000.jpg").read_bytes())
        for again in (
            open_dataset(layouts[layout], split=split),
            open_dataset(layouts[layout], split=split, flows=tmp_path / layout),
        ):
            assert again.layout == layout
            assert [len(video) for video in again.videos] == [4, 4]
            assert all(video.flows.has(frame) for video in again.videos for frame in range(4))


def test_youtube_vos_with_all_frames_has_sparse_masks(layouts):
    dataset = open_dataset(layouts["youtube-vos"], split="train_all_frames")
    assert [len(video) for video in dataset.videos] == [16, 16]
    assert dataset.videos[0].annotated == (0, 5, 10, 15)
    with pytest.raises(InputError, match=r"'\w+' is there twice.*name a split"):
        open_dataset(layouts["youtube-vos"])


def test_davis_splits(layouts):
    assert [video.name for video in open_dataset(layouts["davis-2016"], split="val").videos] == ["dog-agility"]
    with pytest.raises(InputError, match=r"no split 'test' as davis-2016; expected one of train, val"):
        open_dataset(layouts["davis-2016"], split="test")


def test_a_listed_video_without_folder_is_empty(tmp_path):
    write_video(tmp_path / "JPEGImages/480p/bear", tmp_path / "Annotations/480p/bear", 0, 2)
    (tmp_path / "ImageSets/2016").mkdir(parents=True)
    (tmp_path / "ImageSets/2016/val.txt").write_text("bear\nghost\n")
    dataset = open_dataset(tmp_path)
    assert [(video.name, len(video)) for video in dataset.videos] == [("bear", 2), ("ghost", 0)]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_lists_of_any_encoding_name_folders_and_nothing_else(tmp_path):
    name = os.fsdecode(b"caf\xe9")
    write_video(tmp_path / "JPEGImages/480p" / name, tmp_path / "Annotations/480p" / name, 0, 2)
    write_video(tmp_path / "JPEGImages/480p/bear", tmp_path / "Annotations/480p/bear", 0, 2)
    (tmp_path / "ImageSets/2017").mkdir(parents=True)
    names = tmp_path / "ImageSets/2017/val.txt"
    names.write_bytes(b"\xef\xbb\xbfbear\r\ncaf\xe9\r\n")  # as some editors write it
    assert [(video.name, len(video)) for video in open_dataset(tmp_path).videos] == [("bear", 2), (name, 2)]
    # Results of a video are put into a folder of its name, which is replaced.
    for wrong in (b"..", b"a/../b", b"bear\0", "bear".encode("utf-16")):
        names.write_bytes(wrong)
        with pytest.raises(InputError, match=r"split 'val' names .*, expected the name of a folder"):
            open_dataset(tmp_path)


def test_frames_are_in_natural_order(tmp_path):
    folder = tmp_path / "frame/train/a"
    write_video(folder, tmp_path / "mask/train/a", 0, 12)
    for frame in range(12):
        for kind, suffix in (("frame", "jpg"), ("mask", "png")):
            path = tmp_path / kind / "train/a" / f"{frame:05d}.{suffix}"
            path.rename(path.with_stem(f"frame{frame}"))
    (folder / "._frame1.jpg").write_bytes(b"resource fork")
    video = open_dataset(tmp_path).videos[0]
    assert video.frame_names == tuple(f"frame{n}" for n in range(12))
    assert len(video.annotated) == 12


def test_what_is_no_data_set_is_refused(tmp_path):
    (tmp_path / "holidays").mkdir()
    with pytest.raises(InputError, match=r"holds holidays; expected one of these layouts"):
        open_dataset(tmp_path)
    with pytest.raises(InputError, match="layout 'davis' is not known; expected one of release,"):
        open_dataset(tmp_path, layout="davis")
    with pytest.raises(InputError, match="no such folder"):
        open_dataset(tmp_path / "absent")


def test_masks_of_no_frame_are_strays(tmp_path):
    release_tree(tmp_path, videos=1, count=3)
    (tmp_path / "frame/train/video0/00001.jpg").unlink()
    video = open_dataset(tmp_path).videos[0]
    assert len(video) == 2
    assert sorted(stray.rpartition("/")[2] for stray in video.strays) == ["00001.jpg", "00001.png"]


def test_real_davis(davis):
    dataset = open_dataset(davis)
    assert dataset.layout == "davis-2016"
    assert sum(len(video) for video in dataset.videos) == 279
    assert all(len(video.annotated) == len(video) for video in dataset.videos)
    assert read_picture(dataset.videos[0].frames[0]).shape == (480, 854, 3)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="Windows seals folders otherwise")
def test_folders_that_cannot_be_read_are_named(tmp_path):
    release_tree(tmp_path, videos=1, count=2)
    sealed = tmp_path / "mask/train/video0"
    for place in (tmp_path, *tmp_path.parents):
        if "pytest" in place.name or place.name.startswith(("popen", "test_")):
            place.chmod(0o755)
    sealed.chmod(0)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)  # root may read anything
    try:
        with pytest.raises(InputError, match=r"mask/train/video0: the folder cannot be read \(Permission denied\)"):
            open_dataset(tmp_path)
    finally:
        if root:
            os.seteuid(0)
        sealed.chmod(0o755)
