"""Changes of shot are seen, and nothing else is taken for one. `benchmarks/cuts.py` measures on real cuts."""

import itertools

import numpy as np
import pytest
from small_videos import moving_square

from hmhi_jax.data import shots
from hmhi_jax.data.pictures import read_picture
from hmhi_jax.data.shots import look_of


def changes_shot(before, frame):
    return shots.changes_shot(look_of(before), look_of(frame))


def brightness(picture, gain):
    return np.clip(picture * gain, 0, 255).astype(np.uint8)


def test_shots_of_made_up_scenes():
    scenes = [moving_square(4, (96, 160), seed) for seed in range(4)]
    for scene in scenes:
        for before, frame in itertools.pairwise(scene):
            assert not changes_shot(before, frame)
            assert not changes_shot(before, brightness(frame, 1.6))
            assert not changes_shot(brightness(before, 0.3), brightness(frame, 0.25))
    for one, other in itertools.permutations(scenes, 2):
        assert changes_shot(one[-1], other[0])
        assert changes_shot(brightness(one[-1], 0.4), other[0])


def test_pictures_without_detail():
    black, grey = (np.full((48, 80, 3), value, np.uint8) for value in (0, 90))
    scene = moving_square(1)[0]
    assert not changes_shot(black, black)
    assert not changes_shot(black, grey)  # a fade
    assert changes_shot(black, scene)
    assert changes_shot(scene, grey)


@pytest.mark.parametrize("sequence", ["blackswan", "bmx-trees", "car-shadow", "dog", "libby"])
def test_no_cut_in_davis(davis, sequence):
    files = sorted((davis / "JPEGImages" / "480p" / sequence).iterdir())
    pairs = itertools.pairwise(look_of(read_picture(file)) for file in files)
    assert [number for number, pair in enumerate(pairs, 1) if shots.changes_shot(*pair)] == []
