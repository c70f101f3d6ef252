"""Masks made tidy: each step alone on shapes whose pixels can be counted, then their order and flicker."""

import numpy as np
import pytest
from small_videos import moving_square

from hmhi_jax.errors import InputError
from hmhi_jax.inference import CleanUp, clean_up

SIZE = (48, 80)


def boxes(*places):
    """A mask of boxes (top, left, bottom, right)."""
    mask = np.zeros(SIZE, np.uint8)
    for top, left, bottom, right in places:
        mask[top:bottom, left:right] = 255
    return mask


LARGE, SMALL = (10, 10, 30, 40), (40, 70, 43, 73)  # 600 pixels and 9


def test_nothing_is_done_unless_asked():
    mask = boxes(LARGE, SMALL)
    assert CleanUp().frame(mask) is mask


@pytest.mark.parametrize(("least", "left"), [(9, [LARGE, SMALL]), (10, [LARGE]), (601, [])])
def test_small_parts_go(least, left):
    assert np.array_equal(CleanUp(min_area=least).frame(boxes(LARGE, SMALL)), boxes(*left))


@pytest.mark.parametrize(("most", "filled"), [(11, False), (12, True)])
def test_holes_are_filled_up_to_a_size(most, filled):
    mask = boxes(LARGE)
    mask[15:18, 20:24] = 0  # 12 pixels
    mask[0:3, 0:80] = 255
    mask[0:2, 5:8] = 0  # open to the picture's edge: a bay
    cleaned = CleanUp(fill_holes=most).frame(mask)
    assert bool(cleaned[16, 21]) == filled
    assert not cleaned[0, 6]
    assert np.count_nonzero(cleaned) == np.count_nonzero(mask) + 12 * filled


def test_growing_and_shrinking():
    grown = CleanUp(grow=2).frame(boxes(LARGE))
    # Two rows on each side, and of each corner the pixels within 2 of it: (1, 1) alone.
    assert np.count_nonzero(grown) == 600 + 2 * 2 * (20 + 30) + 4
    assert np.array_equal(CleanUp(grow=-2).frame(boxes(LARGE)), boxes((12, 12, 28, 38)))
    assert not CleanUp(grow=5).frame(boxes()).any()
    assert CleanUp(grow=-5).frame(np.full(SIZE, 255, np.uint8)).all()


def test_a_feathered_edge_fades_to_both_sides():
    soft = CleanUp(feather=4).frame(boxes((0, 40, 48, 80)))
    row = soft[24].astype(int)
    assert (np.diff(row) >= 0).all()
    assert row[39] + row[40] == pytest.approx(255, abs=1)
    assert row[40 - 8] < 3
    assert row[39 + 8] > 252


def test_the_order():
    """What is too small goes before it can grow, and the hole is filled before the object shrinks."""
    mask = boxes(LARGE, SMALL)
    mask[19, 25] = 0
    cleaned = CleanUp(min_area=10, fill_holes=1, grow=-1).frame(mask)
    assert np.array_equal(cleaned, boxes((11, 11, 29, 39)))


def test_flicker_is_damped_along_the_motion():
    """The square moves three pixels a frame; its mask fails for a frame, and a flash is where nothing is."""
    frames = moving_square(10)
    masks = [boxes((8, 3 * t, 24, 3 * t + 16)) for t in range(10)]
    flickering = [mask.copy() for mask in masks]
    flickering[6][:] = 0
    flickering[4][36:44, 60:70] = 255
    steady = list(clean_up(flickering, CleanUp(steady=0.6), frames))
    assert {value for mask in steady for value in np.unique(mask)} == {0, 255}
    assert not steady[4][36:44, 60:70].any()
    both = np.count_nonzero(steady[6] & masks[6])
    assert both / np.count_nonzero(steady[6] | masks[6]) > 0.5
    assert [np.array_equal(one, other) for one, other in zip(steady, masks, strict=True)][:3] == [True] * 3


def test_what_is_refused():
    with pytest.raises(InputError, match="steady is 1"):
        CleanUp(steady=1)
    with pytest.raises(InputError, match="give the frames too"):
        list(clean_up([boxes(LARGE)], CleanUp(steady=0.5)))
    for count in (1, 3):
        with pytest.raises(InputError, match="not as many frames as masks"):
            list(clean_up([boxes(LARGE)] * 2, CleanUp(steady=0.5), moving_square(count)))
