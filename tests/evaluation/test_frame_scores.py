"""Predictions and ground truth in every form people store them."""

import numpy as np
import pytest
from made_datasets import save

from hmhi_jax.data.masks import read_truth
from hmhi_jax.errors import InputError
from hmhi_jax.evaluation.frame_scores import read_as, read_prediction, resize_prediction, understand_prediction

LABELS = np.zeros((6, 9), np.uint8)
LABELS[1:4, 2:6] = 1
LABELS[4:, 6:] = 2
OBJECT = LABELS > 0
DAVIS_PALETTE = [0, 0, 0, 128, 0, 0, 0, 128, 0] + [40, 70, 90] * 252 + [224, 224, 192]


def test_label_pictures_merge_their_objects(tmp_path):
    stored = {
        "palette": save(tmp_path / "palette.png", LABELS, palette=DAVIS_PALETTE),
        "labels in grey": save(tmp_path / "grey.png", LABELS),
        "one bit": save(tmp_path / "bit.png", OBJECT),
        "labels in 16 bits": save(tmp_path / "labels16.png", LABELS.astype(np.uint16)),
        "grey": save(tmp_path / "l.png", OBJECT.astype(np.uint8) * 255),
        "16 bits": save(tmp_path / "full16.png", OBJECT.astype(np.uint16) * 65535),
        "colour": save(tmp_path / "rgb.png", np.stack([LABELS * 90, LABELS * 20, LABELS * 0], axis=-1)),
        "grey colour": save(tmp_path / "grey_rgb.png", np.repeat(OBJECT[..., None].astype(np.uint8) * 255, 3, axis=-1)),
        "grey ramp palette": save(
            tmp_path / "ramp.png", OBJECT.astype(np.uint8) * 255, palette=[i for i in range(256) for _ in range(3)]
        ),
        "two-colour palette": save(tmp_path / "two.png", OBJECT.astype(np.uint8), palette=[0, 0, 0, 255, 255, 255]),
    }
    for name, path in stored.items():
        truth = read_truth(path)
        assert truth.void is None, name
        np.testing.assert_array_equal(truth.grey, OBJECT * 255, err_msg=name)


def test_colour_masks_on_white(tmp_path):
    """FBMS stores its regions on white, in PPM files that need not have any black."""
    white = np.full((6, 9, 3), 255, np.uint8)
    white[OBJECT] = (0, 0, 200)
    for name in ("a.ppm", "a.png"):
        np.testing.assert_array_equal(read_truth(save(tmp_path / name, white)).grey, OBJECT * 255)


def test_void_is_255_of_palettes_alone(tmp_path):
    labels = LABELS.copy()
    labels[0, 0] = 255
    void = labels == 255
    truth = read_truth(save(tmp_path / "palette.png", labels, palette=DAVIS_PALETTE))
    np.testing.assert_array_equal(truth.void, void)
    np.testing.assert_array_equal(truth.grey, OBJECT * 255)
    # A binary mask in a palette whose 255 is white has no void.
    binary = save(tmp_path / "binary.png", OBJECT.astype(np.uint8) * 255, palette=[0, 0, 0] * 255 + [255] * 3)
    assert read_truth(binary).void is None
    np.testing.assert_array_equal(read_truth(binary).grey, OBJECT * 255)
    grey = save(tmp_path / "grey.png", np.where(void, 255, OBJECT * 200).astype(np.uint8))
    assert read_truth(grey).void is None
    np.testing.assert_array_equal(read_truth(grey, void_label=255).void, void)
    assert read_truth(grey, void_label=None).void is None


def test_soft_edges_stay(tmp_path):
    ramp = np.tile(np.array([0, 3, 127, 128, 255], np.uint8), (4, 1))
    np.testing.assert_array_equal(read_truth(save(tmp_path / "soft.png", ramp)).grey, ramp)
    wide = ramp.astype(np.uint16) * 257
    found = read_truth(save(tmp_path / "soft16.png", wide)).grey
    np.testing.assert_array_equal(found > 0, ramp > 0)
    np.testing.assert_array_equal(found >= 128, ramp >= 128)


def test_predictions(tmp_path):
    soft = np.arange(54, dtype=np.uint8).reshape(6, 9) * 4
    stored = {
        "l.png": soft,
        "rgb.png": np.repeat(soft[..., None], 3, axis=-1),
        "wide.png": soft.astype(np.uint16) * 257,
        "float.tiff": soft.astype(np.float32) / 255,
    }
    for name, array in stored.items():
        np.testing.assert_array_equal(read_prediction(save(tmp_path / name, array)), soft, err_msg=name)
    for name, array, palette in (
        ("palette.png", LABELS, DAVIS_PALETTE),
        ("bit.png", OBJECT, None),
        ("labels16.png", LABELS.astype(np.uint16), None),
    ):
        found = read_prediction(save(tmp_path / name, array, palette=palette))
        np.testing.assert_array_equal(found, OBJECT * 255, err_msg=name)


def test_predictions_of_other_tools(tmp_path):
    """Colour masks as ground truth is read, cut-outs by their opacity, colour maps by their brightest channel."""
    blank = np.zeros((6, 9, 3), np.uint8)
    for number, colour in enumerate([(128, 0, 0), (255, 0, 0), (0, 0, 90)]):
        mask = blank.copy()
        mask[OBJECT] = colour
        found = understand_prediction(save(tmp_path / f"{number}.png", mask))
        assert found.rule == ""
        np.testing.assert_array_equal(found.values, OBJECT * 255, err_msg=str(colour))
    swapped = save(tmp_path / "swapped.png", (~OBJECT).astype(np.uint8), palette=[255, 255, 255, 0, 0, 0])
    np.testing.assert_array_equal(read_prediction(swapped), OBJECT * 255)

    soft = np.arange(54, dtype=np.uint8).reshape(6, 9) * 4
    for number, shown in enumerate([blank, blank + 255, blank + np.arange(9, dtype=np.uint8)[:, None] * 20]):
        path = save(tmp_path / f"cut{number}.png", np.dstack([shown, soft]))
        assert "opacity" in understand_prediction(path).rule
        np.testing.assert_array_equal(read_prediction(path), soft)
        np.testing.assert_array_equal(read_truth(path).grey, soft)
    opaque = save(tmp_path / "opaque.png", np.dstack([soft] * 3 + [blank[..., 0] + 255]))
    np.testing.assert_array_equal(read_prediction(opaque), soft)

    heat = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    found = understand_prediction(save(tmp_path / "heat.png", heat))
    assert "brightest channel" in found.rule
    np.testing.assert_array_equal(found.values, heat.max(axis=-1))


def test_release_reading_stretches_each_frame_once():
    soft = np.array([[20, 60, 100]], np.uint8)
    np.testing.assert_array_equal(read_as(soft, "plain"), soft)
    stretched = read_as(soft, "release")
    np.testing.assert_array_equal(stretched, [[0, 127, 255]])
    np.testing.assert_array_equal(read_as(stretched, "release"), stretched)
    np.testing.assert_array_equal(read_as(np.full((2, 2), 90, np.uint8), "release"), 0)


def test_resize_is_bilinear_with_half_pixel_centres():
    np.testing.assert_array_equal(resize_prediction(np.array([[0, 200]], np.uint8), (1, 4)), [[0, 50, 150, 200]])


def test_files_that_are_no_pictures(tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    for path in (broken, tmp_path / "absent.png"):
        for read in (read_prediction, read_truth):
            with pytest.raises(InputError, match=path.name):
                read(path)
