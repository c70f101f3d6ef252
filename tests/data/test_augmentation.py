"""Augmentation: what is drawn, and what it does to pixels."""

import colorsys

import numpy as np
import pytest
from made_datasets import noise_scene

from hmhi_jax.data.augmentation import (
    NONE,
    Augmentation,
    ColourChange,
    FlowNoise,
    add_flow_noise,
    change_colours,
    draw_change,
    flip,
)
from hmhi_jax.errors import InputError


def changes(augmentation: Augmentation, count: int = 400, frames: int = 5):
    return [draw_change(np.random.default_rng([1, n]), augmentation, frames) for n in range(count)]


def test_per_clip_all_frames_change_alike_per_frame_they_do_not():
    for change in changes(Augmentation()):
        assert len(set(change.flips)) == 1
        assert len(set(change.colours)) == 1
    per_frame = changes(Augmentation(per="frame"))
    assert any(len(set(change.flips)) == 2 for change in per_frame)
    assert all(len(set(change.colours)) > 1 for change in per_frame)


def test_draws_have_the_release_s_ranges_and_rates():
    drawn = changes(Augmentation())
    colours = [change.colours[0] for change in drawn]
    for name, neutral, low, high in (
        ("brightness", 0, -32, 32), ("contrast", 1, 0.5, 1.5), ("saturation", 1, 0.5, 1.5), ("hue", 0, -18, 18),
    ):  # fmt: skip
        values = np.array([getattr(colour, name) for colour in colours])
        assert 0.4 < np.mean(values != neutral) < 0.6
        assert values.min() >= low
        assert values.max() <= high
        assert values.max() - values.min() > 0.9 * (high - low)
    assert 0.4 < np.mean([change.flips[0] for change in drawn]) < 0.6
    assert 0.4 < np.mean([colour.contrast_first for colour in colours]) < 0.6


def test_nothing_is_drawn_when_off():
    for change in changes(NONE, 20):
        assert change.window is None
        assert not any(change.flips)
        assert not any(change.colours)


def test_flow_that_says_nothing_comes_as_often_as_asked():
    drawn = changes(Augmentation(no_flow=0.2, other_flow=0.3, flow_noise=0.4, still=0.1))
    assert 0.14 < np.mean([all(change.still) for change in drawn]) < 0.26
    assert 0.23 < np.mean([change.other_flow for change in drawn]) < 0.37
    assert 0.33 < np.mean([change.flow_noise is not None for change in drawn]) < 0.47
    assert len({change.flow_noise.seed for change in drawn if change.flow_noise}) > 100
    assert all(len(change.flow_noise.strengths) == 5 for change in drawn if change.flow_noise)
    # Everything else is drawn as without them.
    for with_flow, without in zip(drawn, changes(Augmentation(still=0.1)), strict=True):
        assert (with_flow.window, with_flow.flips, with_flow.colours) == (
            without.window,
            without.flips,
            without.colours,
        )
        assert with_flow.still == without.still or all(with_flow.still)
        assert (without.other_flow, without.flow_noise) == (False, None)


def test_flow_noise_paints_over_the_share_asked_for_and_is_the_same_each_time():
    white, motion = np.full((48, 80, 3), 255, np.uint8), noise_scene(48, 80)
    noise = FlowNoise(seed=7, grain=0.1, share=0.3, strengths=(1.0, 1.0, 0.2))
    first, second, pale = (add_flow_noise(white, noise, frame) for frame in range(3))
    assert 0.15 < (first.min(-1) < 250).mean() < 0.45
    assert (first != second).any()
    assert pale.min() > first.min() + 50
    # Patches stay where they are from frame to frame, more or less.
    overlap = ((first.min(-1) < 250) & (second.min(-1) < 250)).sum() / (first.min(-1) < 250).sum()
    assert overlap > 0.5
    np.testing.assert_array_equal(first, add_flow_noise(white, noise, 0))
    # Where the noise is white the flow stays, where it is not the flow is darker.
    over = add_flow_noise(motion, noise, 0)
    np.testing.assert_array_equal(over[first.min(-1) == 255], motion[first.min(-1) == 255])
    assert (over <= motion).all()


def test_windows_keep_the_shares_asked_for():
    for change in changes(Augmentation(crop=(0.3, 0.6))):
        window = change.window
        assert 0 <= window.top < window.bottom <= 1
        assert 0 <= window.left < window.right <= 1
        assert 0.3 - 1e-9 <= (window.bottom - window.top) * (window.right - window.left) <= 0.6 + 1e-9


def test_brightness_and_contrast_levels():
    picture = np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, -1)
    levels = change_colours(picture, ColourChange(brightness=10.0, contrast=1.5))[0, :, 0]
    np.testing.assert_array_equal(levels, np.clip(np.clip(np.arange(256) + 10, 0, 255) * 1.5, 0, 255).astype(np.uint8))
    darker = change_colours(picture, ColourChange(brightness=-20.0))[0, :, 2]
    np.testing.assert_array_equal(darker, np.clip(np.arange(256) - 20, 0, 255))


@pytest.mark.parametrize("change", [ColourChange(hue=18), ColourChange(hue=-7), ColourChange(saturation=0.5)])
def test_hue_and_saturation_against_the_standard_library(change):
    """8-bit HSV rounds: a few levels. `colorsys` has hue in turns, OpenCV in 180 steps of two degrees."""
    picture = noise_scene(16, 16, seed=3)
    changed = change_colours(picture, change).reshape(-1, 3)
    expected = []
    for red, green, blue in picture.reshape(-1, 3) / 255:
        hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
        expected.append(
            colorsys.hsv_to_rgb((hue + change.hue / 180) % 1, min(1, saturation * change.saturation), value)
        )
    assert np.abs(changed - 255 * np.array(expected)).max() < 8


def test_order_of_contrast_matters_and_neutral_is_exact():
    picture = noise_scene(24, 24)
    np.testing.assert_array_equal(change_colours(picture, ColourChange()), picture)
    first = change_colours(picture, ColourChange(contrast=1.5, saturation=1.5, contrast_first=True))
    last = change_colours(picture, ColourChange(contrast=1.5, saturation=1.5, contrast_first=False))
    assert (first != last).any()


@pytest.mark.parametrize("channels", [1, 3])
def test_flip(channels):
    picture = noise_scene(8, 12)[..., :channels].copy()
    out = np.empty_like(picture)
    flip(picture, out)
    np.testing.assert_array_equal(out, picture[:, ::-1])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("flow_noise", -0.1),
        ("other_flow", 1.5),
        ("no_flow", 2),
        ("flip", 2.0),
        ("per", "video"),
        ("crop", (0.0, 1.0)),
        ("crop_aspect", (2.0, 1.0)),
    ],
)
def test_nonsense_is_refused(field, value):
    with pytest.raises(InputError, match=field):
        Augmentation(**{field: value})
