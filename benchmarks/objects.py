"""How many numbers of objects stay right while objects cross, touch and hide each other.

    python benchmarks/objects.py --clips 40           # exact masks: what following them alone gets right
    python benchmarks/objects.py --clips 40 --still   # the camera stands still

Two or three cut-outs of Debian's packages (see `hmhi synthesise --help`) move over a backdrop on paths that meet
half-way, some behind a pole. The mask of a frame is that of all objects together, as the network gives it. A number is
right while most of what is seen of an object has the number it had first, and no other object had it before.
"""

import argparse
import collections

import cv2
import numpy as np

from hmhi_jax.inference.objects import track_objects
from hmhi_jax.tools.synthetic.pictures import find_backdrops, find_cut_outs, find_pictures, load_cut_out, load_picture

SIZE, FRAMES = (288, 512), 48
SEEN = 0.15  # share of an object that must be in view for its number to count


def made_up(seed: int, index: int, still: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames uint8 `[T, H, W, 3]`, truth uint8 `[T, H, W]` (0, or an object's number), and how much of each object is
    in view, `[T, objects]`."""
    rng = np.random.default_rng([seed, index])
    height, width = SIZE
    backdrops, cut_outs = find_backdrops() or find_pictures(), find_cut_outs()
    wide = (width + 160, height + 80)
    scene = cv2.resize(load_picture(backdrops[rng.integers(len(backdrops))]), wide, interpolation=cv2.INTER_AREA)
    pan = np.zeros(2) if still else rng.uniform((-1.5, -0.5), (1.5, 0.5))
    actors, count, turn = [], int(rng.integers(2, 4)), rng.uniform(0, np.pi)
    for number in range(count):
        picture = load_cut_out(cut_outs[rng.integers(len(cut_outs))])
        scale = rng.uniform(0.2, 0.45) * height / max(picture.shape[:2])
        picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        meeting = np.array([width, height]) * rng.uniform(0.42, 0.58, 2)
        # From different sides, so that they are apart in the beginning.
        angle, speed = turn + 2 * np.pi * number / count + rng.normal(0, 0.15), rng.uniform(4.5, 8)
        velocity = speed * np.array([np.cos(angle), 0.6 * np.sin(angle)])
        actors.append((picture, meeting - velocity * (FRAMES / 2 + rng.uniform(-4, 4)), velocity))
    pole = int(rng.uniform(0.3, 0.7) * width) if rng.random() < 0.5 else None
    frames, truths, views = [], [], []
    for t in range(FRAMES):
        left, top = 80 + pan[0] * (t - FRAMES / 2), 40 + pan[1] * (t - FRAMES / 2)
        move = np.float32([[1, 0, -left], [0, 1, -top]])
        frame = cv2.warpAffine(scene, move, (width, height)).astype(np.float32)
        truth, whole = np.zeros(SIZE, np.uint8), []
        for number, (picture, start, velocity) in enumerate(actors, 1):
            x, y = start + velocity * t - np.array(picture.shape[1::-1]) / 2
            patch = cv2.warpAffine(picture, np.float32([[1, 0, x], [0, 1, y]]), (width, height))
            opacity = patch[..., 3:].astype(np.float32) / 255
            frame += (patch[..., :3] - frame) * opacity
            truth[opacity[..., 0] > 0.5] = number
            whole.append(int((picture[..., 3] > 127).sum()))
        if pole is not None:
            at = int(pole - left + 80)
            frame[:, max(at, 0) : max(at + 14, 0)] = (70, 60, 50)
            truth[:, max(at, 0) : max(at + 14, 0)] = 0
        frame += np.random.default_rng([seed, index, t]).normal(0, 2, frame.shape)
        frames.append(np.clip(frame, 0, 255).astype(np.uint8))
        truths.append(truth)
        views.append([(truth == number).sum() / size for number, size in enumerate(whole, 1)])
    return np.stack(frames), np.stack(truths), np.array(views)


def right(labels: np.ndarray, truth: np.ndarray, views: np.ndarray) -> tuple[int, int, bool]:
    """(right, all) of the objects in view in all frames, and whether every object had its number in the last frame it
    was seen in."""
    owner: dict[int, int] = {}
    first: dict[int, int] = {}
    good, total, last = 0, 0, {}
    for shown, true, view in zip(labels, truth, views, strict=True):
        for number, share in enumerate(view, 1):
            if share < SEEN:
                continue
            found = collections.Counter(shown[true == number].tolist()).most_common(1)[0][0]
            if found and number not in first and found not in owner:
                first[number], owner[found] = found, number
            last[number] = bool(found) and first.get(number) == found
            good, total = good + last[number], total + 1
    return good, total, all(last.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--still", action="store_true")
    options = parser.parse_args()
    good = total = kept = alone = 0
    for index in range(options.clips):
        frames, truth, views = made_up(options.seed, index, options.still)
        masks = (truth > 0).astype(np.uint8) * 255
        labels = np.stack(list(track_objects(masks, frames, 8)))
        mine, of, all_kept = right(labels, truth, views)
        good, total, kept = good + mine, total + of, kept + all_kept
        # For comparison: connected parts alone, matched by overlap with the parts of the frame before.
        alone += right(np.stack(list(_by_overlap(masks))), truth, views)[0]
        print(f"clip {index}: {views.shape[1]} objects, {mine} of {of} right, all kept: {'yes' if all_kept else 'no'}")
    print(
        f"right in {good / total:.1%} of {total} sights; all numbers kept to the end in {kept} of {options.clips} clips"
    )
    print(f"by overlap alone: {alone / total:.1%}")


def _by_overlap(masks: np.ndarray):
    """The plain way: a part has the label most of its pixels had before, else a new one."""
    before, unused = np.zeros(masks.shape[1:], np.uint8), 1
    for mask in masks:
        count, parts = cv2.connectedComponents((mask > 0).astype(np.uint8))
        labels = np.zeros_like(before)
        for part in range(1, count):
            own = parts == part
            known = np.bincount(before[own], minlength=256)[1:]
            labels[own] = known.argmax() + 1 if known.any() else min(unused, 255)
            unused += not known.any()
        before = labels
        yield labels


if __name__ == "__main__":
    main()
