"""`hmhi segment` writes what editors, labelling tools and evaluations take; they read it back as the masks."""

import importlib.util
import json
import shutil
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image
from segment_results import frames_of, masks_of, refused
from small_videos import moving_square, save_frames, write_at

NUMBERS = [f"shot_{number}" for number in range(1001, 1007)]


@pytest.fixture(scope="module")
def phone(tmp_path_factory):
    """Six frames at uneven times, with sound."""
    times = [0, 40, 80, 200, 240, 280]
    return write_at(tmp_path_factory.mktemp("phone") / "phone.mp4", times, "libx264", sound="aac")


def times_and_sound(path):
    with av.open(str(path)) as container:
        times = [packet.pts * packet.time_base for packet in container.demux(video=0) if packet.size]
        return sorted(times), len(container.streams.audio)


def test_everything_at_once(tmp_path, hmhi, weights, phone):
    out = tmp_path / "out"
    command = (phone, "-o", out, "--weights", weights)
    asked = ("--cutout", "webm", "--matte", "--rgba", "--exr", "--palette", "--coco", "--youtube-vis")
    numbered = ("--start-number", 1001, "--padding", 4, "--prefix", "shot_")
    code, text, _ = hmhi(*command, *asked, *numbered)
    assert code == 0
    for name in ("cutout.webm", "matte.mp4", "overlay.mp4", "masks/", "rgba/", "exr/", "objects/", "sheet.png"):
        assert f"{out}/{name}\n" in text
    masks = list(masks_of(out).values())
    assert list(masks_of(out)) == [f"{name}.png" for name in NUMBERS]
    assert any(mask.any() for mask in masks)
    for name, mask in zip(NUMBERS, masks, strict=True):
        rgba = np.asarray(Image.open(out / f"rgba/{name}.png"))
        assert np.array_equal(rgba[..., 3], mask)
        assert np.abs(rgba[..., :3].astype(int) - moving_square(6)[NUMBERS.index(name)]).mean() < 12
        labels = Image.open(out / f"objects/{name}.png")
        assert labels.mode == "P"
        assert np.array_equal(np.asarray(labels), mask // 255)
    for name in ("cutout.webm", "matte.mp4", "overlay.mp4"):
        assert times_and_sound(out / name) == times_and_sound(phone)
    summary = json.loads((out / "summary.json").read_text())
    assert list(summary["area"]) == NUMBERS
    assert summary["settings"]["outputs"]["start_number"] == 1001
    assert {"cutout", "matte", "overlay"} <= summary["seconds"].keys()
    assert not (out / ".unfinished").exists()
    check_exr(out, masks)
    check_annotations(out, masks, [f"{name}.png" for name in NUMBERS])

    assert "finished before" in hmhi(*command, *asked, *numbered)[1]
    refused(hmhi(*command), "holds finished results made otherwise")
    assert hmhi(*command, "--overwrite", "--no-overlay")[0] == 0
    assert sorted(path.name for path in out.iterdir()) == ["masks", "sheet.png", "summary.json"]
    assert list(masks_of(out)) == [f"{number:05d}.png" for number in range(6)]


def check_exr(out, masks):
    OpenEXR = pytest.importorskip("OpenEXR")
    for name, mask in zip(NUMBERS, masks, strict=True):
        channels = OpenEXR.File(str(out / f"exr/{name}.exr"), separate_channels=True).channels()
        assert list(channels) == ["object1.A"]
        assert np.array_equal(channels["object1.A"].pixels, mask // 255)


def check_annotations(out, masks, files):
    """The COCO API, and for what it does not know its run lengths."""
    coco = pytest.importorskip("pycocotools.coco")
    read = coco.COCO(out / "coco.json")
    assert [image["file_name"] for image in read.loadImgs(read.getImgIds())] == files
    for image, mask in zip(read.getImgIds(), masks, strict=True):
        annotations = read.loadAnns(read.getAnnIds(imgIds=[image]))
        assert len(annotations) == mask.any()
        for annotation in annotations:
            assert np.array_equal(read.annToMask(annotation), mask // 255)
            assert annotation["area"] == np.count_nonzero(mask)
            assert tuple(annotation["bbox"]) == cv2.boundingRect(mask)
    content = json.loads((out / "youtube_vis.json").read_text())
    (video,), (annotation,) = content["videos"], content["annotations"]
    assert (video["file_names"], video["length"]) == (files, len(files))
    for segmentation, area, mask in zip(annotation["segmentations"], annotation["areas"], masks, strict=True):
        assert (segmentation is None) == (area is None) == (not mask.any())
        if segmentation:
            assert np.array_equal(coco.maskUtils.decode(segmentation), mask // 255)


def test_annotations_name_the_files_of_frames(tmp_path, hmhi, weights):
    pytest.importorskip("pycocotools")
    frames = save_frames(tmp_path / "frames", moving_square(3), ".jpg", list("abc"))
    assert hmhi(frames, "-o", tmp_path / "out", "--weights", weights, "--coco", "--youtube-vis")[0] == 0
    check_annotations(tmp_path / "out", list(masks_of(tmp_path / "out").values()), ["a.jpg", "b.jpg", "c.jpg"])


def test_a_file_for_the_cutout(tmp_path, hmhi, weights, phone):
    """Beside it, in a folder named after it, what else there is."""
    out, beside = tmp_path / "new" / "cut.mov", tmp_path / "new" / "cut.mov.results"
    command = (phone, "-o", out, "--weights", weights)
    code, text, _ = hmhi(*command)
    assert code == 0
    assert f"  {out}\n  {beside}/masks/\n" in text
    assert sorted(path.name for path in beside.iterdir()) == ["masks", "sheet.png", "summary.json"]
    assert times_and_sound(out) == times_and_sound(phone)
    with av.open(str(out)) as container:
        for frame, mask in zip(container.decode(video=0), masks_of(beside).values(), strict=True):
            alpha = np.frombuffer(frame.planes[3], np.uint16).reshape(frame.height, -1)[:, : frame.width]
            assert np.array_equal(alpha, mask.astype(np.uint16) // 255 * (2 ** frame.format.components[3].bits - 1))
    assert "finished before" in hmhi(*command)[1]
    refused(hmhi(*command, "--threshold", 0.9), r"cut\.mov\.results: holds finished results made otherwise")
    out.unlink()
    assert hmhi(*command)[0] == 0
    assert out.is_file()
    shutil.rmtree(beside)  # whose is the file now?
    before = out.read_bytes()
    refused(hmhi(*command, "--overwrite"), r"cut\.mov: is there already, and this command did not write it")
    assert out.read_bytes() == before


def test_each_of_several_videos_gets_a_cutout(tmp_path, hmhi, weights, phone):
    films = tmp_path / "films"
    films.mkdir()
    for name in "ab":
        shutil.copy(phone, films / f"{name}.mp4")
    command = (films, "--weights", weights, "--max-frames", 4, "--no-overlay", "--devices", 1)
    assert hmhi(*command, "-o", tmp_path / "out", "--cutout", "mov")[0] == 0
    for name in "ab":
        assert frames_of(tmp_path / "out" / name / "cutout.mov") == 4
    refused(hmhi(*command, "-o", tmp_path / "cut.mov"), r"cut\.mov: is one file, but there are 2 videos; name a folder")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "cut.mp4"], r"--out cut\.mp4: a \.mp4 file cannot hold a cut-out.*name a \.mov or \.webm file"),
        (["-o", "cut.AVI"], r"--out cut\.AVI: a \.avi file cannot hold a cut-out"),
        (["-o", "cut.mov", "--cutout", "webm"], r"--out cut\.mov --cutout webm: expected one kind"),
        (["-o", "mine.mov"], r"mine\.mov: is there already, and this command did not write it"),
        (["-o", "nowhere.txt/cut.mov"], r"cut\.mov\.results: cannot be written \(Not a directory\)"),
        (["-o", "out", "--cutout", "mp4"], "--cutout mp4: expected mov or webm"),
        (["-o", "out", "--padding", "0"], "--padding 0: expected 1 to 12 digits"),
        (["-o", "out", "--start-number", "-1"], "--start-number -1: expected a number from 0 on"),
        (["-o", "out", "--prefix", "../a"], r"--prefix \.\./a: expected a part of a file's name"),
        (["-o", "out", "--exr"], r"--exr: needs the package OpenEXR; pip install 'hmhi-jax\[exr\]'"),
        (
            ["-o", "out", "--youtube-vis"],
            r"--youtube-vis: needs .* pip install 'hmhi-jax\[coco\]'",
        ),
    ],
)
def test_wrong_input(tmp_path, monkeypatch, hmhi, weights, phone, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path("mine.mov").write_text("precious")
    Path("nowhere.txt").touch()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    refused(hmhi(phone, *arguments, "--weights", weights), message)
    assert Path("mine.mov").read_text() == "precious"
    assert sorted(path.name for path in Path().rglob("*.png")) == []
