"""Options of `hmhi segment` for what becomes of masks."""

import json

import numpy as np
import pytest
from PIL import Image
from segment_results import masks_of, refused

from hmhi_jax.data.open_videos import open_videos
from hmhi_jax.inference import CleanUp, clean_up, track_objects
from hmhi_jax.inference.confidence import Calibration, calibration_file
from hmhi_jax.inference.segmenter import VideoSegmenter


def test_clean_up_and_objects(tmp_path, hmhi, weights, clip):
    """What the command writes is what the functions give from Python."""
    out = tmp_path / "out"
    pictures = [frame.picture for frame in open_videos([clip])[0].frames()]
    segmenter = VideoSegmenter.load(weights)
    threshold = round(float(np.quantile(np.stack(list(segmenter.stream(pictures, soft=True))), 0.7)) / 255, 3)
    command = (clip, "-o", out, "--weights", weights, "--no-overlay", "--threshold", threshold)
    wanted = ("--min-area", 5, "--fill-holes", 9, "--grow", -0.5, "--steady", 0.6, "--objects", 2)
    wanted += ("--palette", "--exr", "--coco", "--youtube-vis")
    assert hmhi(*command, *wanted)[0] == 0
    options = CleanUp(min_area=5, fill_holes=9, grow=-0.5, steady=0.6)
    masks = list(clean_up(segmenter.stream(pictures, threshold=threshold), options, pictures))
    assert any(mask.any() for mask in masks)
    assert all(np.array_equal(a, b) for a, b in zip(masks_of(out).values(), masks, strict=True))
    labels = list(track_objects(masks, pictures, 2))
    lines = json.loads((out / "summary.json").read_text())["objects"]
    assert [line["object"] for line in lines] == sorted({*np.unique(labels)} - {0})
    check_exports(out, labels, [line["object"] for line in lines])
    for line in lines:
        seen = [f"{t:05d}" for t, shown in enumerate(labels) if (shown == line["object"]).any()]
        assert (line["first"], line["last"], line["frames"]) == (seen[0], seen[-1], len(seen))
    refused(hmhi(*command), "results made otherwise")
    (out / "objects" / "00003.png").unlink()
    assert hmhi(*command, *wanted)[0] == 0  # what has lost a picture is not finished
    assert (out / "objects" / "00003.png").is_file()
    (out / "objects" / "mine.txt").write_text("")
    refused(hmhi(*command, "--overwrite"), "objects/mine.txt")


def check_exports(out, labels, numbers):
    """By object; labels are written once, whoever asks for them."""
    OpenEXR, coco = pytest.importorskip("OpenEXR"), pytest.importorskip("pycocotools.mask")
    assert not (out / "palette").exists()
    tracks = {track["id"]: track for track in json.loads((out / "youtube_vis.json").read_text())["annotations"]}
    assert sorted(tracks) == numbers
    images = json.loads((out / "coco.json").read_text())["annotations"]
    for t, shown in enumerate(labels):
        assert np.array_equal(Image.open(out / "objects" / f"{t:05d}.png"), shown)
        channels = OpenEXR.File(str(out / "exr" / f"{t:05d}.exr"), separate_channels=True).channels()
        assert list(channels) == ["object1.A", "object2.A"]
        assert {a["attributes"]["track_id"] for a in images if a["image_id"] == t + 1} == {*np.unique(shown)} - {0}
        for number in numbers:
            assert np.array_equal(channels[f"object{number}.A"].pixels, shown == number)
            rle = tracks[number]["segmentations"][t]
            assert np.array_equal(coco.decode(rle) if rle else np.zeros_like(shown), shown == number)


def test_weights_that_mark_frames(tmp_path, hmhi, weights, clip):
    """By constants that call everything unmoved; the same weights without them, and the option, mark nothing."""
    path = calibration_file(weights)
    path.write_text(Calibration((0.0,) * 6, -5.0, -1.0).to_json(weights, {}))
    try:
        for name, option in (("marked", "--nothing-here"), ("left", "--no-nothing-here")):
            out = tmp_path / name
            assert hmhi(clip, "-o", out, "--weights", weights, "--no-overlay", "--threshold", 0.3, option)[0] == 0
            summary = json.loads((out / "summary.json").read_text())
            assert ("confidence" in summary) == (name == "marked")
            assert len(summary.get("nothing_here", ())) == (12 if name == "marked" else 0)
            assert any(mask.any() for mask in masks_of(out).values()) == (name == "left")
    finally:
        path.unlink()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--objects", 0), "--objects 0: expected 1 to 200 objects"),
        (("--steady", 1), "--steady 1.0: expected a share from 0 to 0.99"),
        (("--feather", -1), "--feather -1.0: expected pixels, 0 to 1000"),
        (("--min-area", -1), "--min-area -1: expected 0 or more"),
    ],
)
def test_options_that_are_refused(tmp_path, hmhi, clip, arguments, message):
    refused(hmhi(clip, "-o", tmp_path / "out", *arguments), message)
