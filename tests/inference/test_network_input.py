"""Frames become the network's input one by one: each with the flow of its own neighbours."""

import dataclasses

import cv2
import numpy as np
import pytest

from hmhi_jax.data.flow import FlowRecipe, flow_picture, neighbours_of
from hmhi_jax.data.preprocessing import resize_picture
from hmhi_jax.data.video import Frame
from hmhi_jax.inference import network_input
from hmhi_jax.inference.network_input import prepare, windows
from hmhi_jax.inference.pipeline import StageTimes

RECIPE = FlowRecipe(preset="ultrafast", neighbours="both")


def _frames() -> list[Frame]:
    coarse = np.random.default_rng(0).integers(0, 255, (16, 24, 3), np.uint8)
    ground = cv2.resize(coarse, (144, 96), interpolation=cv2.INTER_CUBIC)
    # Frame 2 moves further to the next frame than to the one before it.
    shown = [np.roll(ground, shift, axis=1) for shift in (0, 1, 2, 6, 7)]
    return [Frame(t, f"{t:05}", picture) for t, picture in enumerate(shown)]


def _drawn(frames: list[Frame], previous: np.ndarray | None = None) -> list[np.ndarray]:
    options = {"network_size": lambda size: size, "times": StageTimes()}
    return [prepare(window, RECIPE, **options).flow for window in windows(frames, RECIPE, previous)]


def test_flow_of_both_neighbours_also_where_a_video_goes_on():
    frames = _frames()
    drawn = _drawn(frames)
    for t, picture in enumerate(drawn):
        other, opposite = neighbours_of(t, 5, RECIPE)
        behind = None if opposite is None else frames[opposite].picture
        expected = flow_picture(frames[t].picture, frames[other].picture, RECIPE, behind)
        np.testing.assert_array_equal(picture, expected)
    assert (drawn[2] != flow_picture(frames[2].picture, frames[3].picture, RECIPE)).any()
    np.testing.assert_array_equal(_drawn(frames[3:], frames[2].picture), drawn[3:])


@pytest.mark.parametrize("flow_size", [None, (64, 96), (48, 80)])
def test_a_frame_is_resized_once_to_each_size(monkeypatch, flow_size):
    """What the network and the flow of two neighbours share gives what each would make for itself."""
    frames, recipe, resized = _frames(), dataclasses.replace(RECIPE, size=flow_size), []

    def counting(picture, size):
        if picture.shape[:2] != size:
            resized.append((picture.tobytes(), size))
        return resize_picture(picture, size)

    options = {"network_size": lambda size: (64, 96), "times": StageTimes()}
    monkeypatch.setattr(network_input, "resize_picture", counting)
    prepared = [prepare(window, recipe, **options) for window in windows(frames, recipe, None)]
    of_frames = {frame.picture.tobytes() for frame in frames}
    sizes = [size for picture, size in resized if picture in of_frames]
    wanted = {(64, 96)} | ({flow_size} if flow_size else set())
    assert sorted(sizes) == sorted([*wanted] * len(frames))
    for t, item in enumerate(prepared):
        other, opposite = neighbours_of(t, 5, recipe)
        behind = None if opposite is None else frames[opposite].picture
        expected = flow_picture(frames[t].picture, frames[other].picture, recipe, behind)
        np.testing.assert_array_equal(item.flow, resize_picture(expected, (64, 96)))
        np.testing.assert_array_equal(item.picture, resize_picture(frames[t].picture, (64, 96)))
