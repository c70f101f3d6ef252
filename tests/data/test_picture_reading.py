"""Masks in every form ground truth comes in, and pictures that are broken."""

import io

import numpy as np
import pytest
from made_datasets import cut_off, damage, noise_scene, object_mask, save_jpeg, two_objects, write_palette_mask
from PIL import Image

from hmhi_jax.data.masks import read_mask
from hmhi_jax.data.pictures import PictureError, Window, picture_size, read_picture
from hmhi_jax.data.preprocessing import resize_picture

OBJECT = object_mask(2)


def as_image(kind: str) -> Image.Image:
    grey = OBJECT.astype(np.uint8)
    coloured = np.zeros((*OBJECT.shape, 3), np.uint8)
    coloured[two_objects(2) == 1], coloured[two_objects(2) == 2] = (64, 0, 0), (0, 128, 0)
    white = Image.fromarray(1 - grey).convert("P")  # label 0 is the object, and white
    white.putpalette([255, 255, 255, 0, 0, 0])
    return {
        "0 and 255": lambda: Image.fromarray(grey * 255),
        "0 and 1": lambda: Image.fromarray(grey),
        "labels 0, 1, 2": lambda: Image.fromarray(two_objects(2)),
        "soft edges": lambda: Image.fromarray(np.where(OBJECT, 200, 90).astype(np.uint8)),
        "one bit": lambda: Image.fromarray(OBJECT),
        "16 bits, 0 and 65535": lambda: Image.fromarray(OBJECT.astype(np.uint16) * 65535),
        "16 bits, 0 and 255": lambda: Image.fromarray(OBJECT.astype(np.uint16) * 255),
        "16 bits, labels": lambda: Image.fromarray(two_objects(2).astype(np.uint16)),
        "RGB grey": lambda: Image.fromarray(grey * 255).convert("RGB"),
        "RGB labels": lambda: Image.fromarray(coloured),
        "RGBA": lambda: Image.fromarray(coloured).convert("RGBA"),
        "white on black palette": lambda: white,
    }[kind]()


KINDS = [
    "0 and 255", "0 and 1", "labels 0, 1, 2", "soft edges", "one bit", "16 bits, 0 and 65535", "16 bits, 0 and 255",
    "16 bits, labels", "RGB grey", "RGB labels", "RGBA", "white on black palette",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_mask_kinds(kind, tmp_path):
    as_image(kind).save(tmp_path / "mask.png")
    mask = read_mask(tmp_path / "mask.png")
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask[..., 0], OBJECT)


def test_palette_with_void(tmp_path):
    labels = two_objects(2)
    labels[40:] = 255
    write_palette_mask(tmp_path / "mask.png", labels)
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png")[..., 0], OBJECT)


def test_empty_masks_stay_empty(tmp_path):
    Image.new("L", (80, 48)).save(tmp_path / "mask.png")
    assert not read_mask(tmp_path / "mask.png").any()
    noise = np.random.default_rng(0).integers(0, 6, (48, 80)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "mask.jpg")  # what JPEG makes of black
    assert not read_mask(tmp_path / "mask.jpg").any()


def test_mask_is_resized_by_nearest_like_pillow(tmp_path):
    Image.fromarray(OBJECT.astype(np.uint8) * 255).save(tmp_path / "mask.png")
    expected = Image.fromarray(OBJECT.astype(np.uint8)).resize((96, 32), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png", (32, 96))[..., 0], expected)


@pytest.mark.parametrize("subsampling", [0, 2])
def test_exact_reading_is_pillows(subsampling, tmp_path):
    save_jpeg(tmp_path / "frame.jpg", noise_scene(121, 175), subsampling)
    pillow = np.asarray(Image.open(tmp_path / "frame.jpg").convert("RGB"))
    np.testing.assert_array_equal(read_picture(tmp_path / "frame.jpg"), pillow)
    np.testing.assert_array_equal(read_picture(tmp_path / "frame.jpg", (64, 96)), resize_picture(pillow, (64, 96)))


def test_fast_reading_is_near(tmp_path):
    """Decoded at a half here. Noise is the hardest case: of photographs the mean difference is one or two levels."""
    Image.fromarray(noise_scene(480, 640)).resize((640, 480), Image.Resampling.BILINEAR).save(tmp_path / "frame.jpg")
    exact = read_picture(tmp_path / "frame.jpg", (192, 256)).astype(int)
    fast = read_picture(tmp_path / "frame.jpg", (192, 256), "fast").astype(int)
    assert fast.shape == exact.shape
    assert 0 < np.abs(fast - exact).mean() < 10


def test_window(tmp_path):
    Image.fromarray(noise_scene(40, 60)).save(tmp_path / "frame.png")
    whole = read_picture(tmp_path / "frame.png")
    part = read_picture(tmp_path / "frame.png", window=Window(0.25, 0.5, 0.75, 1.0))
    np.testing.assert_array_equal(part, whole[10:30, 30:60])
    assert read_picture(tmp_path / "frame.png", window=Window(0.999, 0.999, 1.0, 1.0)).shape == (1, 1, 3)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_broken_pictures_name_their_path(suffix, tmp_path):
    path = tmp_path / f"frame.{suffix}"
    for breaking, complaint in (
        (cut_off, "damaged|Premature|truncated"),
        (damage, "damaged"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.write_text("<html>not found</html>"), "is no picture"),
        (lambda path: path.unlink(), "not found"),
    ):
        Image.fromarray(noise_scene(60, 90)).save(path)
        assert picture_size(path) == (60, 90)
        breaking(path)
        with pytest.raises(PictureError, match=complaint) as caught:
            read_picture(path)
        assert str(caught.value).startswith(f"{path}: ")
        if suffix == "png":
            with pytest.raises(PictureError, match=complaint):
                read_mask(path)
        if breaking is not damage:  # only decoding sees that
            with pytest.raises(PictureError):
                picture_size(path)


def test_grey_and_16_bit_frames(tmp_path):
    scene = noise_scene(60, 90)
    Image.fromarray(scene[..., 0]).save(tmp_path / "grey.jpg")
    assert read_picture(tmp_path / "grey.jpg").shape == (60, 90, 3)
    Image.fromarray(scene[..., 0].astype(np.uint16) * 257).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "deep.png")[..., 1], scene[..., 0])


def test_stray_bytes_between_segments_are_no_damage(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(noise_scene(60, 90)).save(buffer, "JPEG")
    data = buffer.getvalue()
    (tmp_path / "frame.jpg").write_bytes(data[:2] + b"\xff\xfe\x00\x04abJUNK" + data[2:])
    np.testing.assert_array_equal(
        read_picture(tmp_path / "frame.jpg"), np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    )
