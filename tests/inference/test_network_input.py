"""Frames become the network's input one by one: each with the flow of its own neighbours."""

import cv2
import numpy as np

from hmhi_jax.data.flow import FlowRecipe, flow_picture, neighbours_of
from hmhi_jax.data.video import Frame
from hmhi_jax.inference.network_input import jobs

RECIPE = FlowRecipe(preset="ultrafast", neighbours="both")


def _frames() -> list[Frame]:
    coarse = np.random.default_rng(0).integers(0, 255, (16, 24, 3), np.uint8)
    ground = cv2.resize(coarse, (144, 96), interpolation=cv2.INTER_CUBIC)
    # Frame 2 moves further to the next frame than to the one before it.
    shown = [np.roll(ground, shift, axis=1) for shift in (0, 1, 2, 6, 7)]
    return [Frame(t, f"{t:05}", picture) for t, picture in enumerate(shown)]


def test_flow_of_both_neighbours_also_where_a_video_goes_on():
    frames = _frames()
    drawn = [job.draw() for job in jobs(frames, RECIPE, None)]
    for t, picture in enumerate(drawn):
        other, opposite = neighbours_of(t, 5, RECIPE)
        behind = None if opposite is None else frames[opposite].picture
        expected = flow_picture(frames[t].picture, frames[other].picture, RECIPE, behind)
        np.testing.assert_array_equal(picture, expected)
    assert (drawn[2] != flow_picture(frames[2].picture, frames[3].picture, RECIPE)).any()
    resumed = [job.draw() for job in jobs(frames[3:], RECIPE, frames[2].picture)]
    np.testing.assert_array_equal(resumed, drawn[3:])
