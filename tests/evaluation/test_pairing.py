"""Partners of every kind, and a clear line for everything without one."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hmhi_jax.data.layouts import open_dataset
from hmhi_jax.errors import InputError
from hmhi_jax.evaluation import evaluate_uvos, evaluate_vsod
from hmhi_jax.evaluation.pairing import pair_folders

GOLDENS = Path(__file__).parent / "goldens"


def mask(shift=0, size=(40, 60)):
    picture = np.zeros(size, np.uint8)
    picture[10:25, 12 + shift : 35 + shift] = 255
    return picture


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.fixture
def tree(tmp_path):
    """Two videos of five frames, predicted a little off."""
    for video in ("bear", "train"):
        for i in range(5):
            write(tmp_path / "gt" / video / f"{i:05}.png", mask(i))
            write(tmp_path / "pred" / video / f"{i:05}.png", mask(i + 2))
    return tmp_path


def texts(scores, kind):
    return [str(remark) for remark in scores.remarks if remark.kind == kind]


def test_complete(tree):
    scores = evaluate_uvos(tree / "pred", tree / "gt", strict=True)
    assert scores.complete
    assert not scores.remarks
    assert scores["J_mean"] == pytest.approx(21 / 25)  # 23 columns, 2 off on each side


def test_what_segment_wrote(tree):
    """Masks are scored, not the contact sheet; probabilities where there are only these; one video or several."""
    reference = evaluate_uvos(tree / "pred", tree / "gt")
    for video, kind in (("bear", "masks"), ("train", "soft")):
        shutil.copytree(tree / "pred" / video, tree / "out" / video / kind)
        (tree / "out" / video / "summary.json").write_text("{}")
        write(tree / "out" / video / "sheet.png", mask())
    write(tree / "out" / "bear" / "soft" / "00000.png", mask() * 0)
    scores = evaluate_uvos(tree / "out", tree / "gt", strict=True)
    assert scores.figures == reference.figures
    alone = evaluate_uvos(tree / "out" / "bear", tree / "gt" / "bear")
    assert alone.videos["bear"]["J_mean"] == reference.videos["bear"]["J_mean"]


def test_links_to_folders(tree):
    reference = evaluate_uvos(tree / "pred", tree / "gt")
    (tree / "links").mkdir()
    for video in ("bear", "train"):
        (tree / "links" / video).symlink_to(tree / "pred" / video)
    (tree / "pred" / "bear" / "back").symlink_to(tree / "links")
    assert evaluate_uvos(tree / "links", tree / "gt").figures == reference.figures


def test_gaps_are_listed_and_everything_else_is_scored(tree):
    reference = evaluate_uvos(tree / "pred", tree / "gt")
    (tree / "pred" / "bear" / "00002.png").unlink()
    (tree / "pred" / "bear" / "00003.png").write_bytes(b"no picture")
    write(tree / "gt" / "lone" / "00000.png", mask())
    (tree / "gt" / "bare").mkdir()
    write(tree / "pred" / "more" / "00000.png", mask())
    write(tree / "pred" / "train" / "00009.png", mask())
    scores = evaluate_uvos(tree / "pred", tree / "gt")
    assert not scores.complete
    gaps = texts(scores, "gap")
    assert len(gaps) == 4
    assert any(line.startswith("bear/00002: has no prediction") for line in gaps)
    assert any(line.startswith("bear/00003") and "cannot be read" in line for line in gaps)
    assert any(line.startswith("lone: has no predictions") for line in gaps)
    assert any(line.startswith("bare: has no annotated frame") for line in gaps)
    assert len(texts(scores, "unused")) == 2
    assert set(scores.videos) == {"bear", "train"}
    assert np.isnan(scores.videos["bear"].per_frame["J"][2:4]).all()
    assert scores["J_mean"] == pytest.approx(reference["J_mean"])
    assert scores.frame_count == 8
    with pytest.raises(InputError, match="strict"):
        evaluate_uvos(tree / "pred", tree / "gt", strict=True)


def test_fbms_ignores_predictions_between_annotations(tree):
    for i in (1, 3):
        (tree / "gt" / "bear" / f"{i:05}.png").unlink()
    assert not texts(evaluate_uvos(tree / "pred", tree / "gt", "fbms"), "unused")
    assert texts(evaluate_uvos(tree / "pred", tree / "gt", "davis16"), "unused") == [
        "bear: 2 predicted frames without ground truth"
    ]


def test_other_sizes_are_scaled_or_refused(tree):
    for path in (tree / "pred" / "bear").iterdir():
        with Image.open(path) as picture:
            picture.resize((120, 80), Image.Resampling.NEAREST).save(path)
    reference = evaluate_uvos(tree / "pred", tree / "gt", videos=["train"])
    scores = evaluate_uvos(tree / "pred", tree / "gt")
    (line,) = texts(scores, "rule")
    assert "120x80" in line
    assert "60x40" in line
    assert scores.complete
    assert scores.videos["bear"]["J_mean"] == pytest.approx(reference.videos["train"]["J_mean"], abs=0.05)
    with pytest.raises(InputError, match="120x80"):
        evaluate_uvos(tree / "pred", tree / "gt", strict=True)


def test_truth_named_differently(tree):
    reference = evaluate_uvos(tree / "pred", tree / "gt")
    for i in range(5):
        (tree / "gt" / "bear" / f"{i:05}.png").rename(tree / "gt" / "bear" / f"bear_{i}_gt.png")
        (tree / "gt" / "train" / f"{i:05}.png").rename(tree / "gt" / "train" / f"{'abcde'[i]}.png")
    scores = evaluate_uvos(tree / "pred", tree / "gt")
    assert scores.figures == reference.figures
    assert "number" in texts(scores, "rule")[0]
    assert "order" in texts(scores, "rule")[1]


def test_numbers_in_names_sort_as_numbers(tree):
    for i in range(5):
        (tree / "gt" / "bear" / f"{i:05}.png").rename(tree / "gt" / "bear" / f"{7 + i}.png")
        (tree / "pred" / "bear" / f"{i:05}.png").rename(tree / "pred" / "bear" / f"{7 + i}.png")
    pairs, _ = pair_folders(tree / "pred", tree / "gt")
    assert [frame.frame for frame in pairs[0].frames] == ["7", "8", "9", "10", "11"]


def test_nested_folders_and_single_videos(tree):
    (tree / "nested" / "480p").mkdir(parents=True)
    for video in ("bear", "train"):
        shutil.move(tree / "pred" / video, tree / "nested" / "480p" / video)
    assert evaluate_uvos(tree / "nested", tree / "gt").complete
    alone = evaluate_uvos(tree / "nested" / "480p" / "bear", tree / "gt" / "train")
    assert alone.complete
    assert list(alone.videos) == ["train"]


def test_data_sets_by_their_own_layouts(tree):
    """A DAVIS tree and a tree as the release wants it, with the frames a report shows; a split nobody predicted is
    left out."""
    for video in ("bear", "train"):
        for i in range(5):
            write(tree / "davis" / "JPEGImages" / "480p" / video / f"{i:05}.jpg", np.zeros((40, 60, 3), np.uint8))
            write(tree / "davis" / "Annotations" / "480p" / video / f"{i:05}.png", mask(i))
    lists = tree / "davis" / "ImageSets" / "2016"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("train\n")
    (lists / "val.txt").write_text("bear\n")
    shutil.rmtree(tree / "pred" / "train")
    for truth in (tree / "davis", open_dataset(tree / "davis", split="val")):
        scores = evaluate_uvos(tree / "pred", truth)
        assert scores.complete
        assert list(scores.videos) == ["bear"]
        assert scores.videos["bear"].pairs[0].picture.name == "00000.jpg"
        assert scores.truth == str(tree / "davis")


def test_classes_of_youtube_objects(tmp_path):
    for video, shift in (("cat0001", 0), ("cat0002", 2), ("dog_0001", 6)):
        for i in range(3):
            write(tmp_path / "gt" / video / f"{i}.png", mask())
            write(tmp_path / "pred" / video / f"{i}.png", mask(shift))
    scores = evaluate_uvos(tmp_path / "pred", tmp_path / "gt", "youtube-objects")
    assert {name: found["J_mean"] for name, found in scores.classes.items()} == {
        "cat": pytest.approx((1 + 21 / 25) / 2),
        "dog": pytest.approx(17 / 29),
    }
    assert scores["J_mean"] == pytest.approx((1 + 21 / 25 + 17 / 29) / 3)
    assert scores["J_class_mean"] == pytest.approx(((1 + 21 / 25) / 2 + 17 / 29) / 2)


def test_first_and_last_frames(tree):
    """What each protocol leaves out, seen from a video that is wrong only at its ends."""
    for i in range(5):
        write(tree / "pred" / "bear" / f"{i:05}.png", mask(i) if 0 < i < 4 else np.zeros((40, 60), np.uint8))
    one = {"videos": ["bear"]}
    assert evaluate_uvos(tree / "pred", tree / "gt", "davis16", **one)["J_mean"] == pytest.approx(3 / 5)
    assert evaluate_uvos(tree / "pred", tree / "gt", "davis16", **one)["J_recall"] == 1
    assert evaluate_uvos(tree / "pred", tree / "gt", "davis16-inner", **one)["J_mean"] == 1
    assert evaluate_uvos(tree / "pred", tree / "gt", "fbms", **one)["J_mean"] == pytest.approx(3 / 5)
    assert evaluate_vsod(tree / "pred", tree / "gt", extra=False, **one)["MAE"] == 0


def test_a_video_too_short_for_a_protocol(tree):
    for folder in ("gt", "pred"):
        for i in (2, 3, 4):
            (tree / folder / "bear" / f"{i:05}.png").unlink()
    scores = evaluate_vsod(tree / "pred", tree / "gt", extra=False)
    assert list(scores.videos) == ["train"]
    assert texts(scores, "gap") == ["bear: 2 annotated frames, none of which counts in vsod"]


def test_void_pixels_count_for_nothing(tmp_path):
    labels = np.zeros((40, 60), np.uint8)
    labels[10:25, 12:35] = 1
    labels[10:25, 35:50] = 255
    picture = Image.fromarray(labels)
    picture.putpalette([0, 0, 0, 128, 0, 0] + [9, 9, 9] * 253 + [224, 224, 192])
    (tmp_path / "gt" / "v").mkdir(parents=True)
    picture.save(tmp_path / "gt" / "v" / "0.png")
    write(tmp_path / "pred" / "v" / "0.png", ((labels > 0) * 255).astype(np.uint8))
    assert evaluate_uvos(tmp_path / "pred", tmp_path / "gt")["JF_mean"] == 1
    ignored = evaluate_uvos(tmp_path / "pred", tmp_path / "gt", void_label=None)
    assert ignored["J_mean"] == 1  # 255 is then an object like any other, and it was predicted
    write(tmp_path / "pred" / "v" / "0.png", ((labels == 1) * 255).astype(np.uint8))
    assert evaluate_uvos(tmp_path / "pred", tmp_path / "gt")["JF_mean"] == 1
    assert evaluate_uvos(tmp_path / "pred", tmp_path / "gt", void_label=None)["J_mean"] == pytest.approx(23 / 38)


def test_names_that_are_shifted_and_masks_that_never_meet_are_noticed(tree):
    for folder in (tree / "pred").iterdir():
        for path in sorted(folder.iterdir(), reverse=True):
            path.rename(folder / f"{int(path.stem) + 1:05}.png")
    lines = texts(evaluate_uvos(tree / "pred", tree / "gt"), "rule")
    assert [line for line in lines if "+1: names may be shifted" in line and line.startswith("bear: ")]
    assert len(lines) == 2
    for path in (tree / "pred").rglob("*.png"):
        write(path, 255 * (mask() == 0).astype(np.uint8) * (np.arange(60) > 50).astype(np.uint8))
    lines = texts(evaluate_uvos(tree / "pred", tree / "gt"), "rule")
    assert any("no prediction has a pixel in common" in line for line in lines)
    for path in (tree / "pred").rglob("*.png"):
        write(path, 255 - mask(2))
    lines = texts(evaluate_uvos(tree / "pred", tree / "gt"), "rule")
    assert "8 of 8 predictions fit where they are black; are they inverted?" in lines


def test_label_predictions_in_grey_are_noticed(tree):
    for path in (tree / "pred").rglob("*.png"):
        write(path, (mask() > 0).astype(np.uint8))
    scores = evaluate_uvos(tree / "pred", tree / "gt")
    assert scores["J_mean"] == 0
    assert any("label pictures" in line for line in texts(scores, "rule"))


@pytest.mark.parametrize(
    ("change", "remark"),
    [
        (lambda truth: np.where(truth > 0, 1, np.eye(40, 60) * 255), "10 of 10 ground truths are small labels"),
        (lambda truth: np.repeat(truth[..., None], 3, -1) // 2 + 90, "10 of 10 ground truths are object everywhere"),
        (lambda truth: truth * 0, "no ground truth has any object"),
    ],
)
def test_ground_truth_that_may_be_meant_otherwise_is_noticed(tree, change, remark):
    for path in (tree / "gt").rglob("*.png"):
        write(path, change(np.asarray(Image.open(path))).astype(np.uint8))
    assert [line for line in texts(evaluate_uvos(tree / "pred", tree / "gt"), "rule") if line.startswith(remark)]


@pytest.mark.parametrize(
    ("pred", "gt", "options", "expected"),
    [
        ("absent", "gt", {}, "absent"),
        ("pred", "absent", {}, "absent"),
        ("other", "gt", {}, "no video"),
        ("pred", "other/x", {}, "no ground truth"),
        ("pred", "gt", {"protocol": "davis-16"}, "davis16-inner"),
        ("pred", "gt", {"protocol": "vsod"}, "VSOD"),
        ("pred", "gt", {"reading": "soft"}, "plain"),
        ("pred", "gt", {"videos": ["wolf"]}, "no ground truth"),
    ],
)
def test_errors_say_what_to_do(tree, pred, gt, options, expected):
    (tree / "other" / "x").mkdir(parents=True)
    with pytest.raises(InputError, match=expected):
        evaluate_uvos(tree / pred, tree / gt, **options)


def test_a_worker_that_dies_is_an_error(tree, monkeypatch):
    """Out of memory, for one."""
    import os
    import signal

    from hmhi_jax.evaluation import frame_scores

    for video in ("bear", "train"):
        for i in range(5, 15):
            write(tree / "gt" / video / f"{i:05}.png", mask())
            write(tree / "pred" / video / f"{i:05}.png", mask())
    monkeypatch.setattr(frame_scores, "_WORTH_PROCESSES", 0)
    monkeypatch.setattr(frame_scores, "_in_process", lambda *frame: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(RuntimeError, match="fewer workers"):
        evaluate_uvos(tree / "pred", tree / "gt", workers=2)
