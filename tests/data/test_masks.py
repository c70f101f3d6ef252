"""One mask file means the same in training (`read_mask`) and in evaluation (`read_truth`)."""

import cv2
import numpy as np
import pytest
from made_datasets import save
from PIL import Image

from hmhi_jax.data.masks import EVERYWHERE, read_mask, read_truth
from hmhi_jax.data.pictures import PictureError
from hmhi_jax.errors import InputError
from hmhi_jax.evaluation.frame_scores import read_prediction, understand_prediction

LABELS = np.zeros((12, 18), np.uint8)
LABELS[2:8, 4:12] = 1
LABELS[8:, 12:] = 2
LABELS[0, :5] = 255
OBJECT = (LABELS > 0) & (LABELS < 255)
VOID = LABELS == 255
TRACES = np.random.default_rng(0).integers(0, 6, (*OBJECT.shape, 3)).astype(np.uint8)
RAMP = [level for level in range(256) for _ in range(3)]


def palette(colour_of_255: tuple[int, int, int]) -> list[int]:
    return [0, 0, 0, 128, 0, 0, 0, 128, 0] + [40, 70, 90] * 252 + list(colour_of_255)


def both(path, void_label="auto"):
    """Foreground as training sees it, foreground (at least half) and void as evaluation does."""
    truth = read_truth(path, void_label)
    return read_mask(path)[..., 0] == 1, truth.grey >= 128, truth.void


@pytest.mark.parametrize("colour", [(224, 224, 192), (40, 70, 90), (255, 0, 0), (0, 0, 0)])
def test_label_255_of_a_palette_is_void_to_both(tmp_path, colour):
    trained, scored, void = both(save(tmp_path / "mask.png", LABELS, palette(colour)))
    np.testing.assert_array_equal(trained, OBJECT)
    np.testing.assert_array_equal(scored, OBJECT)
    np.testing.assert_array_equal(void, VOID)


def test_label_255_is_an_object_where_its_palette_shows_it_white(tmp_path):
    trained, scored, void = both(save(tmp_path / "mask.png", LABELS, palette((255, 255, 255))))
    np.testing.assert_array_equal(trained, OBJECT | VOID)
    np.testing.assert_array_equal(scored, OBJECT | VOID)
    assert void is None


def test_a_palette_of_grey_levels_is_a_grey_picture(tmp_path):
    soft = np.where(OBJECT, 200, 90).astype(np.uint8)
    trained, scored, void = both(save(tmp_path / "mask.png", soft, RAMP))
    np.testing.assert_array_equal(trained, OBJECT)
    np.testing.assert_array_equal(scored, OBJECT)
    assert void is None
    np.testing.assert_array_equal(read_truth(tmp_path / "mask.png").grey, soft)


@pytest.mark.parametrize("label", [0, 1])
def test_black_is_the_background_of_a_black_and_white_palette(tmp_path, label):
    colours = [255, 255, 255, 0, 0, 0] if label == 1 else [0, 0, 0, 255, 255, 255]
    labels = np.where(OBJECT, 1 - label, label).astype(np.uint8)
    trained, scored, void = both(save(tmp_path / "mask.png", labels, colours))
    np.testing.assert_array_equal(trained, OBJECT)
    np.testing.assert_array_equal(scored, OBJECT)
    assert void is None


def test_white_is_the_background_of_a_palette_with_colours(tmp_path):
    colours = [255, 255, 255, 255, 0, 0, 0, 0, 0]
    trained, scored, _ = both(save(tmp_path / "mask.png", OBJECT.astype(np.uint8), colours))
    np.testing.assert_array_equal(trained, OBJECT)
    np.testing.assert_array_equal(scored, OBJECT)


@pytest.mark.parametrize(
    ("name", "array", "expected"),
    [
        ("labels.png", np.where(OBJECT, 3, 0).astype(np.uint8), OBJECT),
        ("soft.png", np.where(OBJECT, 128, 127).astype(np.uint8), OBJECT),
        ("labels16.png", np.where(OBJECT, 1000, 0).astype(np.uint16), OBJECT),
        ("soft16.png", np.where(OBJECT, 40_000, 20_000).astype(np.uint16), OBJECT),
        ("labels_rgb.png", np.repeat(np.where(OBJECT, 3, 0).astype(np.uint8)[..., None], 3, -1), OBJECT),
        ("colours.png", np.where(OBJECT[..., None], (0, 0, 90), (0, 0, 0)).astype(np.uint8), OBJECT),
        ("float.tiff", np.where(OBJECT, 0.6, 0.4).astype(np.float32), OBJECT),
        ("float255.tiff", np.where(OBJECT, 255, 100).astype(np.float32), OBJECT),
        ("traces.jpg", TRACES[..., 0], OBJECT & False),
        ("traces_rgb.jpg", TRACES, OBJECT & False),
    ],
)  # fmt: skip
def test_both_see_the_same_object(tmp_path, name, array, expected):
    trained, scored, void = both(save(tmp_path / name, array))
    np.testing.assert_array_equal(trained, expected)
    np.testing.assert_array_equal(scored, expected)
    assert void is None


def large(array: np.ndarray) -> np.ndarray:
    """Every pixel as a block of 16, which compression keeps apart but for the edges."""
    return array.repeat(16, 0).repeat(16, 1)


