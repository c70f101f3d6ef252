"""Annotation files have the structure that the published ones have: two small files of our own, in the fields that
YouTube-VIS and SA-V (SAM 2's data set) document, hold the same masks as ours."""

import json
from pathlib import Path

import numpy as np
import pytest

from hmhi_jax.inference.result_writers import coco_json, youtube_vis_json

DATA = Path(__file__).parent / "data"
HEIGHT, WIDTH, FRAMES = 12, 16, 3


def labels(frame):
    """A box that moves to the right, in the last frame out of the picture; an L that is there in the second frame."""
    shown = np.zeros((HEIGHT, WIDTH), np.uint8)
    if frame < 2:
        shown[2:7, 3 + 2 * frame : 9 + 2 * frame] = 1
    if frame == 1:
        shown[8:12, 0], shown[11, 0:5] = 2, 2
    return shown


def decoded(rle):
    """Run lengths as text: numbers of five bits a letter, from the third run on relative to the run before the last;
    runs of 0 and 1 in turn, down the columns."""
    counts, value, shift = [], 0, 0
    for letter in rle["counts"]:
        bits = ord(letter) - 48
        value, shift = value | (bits & 31) << shift, shift + 5
        if not bits & 32:
            value -= (1 << shift) if bits & 16 else 0
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    runs = np.repeat(np.arange(len(counts)) % 2, counts)
    return runs.reshape(rle["size"], order="F").astype(np.uint8)


def read(name):
    return json.loads((DATA / name).read_text())


def test_the_published_structures():
    coco = pytest.importorskip("pycocotools.mask")
    theirs, masklets = read("youtube_vis.json"), read("sa_v.json")
    files = theirs["videos"][0]["file_names"]
    ours = json.loads(youtube_vis_json(files, (HEIGHT, WIDTH), labels))
    for part in ("videos", "annotations", "categories"):
        for one, other in zip(ours[part], theirs[part], strict=True):
            assert one.items() >= {key: other[key] for key in other.keys() & one.keys()}.items()
            optional = {"date_captured", "license", "coco_url", "flickr_url"}
            assert other.keys() - one.keys() <= optional
    assert masklets["video_frame_count"] == FRAMES
    assert (masklets["video_height"], masklets["video_width"]) == (HEIGHT, WIDTH)
    assert masklets["masklet_id"] == [annotation["id"] for annotation in ours["annotations"]]
    for frame in range(FRAMES):
        for place, number in enumerate(masklets["masklet_id"]):
            mask = (labels(frame) == number).astype(np.uint8)
            rle, masklet = ours["annotations"][place]["segmentations"][frame], masklets["masklet"][frame][place]
            assert (rle is None) == (not mask.any())
            for each in filter(None, (rle, masklet)):
                assert np.array_equal(decoded(each), mask)
                assert np.array_equal(coco.decode(each), mask)
            assert rle in (None, masklet)

    images = json.loads(coco_json(files, (HEIGHT, WIDTH), labels))
    assert [image["file_name"] for image in images["images"]] == files
    seen = [(a["image_id"], a["attributes"]["track_id"], a["area"], a["bbox"]) for a in images["annotations"]]
    assert seen == [(1, 1, 30, [3, 2, 6, 5]), (2, 1, 30, [5, 2, 6, 5]), (2, 2, 8, [0, 8, 5, 4])]
    assert all(
        np.array_equal(decoded(a["segmentation"]), labels(a["image_id"] - 1) == a["attributes"]["track_id"])
        for a in images["annotations"]
    )
