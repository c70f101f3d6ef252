"""What is written can be read again, by others, and nothing half-written gets a name."""

import errno
import os
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from small_videos import moving_square

from hmhi_jax.errors import InputError
from hmhi_jax.inference.writers import (
    ContactSheet,
    OverlayWriter,
    draw_overlay,
    fit_overlay,
    overlay_size,
    write_png,
    writing,
)


def decode(path):
    """(codec, frame rate and shape of a pixel; frames; times) of a video."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        times = [frame.pts * frame.time_base for frame in frames]
        kind = stream.codec_context.name, stream.average_rate, stream.sample_aspect_ratio
        return kind, [frame.to_ndarray(format="rgb24") for frame in frames], times


@pytest.mark.parametrize("picture", [moving_square(1)[0], moving_square(1)[0][..., 0]])
def test_png(tmp_path, picture):
    write_png(tmp_path / "a.png", picture, tmp_path)
    read = cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(read[..., ::-1] if read.ndim == 3 else read, picture)
    assert os.listdir(tmp_path) == ["a.png"]


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
    drawn = draw_overlay(picture, mask)
    far = np.ones_like(mask, bool)
    far[7:33, 17:53] = False
    assert np.array_equal(drawn[far], picture[far])
    assert (drawn[12:28, 22:48, 0] > picture[12:28, 22:48, 0]).mean() > 0.8  # reddened
    assert (drawn[10, 20:50] == 255).all()  # outlined
    assert np.array_equal(draw_overlay(picture, np.zeros_like(mask)), picture)


def test_overlay_video_in_parts_plays_as_one(tmp_path):
    pictures = moving_square(11)
    writer = OverlayWriter(tmp_path, Fraction(30000, 1001), Fraction(4, 3))
    for number, picture in enumerate(pictures):
        writer.add(picture)
        if number in (3, 6):
            writer.cut()
    final = tmp_path / "final.mp4"
    writer.finish(final)
    kind, frames, times = decode(final)
    assert (*kind, len(frames)) == ("h264", Fraction(30000, 1001), Fraction(4, 3), 11)
    assert times == [n * Fraction(1001, 30000) for n in range(11)]
    for frame, picture in zip(frames, pictures, strict=True):
        assert np.abs(frame.astype(int) - picture).mean() < 12
    assert os.listdir(tmp_path) == ["final.mp4"]


def test_overlay_video_goes_on_after_a_break(tmp_path):
    pictures = moving_square(9)
    writer = OverlayWriter(tmp_path, Fraction(25))
    for number, picture in enumerate(pictures[:7]):
        writer.add(picture)
        if number == 3:
            writer.cut()
    writer.close()  # as if killed: frames 4 to 6 are in a part that does not count
    (tmp_path / "overlay-000000004.mp4").write_bytes(b"half of it")
    writer = OverlayWriter(tmp_path, Fraction(25), begin=4)
    for picture in pictures[4:]:
        writer.add(picture)
    writer.finish(tmp_path / "final.mp4")
    _, frames, _ = decode(tmp_path / "final.mp4")
    assert len(frames) == 9
    for frame, picture in zip(frames, pictures, strict=True):
        assert np.abs(frame.astype(int) - picture).mean() < 12


@pytest.mark.parametrize("size", [(16, 16), (17, 33)])
def test_overlay_video_of_tiny_frames(tmp_path, size):
    writer = OverlayWriter(tmp_path, Fraction(1))
    writer.add(fit_overlay(np.full((*size, 3), 90, np.uint8)))
    writer.finish(tmp_path / "final.mp4")
    _, frames, _ = decode(tmp_path / "final.mp4")
    assert frames[0].shape == (16, size[1] // 2 * 2, 3)


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


def test_encoder_errors_are_input_errors(tmp_path):
    """The folder disappears under the writer."""
    place = tmp_path / "gone"
    place.mkdir()
    writer = OverlayWriter(place, Fraction(25))
    place.rmdir()
    with pytest.raises(InputError, match=r"overlay\.mp4: cannot be written \(No such file or directory\)"):  # noqa: PT012
        writer.add(moving_square(1)[0])
        writer.cut()