@pytest.mark.parametrize("suffix", ["jpg", "webp", "tif"])
@pytest.mark.parametrize(
    ("ground", "colours"),
    [
        (0, ((255, 255, 255), (255, 255, 255))),
        (0, ((90, 90, 90), (38, 38, 38))),  # grey, but nothing reaches the upper half
        (0, ((128, 0, 0), (0, 128, 0))),  # DAVIS' colours
        (0, ((0, 0, 90), (64, 0, 0))),
        (255, ((255, 0, 0), (0, 0, 200))),
    ],
)
@pytest.mark.parametrize("quality", [50, 90])
def test_lossy_masks_are_what_they_were(tmp_path, suffix, ground, colours, quality):
    """Away from edges, to the pixel; at edges within what compression blurs."""
    picture = np.full((*LABELS.shape, 3), ground, np.uint8)
    for label, colour in enumerate(colours, 1):
        picture[label == LABELS] = colour
    path = tmp_path / f"mask.{suffix}"
    options = {"compression": "jpeg"} if suffix == "tif" else {}
    Image.fromarray(large(picture)).save(path, quality=quality, **options)
    trained, scored, void = both(path)
    inside = cv2.erode(large(OBJECT).view(np.uint8), np.ones((7, 7))) > 0
    outside = cv2.dilate(large(OBJECT).view(np.uint8), np.ones((7, 7))) == 0
    assert trained[inside].all()
    assert not trained[outside].any()
    np.testing.assert_array_equal(trained, scored)
    assert void is None
    np.testing.assert_array_equal(read_truth(path).grey > 0, trained)  # as UVOS sees it
    if len(set(colours[0])) > 1:  # grey predictions are probabilities
        np.testing.assert_array_equal(read_prediction(path) > 128, scored)


def test_a_lossy_picture_that_is_no_mask_is_refused(tmp_path):
    y, x = np.indices((96, 128))
    photo = np.stack([x * 2, y * 2, 255 - x], axis=-1).astype(np.uint8)
    for name in ("photo.jpg", "photo.webp"):
        Image.fromarray(photo).save(tmp_path / name)
        for read in (read_mask, read_truth):
            with pytest.raises(PictureError, match=rf"{name}: compression has changed .*store masks as PNG"):
                read(tmp_path / name)
        assert "brightest channel" in understand_prediction(tmp_path / name).rule
    noisy = (photo.astype(int) + np.random.default_rng(0).integers(-30, 30, photo.shape)).clip(0, 255).astype(np.uint8)
    noisy[:30], noisy[:, :40], noisy[:, 80:] = 0, 0, 0  # an object cut out of a photograph, on black
    Image.fromarray(noisy).save(tmp_path / "cut.jpg", quality=95)
    with pytest.raises(PictureError, match=r"cut\.jpg: compression has changed"):
        read_truth(tmp_path / "cut.jpg")
    assert "brightest channel" in understand_prediction(tmp_path / "cut.jpg").rule
    Image.fromarray(large(LABELS)).save(tmp_path / "lossless.webp", lossless=True)
    np.testing.assert_array_equal(read_truth(tmp_path / "lossless.webp").grey, large(LABELS))


def test_what_may_be_meant_otherwise_is_told(tmp_path):
    for name, levels in (("m.png", LABELS), ("m16.png", np.where(VOID, 65_535, LABELS).astype(np.uint16))):
        assert "small labels beside" in read_truth(save(tmp_path / name, levels)).doubt
    assert read_truth(save(tmp_path / "colours.png", np.full((*OBJECT.shape, 3), 90, np.uint8))).doubt == EVERYWHERE
    soft = np.where(OBJECT, 255, 0).astype(np.uint8)
    soft[5, :18] = np.arange(18) * 15  # an edge
    for levels in (soft, OBJECT.astype(np.uint8), LABELS % 255, np.where(VOID, 3, soft)[1:]):
        assert read_truth(save(tmp_path / "plain.png", levels.astype(np.uint8))).doubt == ""
    assert read_truth(save(tmp_path / "palette.png", LABELS, palette((224, 224, 192)))).doubt == ""


def test_floats_that_are_no_share_are_background(tmp_path):
    """Negative ones, which some tools write for "ignore", and what is no number."""
    levels = np.where(OBJECT, 1, 0).astype(np.float32)
    levels[0, :4] = -1, -0.5, np.nan, np.inf
    with np.errstate(all="raise"):
        truth = read_truth(save(tmp_path / "mask.tiff", levels))
    np.testing.assert_array_equal(truth.grey, OBJECT * 255)


def test_labels_beside_a_named_void_are_labels(tmp_path):
    path = save(tmp_path / "mask.png", LABELS)
    _, scored, void = both(path, 255)
    np.testing.assert_array_equal(scored, OBJECT)
    np.testing.assert_array_equal(void, VOID)


def test_a_mask_that_is_a_decompression_bomb(tmp_path, monkeypatch):
    path = save(tmp_path / "mask.png", LABELS)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # 216 pixels are more than twice as many
    with pytest.raises(PictureError, match=r"mask\.png: is too large .*exceeds limit"):
        read_mask(path)
    with pytest.raises(InputError, match=r"mask\.png: is too large .*exceeds limit"):
        read_truth(path)
