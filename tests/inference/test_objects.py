"""Objects keep their numbers: apart, touching, behind one another, and after a state that was saved."""

import json

import numpy as np
import pytest

from hmhi_jax.errors import InputError
from hmhi_jax.inference import track_objects
from hmhi_jax.inference.clean_up import Follower
from hmhi_jax.inference.objects import ObjectTracker

SIZE = (96, 160)


def crossing(frames=30, seed=0):
    """Frames and truth (1, 2) of two textured boxes that go through each other, the second one in front."""
    rng = np.random.default_rng(seed)
    ground = rng.integers(90, 150, (*SIZE, 3), dtype=np.uint8)
    red, blue = (rng.integers(0, 60, (20, 24, 3), dtype=np.uint8) + np.uint8([x]) for x in ((190, 0, 0), (0, 0, 190)))
    pictures, truths = [], []
    for t in range(frames):
        picture, truth = ground.copy(), np.zeros(SIZE, np.uint8)
        for number, box, left in ((1, red, 10 + 4 * t), (2, blue, 126 - 4 * t)):
            picture[40:60, left : left + 24], truth[40:60, left : left + 24] = box, number
        pictures.append(picture)
        truths.append(truth)
    return pictures, truths


def masks_of(truths):
    return [np.uint8(255) * (truth > 0) for truth in truths]


def numbers(labels, truth, number):
    found = labels[truth == number]
    return int(np.bincount(found).argmax()) if found.size else None


def test_numbers_through_a_crossing():
    pictures, truths = crossing()
    labels = list(track_objects(masks_of(truths), pictures, 2))
    one, two = (numbers(labels[0], truths[0], number) for number in (1, 2))
    assert {one, two} == {1, 2}
    for shown, truth in zip(labels, truths, strict=True):
        assert shown.dtype == np.uint8
        assert ((shown > 0) <= (truth > 0)).all()
    for t in [*range(12), *range(20, 30)]:  # apart, or touching
        assert (numbers(labels[t], truths[t], 1), numbers(labels[t], truths[t], 2)) == (one, two), t
        assert np.mean(labels[t][truths[t] == 1] == one) > 0.9


def test_no_more_than_asked_and_the_larger_one_first():
    pictures, truths = crossing(8)
    for truth in truths:
        truth[58:60][truth[58:60] == 2] = 0
    (labels, *_) = track_objects(masks_of(truths), pictures, 1)
    assert numbers(labels, truths[0], 1) == 1
    assert set(np.unique(labels)) == {0, 1}
    with pytest.raises(InputError, match="expected 1 to 200"):
        ObjectTracker(0)


def test_an_object_that_was_out_of_sight_is_known_again():
    pictures, truths = crossing(24)
    seen = masks_of(truths)
    for t in range(6, 10):
        seen[t][truths[t] == 1] = 0
    labels = list(track_objects(seen, pictures, 5))
    one = numbers(labels[5], truths[5], 1)
    assert not labels[7][truths[7] == 1].any()
    assert numbers(labels[11], truths[11], 1) == one


def test_a_cut_carries_nothing_over():
    """In the new shot each box is where the other one was; whoever is known again is known by its looks."""
    pictures, truths = crossing(8)
    shot = [slice(None, None, 1 if t < 4 else -1) for t in range(8)]
    tracker, follow, labels = ObjectTracker(4), Follower(), []
    for t, turn in enumerate(shot):
        if t == 4:
            follow.cut()
        labels.append(tracker(masks_of(truths)[t][:, turn], follow(np.ascontiguousarray(pictures[t][:, turn]))))
    first = [numbers(labels[3], truths[3], number) for number in (1, 2)]
    then = [numbers(labels[7], truths[7][:, ::-1], number) for number in (1, 2)]
    assert all(then)
    assert then[0] != first[1]
    assert then[1] != first[0]


def test_noise_gets_no_number():
    pictures, truths = crossing(8)
    seen = masks_of(truths)
    seen[3][5:10, 140:150] = 255  # 50 pixels of 15,360, for one frame
    tracker, follow = ObjectTracker(5), Follower()
    for mask, picture in zip(seen, pictures, strict=True):
        tracker(mask, follow(picture))
    lines = tracker.objects()
    assert [(line["object"], line["first"], line["last"], line["frames"]) for line in lines] == [
        (1, 0, 7, 8),
        (2, 0, 7, 8),
    ]
    assert lines[0]["mean_area"] == pytest.approx(480 / np.prod(SIZE), rel=0.02)


def test_going_on_from_a_state():
    pictures, truths = crossing()
    seen = masks_of(truths)
    whole = list(track_objects(seen, pictures, 3))
    for split in (1, 14):
        tracker, follow = ObjectTracker(3), Follower()
        for mask, picture in zip(seen[:split], pictures[:split], strict=True):
            tracker(mask, follow(picture))
        arrays, note = tracker.state()
        later, follow_on = ObjectTracker(3), Follower()
        later.restore({name: array.copy() for name, array in arrays.items()}, json.loads(json.dumps(note)))
        follow_on.before = follow.before
        for t in range(split, len(seen)):
            assert np.array_equal(later(seen[t], follow_on(pictures[t])), whole[t]), t
