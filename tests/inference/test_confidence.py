"""How sure it is that something moves: the measures, the constants beside weights, and what is marked of a video."""

import dataclasses
import json
import threading

import cv2
import numpy as np
import pytest
from PIL import Image
from small_videos import moving_square, save_frames, save_network

from hmhi_jax.data.open_videos import open_videos
from hmhi_jax.errors import InputError
from hmhi_jax.inference.clean_up import CleanUp
from hmhi_jax.inference.confidence import (
    MEASURES,
    Calibration,
    Lately,
    calibration_file,
    frame_measures,
    read_calibration,
)
from hmhi_jax.inference.masks import Postprocessing
from hmhi_jax.inference.result_folder import ResultFolder
from hmhi_jax.inference.segmenter import VideoSegmenter
from hmhi_jax.inference.video_job import Interrupted, JobOptions, segment_video
from hmhi_jax.inference.writers import ContactSheet
from hmhi_jax.interop.weight_places import shipped_weights


def test_measures_of_a_frame_that_can_be_told():
    """A quarter of the picture is object beyond doubt and moves at full speed; nothing else does."""
    logits = np.full((32, 64), -10, np.float32)
    logits[:16, :32] = 12
    flow = np.full((32, 64, 3), 255, np.uint8)
    flow[:16, :32] = (255, 0, 0)
    measures = dict(zip(MEASURES, frame_measures(logits, flow), strict=True))
    assert measures["strongest"] == 10
    assert measures["area"] == pytest.approx(np.log10(0.25), abs=1e-3)
    assert measures["unsure"] == pytest.approx(4 / (1 + np.exp(10)), rel=0.1)
    assert measures["motion inside"] == pytest.approx(1, abs=1e-3)
    assert measures["motion outside"] == pytest.approx(0, abs=1e-3)
    assert measures["fastest"] == 1
    nothing = dict(
        zip(MEASURES, frame_measures(np.full((32, 64), -99, np.float32), np.full_like(flow, 255)), strict=True)
    )
    assert (nothing["area"], nothing["fastest"]) == (-4, 0)


def test_constants_beside_weights(tmp_path):
    weights = save_network(tmp_path / "net.safetensors")
    assert read_calibration(weights) is None
    assert read_calibration(tmp_path) is None  # a checkpoint's folder
    constants = Calibration((0.5, 0.0, 0.0, 1.0, 0.0, 2.0), -3.0, -1.5)
    path = calibration_file(weights)
    path.write_text(constants.to_json(weights, {"clips": 2}))
    assert read_calibration(weights) == constants
    flow = np.full((8, 8, 3), 255, np.uint8)
    assert constants.log_odds(np.full((8, 8), 4, np.float32), flow) == pytest.approx(0.5 * 4 - 3)
    other = json.loads(path.read_text()) | {"weights": "0" * 64}
    path.write_text(json.dumps(other))
    assert read_calibration(weights) is None  # of weights that were replaced
    path.write_text('{"weights": 1}')
    with pytest.raises(InputError, match=r"net\.confidence\.json: is no calibration"):
        read_calibration(weights)


def test_shipped_weights_have_theirs():
    assert {name for name, path in shipped_weights().items() if read_calibration(path)} >= {"small", "tiny"}


def test_lately_rises_at_once_and_forgets_slowly():
    lately = Lately()
    assert [lately(-4.0), lately(3.0)] == [-4, 3]
    after = [lately(-4.0) for _ in range(40)]
    assert after[0] == pytest.approx(3 - 0.05 * 7)
    assert (np.diff(after) < 0).all()
    assert after[-1] == pytest.approx(-4 + 7 * 0.95**40)


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    return VideoSegmenter.load(save_network(tmp_path_factory.mktemp("weights") / "net.safetensors"))


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    folder = save_frames(tmp_path_factory.mktemp("frames") / "clip", moving_square(24))
    return open_videos([folder])[0]


@pytest.fixture(scope="module")
def threshold(segmenter, video):
    """Above which a third of the pixels are: the small network is a random one."""
    frames = [frame.picture for frame in video.frames()]
    return float(np.quantile(np.stack(list(segmenter.stream(frames, soft=True))), 2 / 3)) / 255


def options(masks, threshold):
    return JobOptions(threshold=threshold, overlay=False, save_every=5, masks=masks)


def pictures_in(folder):
    return {path.name: cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in sorted(folder.iterdir())}


def test_frames_with_nothing_are_empty_and_marked(tmp_path, monkeypatch, segmenter, video, threshold):
    """With constants by which everything, or nothing, moves by itself; on the sheet too."""
    captions, add = [], ContactSheet.add
    monkeypatch.setattr(ContactSheet, "add", lambda sheet, *given: captions.append(given[1]) or add(sheet, *given))
    for name, intercept in (("all", 9.0), ("none", -9.0)):
        masks = Postprocessing(calibration=Calibration((0.0,) * 6, intercept, 0.0))
        folder = ResultFolder(tmp_path / name, {"input": 1, **dataclasses.asdict(masks)})
        summary = segment_video(segmenter, video, folder, options(masks, threshold))
        names = [f"{t:05d}" for t in range(24)]
        assert summary["confidence"] == pytest.approx(dict.fromkeys(names, 1 / (1 + np.exp(-intercept))), abs=1e-4)
        assert summary["nothing_here"] == (names if name == "none" else [])
        assert any(mask.any() for mask in pictures_in(folder.masks).values()) == (name == "all")
        assert all(caption.endswith("nothing here") == (name == "none") for caption in captions)
        assert captions
        captions.clear()


def test_going_on_is_exact(tmp_path, segmenter, video, threshold):
    """Everything that remembers frames at once, stopped in the middle and started again."""
    masks = Postprocessing(CleanUp(min_area=4, feather=1, steady=0.6), 4, Calibration((0.0,) * 5 + (2.0,), -1.0, -0.5))
    identity = {"input": 1, **dataclasses.asdict(masks)}
    whole, parts = (ResultFolder(tmp_path / name, identity, ("masks", "objects")) for name in ("whole", "parts"))
    summary = segment_video(segmenter, video, whole, options(masks, threshold))
    assert summary["objects"]
    stop = threading.Event()

    def at_13(done):
        if done >= 13:
            stop.set()

    with pytest.raises(Interrupted):
        segment_video(segmenter, video, parts, options(masks, threshold), on_progress=at_13, stop=stop)
    again = segment_video(segmenter, video, parts, options(masks, threshold))
    assert again["resumed_at"] >= 10
    for name in ("objects", "confidence", "nothing_here", "area"):
        assert again[name] == summary[name], name
    for one, other in ((whole.masks, parts.masks), (whole.path / "objects", parts.path / "objects")):
        first, second = pictures_in(one), pictures_in(other)
        assert first.keys() == second.keys()
        assert all(np.array_equal(first[name], second[name]) for name in first)
    assert whole.sheet.read_bytes() == parts.sheet.read_bytes()
    with Image.open(whole.picture("objects", "00007")) as picture:
        assert picture.mode == "P"
        assert picture.getpalette()[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0]
        labels = np.asarray(picture)
        assert 0 < labels.max() <= 4
        assert ((labels > 0) <= (pictures_in(whole.masks)["00007.png"] > 127)).all()
