"""What is written can be read again, by others, and nothing half-written gets a name."""

import errno
import os

import numpy as np
import pytest
from PIL import Image
from small_videos import moving_square

from hmhi_jax.data.masks import read_mask
from hmhi_jax.errors import InputError
from hmhi_jax.inference.writers import (
    ContactSheet,
    coloured,
    draw_overlay,
    fit_overlay,
    overlay_size,
    write_exr,
    write_palette,
    write_png,
    writing,
)


@pytest.mark.parametrize("shape", [(48, 80), (48, 80, 3), (48, 80, 4)])
def test_png(tmp_path, shape):
    picture = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    write_png(tmp_path / "a.png", picture, tmp_path)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), picture)
    assert os.listdir(tmp_path) == ["a.png"]


def test_labels_in_the_colours_of_davis(tmp_path):
    labels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    write_palette(tmp_path / "a.png", labels, tmp_path)
    image = Image.open(tmp_path / "a.png")
    assert np.array_equal(np.asarray(image), labels)
    palette = np.asarray(image.getpalette()).reshape(-1, 3).tolist()
    assert palette[:5] == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128]]
    assert palette[255] == [224, 224, 192]
    assert np.array_equal(read_mask(tmp_path / "a.png")[..., 0], (labels > 0) & (labels < 255))


def test_exr_has_a_channel_for_each_object(tmp_path):
    OpenEXR = pytest.importorskip("OpenEXR")
    first = np.random.default_rng(0).integers(0, 256, (48, 81), np.uint8)
    write_exr(tmp_path / "a.exr", {"object1.A": first, "object2.A": 255 - first}, tmp_path)
    channels = OpenEXR.File(str(tmp_path / "a.exr"), separate_channels=True).channels()
    assert list(channels) == ["object1.A", "object2.A"]
    # Half floats have 11 bits.
    assert np.abs(channels["object1.A"].pixels.astype(float) - first / 255).max() <= 2**-12
    assert set(np.unique(channels["object2.A"].pixels[first == 0])) == {1.0}
    assert os.listdir(tmp_path) == ["a.exr"]
    with pytest.raises(InputError, match=r"a\.exr: cannot be written \(No such file or directory\)"):
        write_exr(tmp_path / "a.exr", {"object1.A": first}, tmp_path / "gone")


def test_sizes_of_overlays():
    assert overlay_size((720, 1280)) == (720, 1280)
    assert overlay_size((481, 853)) == (480, 852)
    assert overlay_size((2160, 3840)) == (1080, 1920)
    assert overlay_size((3840, 2160)) == (1920, 1080)
    picture = moving_square(1, (49, 81))[0]
    assert np.array_equal(fit_overlay(picture), picture[:48, :80])
    assert fit_overlay(np.zeros((30, 3841, 3), np.uint8)).shape == (14, 1920, 3)


def test_overlay_marks_the_mask_and_leaves_the_rest():
    picture = moving_square(1)[0]
    mask = np.zeros((48, 80), np.uint8)
    mask[10:30, 20:50] = 255
    drawn = draw_overlay(picture, coloured(mask, None))
    far = np.ones_like(mask, bool)
    far[7:33, 17:53] = False
    assert np.array_equal(drawn[far], picture[far])
    assert (drawn[12:28, 22:48, 0] > picture[12:28, 22:48, 0]).mean() > 0.8  # reddened
    assert (drawn[10, 20:50] == 255).all()  # outlined
    assert np.array_equal(draw_overlay(picture, coloured(np.zeros_like(mask), None)), picture)


def test_overlay_tints_each_object_in_its_own_colour():
    picture, mask, labels = (np.zeros(size, np.uint8) for size in ((48, 80, 3), (49, 81), (49, 81)))
    mask[10:20], labels[10:20, :30], labels[10:20, 40:60] = 255, 1, 2
    drawn = draw_overlay(picture, coloured(mask, labels))
    red, green, unnumbered = (drawn[15, column].astype(int) for column in (15, 50, 70))
    assert red[0] > 100 > red[1] + red[2]
    assert green[1] > 100 > green[0] + green[2]
    assert np.array_equal(unnumbered, draw_overlay(picture, coloured(mask, None))[15, 70])
    assert not drawn[25:].any()


@pytest.mark.parametrize("length", [1, 3, 16, 33, 500])
def test_contact_sheet_is_spread_over_any_length(length):
    picture = moving_square(1)[0]
    sheet = ContactSheet()
    again = ContactSheet()
    for index in range(length):
        sheet.add(index, f"{index:05d}", picture)
        again.add(index, f"{index:05d}", picture)
        if index == length // 2:
            again = ContactSheet.restore(*again.state())
    assert np.array_equal(sheet.draw(), again.draw())
    kept = [index for index, _, _ in sheet._kept]
    assert kept[0] == 0
    assert min(length, 16) <= len(kept) <= 32
    assert length - kept[-1] <= max(1, length / 16)
    drawn = sheet.draw()
    assert drawn.shape[1] <= 4 * 350
    assert np.array_equal(drawn[8 : 8 + 48, 8 : 8 + 80], picture)


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.ENOSPC, "free some space and start the same command again"), (errno.EACCES, "a folder you may write to"),
     (errno.EROFS, "a folder you may write to"), (errno.ENOTDIR, "choose another folder")],
)  # fmt: skip
def test_what_disks_say(number, advice):
    line = rf"out/a\.png: cannot be written \({os.strerror(number)}\); .*{advice}"
    with pytest.raises(InputError, match=line), writing("out/a.png"):
        raise OSError(number, os.strerror(number))
