"""Every kind of problem a data set can have, and what training does about it."""

import pytest
from made_datasets import cut_off, damage, every_layout, frame_picture, release_tree, write_picture

from hmhi_jax.data.inspection import check_for_training, inspect_dataset
from hmhi_jax.data.layouts import open_dataset
from hmhi_jax.data.packing import pack_dataset
from hmhi_jax.errors import InputError


@pytest.fixture
def bad(tmp_path):
    """Eight videos, of which the last two are good; one has something that is only unusual."""
    root = release_tree(tmp_path / "set", videos=8, count=3)
    cut_off(root / "frame/train/video0/00001.jpg")
    (root / "flow/train/video1/00002.jpg").unlink()
    mask = root / "mask/train/video2/00000.png"
    write_picture(mask, frame_picture(0, 0)[:20, :, 0].copy())
    for path in (root / "frame/train/video3").iterdir():
        path.unlink()
    for path in (root / "mask/train/video4").iterdir():
        path.unlink()
    damage(root / "flow/train/video5/00000.jpg")
    write_picture(root / "frame/train/video6/00002.jpg", frame_picture(6, 2)[:40].copy())
    (root / "mask/train/video6/00002.png").unlink()
    write_picture(root / "mask/train/video7/00009.png", frame_picture(0, 0)[..., 0].copy())
    return open_dataset(root)


KINDS = [
    ("unreadable picture", "video0"), ("missing flow", "video1"), ("mask size", "video2"), ("empty video", "video3"),
    ("no mask", "video4"), ("unreadable picture", "video5"),
]  # fmt: skip


def test_every_problem_is_in_the_list(bad):
    seen = []
    found = inspect_dataset(bad, threads=2, advance=seen.append)
    assert [(problem.kind, problem.video) for problem in found.problems] == KINDS
    assert sum(seen) == found.frames == 21
    assert (found.flows, found.masks) == (20, 17)
    assert found.sizes == {(48, 80): 19, (40, 80): 1}  # one frame cannot be read
    assert found.bad_videos == {f"video{n}" for n in range(6)}
    texts = [str(problem) for problem in found.problems]
    assert "video0/00001.jpg: is damaged" in texts[0]
    assert "none for 1 of 3 frames (00002); make them with `hmhi flow`" in texts[1]
    assert "video2/00000.png: 80 x 20, its frame is 80 x 48; resize it" in texts[2]
    assert [note.split(":")[0] for note in found.notes] == ["video3", "video6", "video7"]  # strays, sizes, strays


def test_headers_find_all_but_damage_inside(bad):
    found = inspect_dataset(bad, depth="headers")
    assert [(problem.kind, problem.video) for problem in found.problems] == KINDS[:-1]
    names = inspect_dataset(bad, depth="names")
    assert ("missing flow", "video1") in [(problem.kind, problem.video) for problem in names.problems]


def test_training_refuses_with_the_same_list_or_goes_on_without(bad):
    listed = [str(problem) for problem in inspect_dataset(bad).problems]
    with pytest.raises(InputError) as caught:
        check_for_training(bad, depth="pictures")
    lines = str(caught.value).splitlines()
    assert "6 problems in 6 of 8 videos" in lines[0]
    assert "--skip-bad" in lines[0]
    assert [line.strip() for line in lines[1:]] == listed
    kept, problems = check_for_training(bad, depth="pictures", skip_bad=True)
    assert [video.name for video in kept.videos] == ["video6", "video7"]
    assert list(map(str, problems)) == listed


def test_a_good_data_set_passes(tmp_path):
    dataset = open_dataset(release_tree(tmp_path / "set", videos=2, count=2))
    assert check_for_training(dataset, depth="pictures") == (dataset, [])


def test_without_flow_or_masks(tmp_path):
    for layout, root in every_layout(tmp_path).items():
        dataset = open_dataset(root, split="train" if layout == "youtube-vos" else None)
        found = inspect_dataset(dataset, flows=False)
        assert found.problems == [], layout
        assert {problem.kind for problem in inspect_dataset(dataset, depth="names").problems} == {"missing flow"}
    assert found.labels == {}


def test_nothing_good_left(tmp_path):
    dataset = open_dataset(release_tree(tmp_path / "set", videos=1, count=2))
    (tmp_path / "set/frame/train/video0/00000.jpg").write_bytes(b"")
    with pytest.raises(InputError, match="no video is without problems"):
        check_for_training(dataset, skip_bad=True)
    with pytest.raises(InputError, match=r"no videos \(release\)"):
        check_for_training(dataset.with_videos([]), skip_bad=True)


def test_packed_data_sets(tmp_path):
    dataset = open_dataset(release_tree(tmp_path / "set", videos=3, count=3))
    pack_dataset(dataset, tmp_path / "packed", frames_per_shard=3)
    packed = open_dataset(tmp_path / "packed")
    for depth in ("headers", "pictures"):
        found = inspect_dataset(packed, depth=depth)
        assert found.problems == []
        assert set(found.sizes) == {(48, 80)}
    shard = tmp_path / "packed/shard-00001.array_record"
    shard.write_bytes(shard.read_bytes()[:70_000])
    with pytest.raises(InputError, match=r"missing shard: .*shard-00001\.array_record: 70000 bytes, expected"):
        check_for_training(packed, skip_bad=True)


def test_frames_in_a_format_that_is_not_read_are_named(tmp_path):
    root = release_tree(tmp_path / "set", videos=2, count=2)
    (root / "frame/train/video0/00002.heic").write_bytes(b"of a phone")
    for path in (root / "frame/train/video1").iterdir():
        path.rename(path.with_suffix(".JP2"))
    found = inspect_dataset(open_dataset(root))
    assert "video0: 1 files are no pictures by their suffix (00002.heic)" in found.notes
    (problem,) = found.problems
    assert "no frames; 2 files are no pictures by their suffix (00000.JP2, 00001.JP2)" in problem.text
