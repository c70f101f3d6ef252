"""Pictures that come through a pipe, and masks that go on through one."""

import io
import json
import re
import subprocess
import sys

import av
import numpy as np
import pytest
from segment_results import masks_of, refused, start
from small_videos import moving_square

from hmhi_jax.inference.segmenter import VideoSegmenter

PICTURES = moving_square(5)
RAW = b"".join(picture.tobytes() for picture in PICTURES)
GIVEN = ("--size", "80x48", "--rate", "25")


def y4m(pictures):
    """The pictures as YUV4MPEG2, and what they are once decoded."""
    file = io.BytesIO()
    with av.open(file, "w", format="yuv4mpegpipe") as container:
        stream = container.add_stream("wrapped_avframe", rate=30)
        stream.height, stream.width, stream.pix_fmt = *pictures[0].shape[:2], "yuv444p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
    with av.open(io.BytesIO(file.getvalue())) as container:
        return file.getvalue(), [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.fixture
def piped(monkeypatch, hmhi):
    """Run the command with some bytes on standard input."""

    def run(data, *arguments):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        return hmhi("-", *arguments)

    return run


def test_raw_pictures_and_y4m_into_a_folder(tmp_path, piped, weights):
    data, decoded = y4m(PICTURES)
    segmenter = VideoSegmenter.load(weights, chunk=1)
    for name, given, pictures, rate in (("raw", (RAW, *GIVEN), PICTURES, 25), ("y4m", (data,), decoded, 30)):
        out = tmp_path / name
        assert piped(given[0], "-o", out, "--weights", weights, *given[1:])[0] == 0
        masks = masks_of(out)
        assert list(masks) == [f"{i:07d}.png" for i in range(5)]
        assert all(np.array_equal(*pair) for pair in zip(masks.values(), segmenter.stream(pictures), strict=True))
        summary = json.loads((out / "summary.json").read_text())
        assert (summary["frame_rate"], summary["frame_size"], summary["network_size"]) == (rate, [48, 80], [64, 64])


def test_what_ends_in_the_middle_of_a_frame_loses_no_frame_before(tmp_path, piped, weights):
    data, _ = y4m(PICTURES)
    for name, bytes_, given in (("raw", RAW[:-100], GIVEN), ("y4m", data[:-100], ())):
        out = tmp_path / name
        outcome = piped(bytes_, "-o", out, "--weights", weights, *given)
        refused(outcome, "standard input: ends in the middle of a frame.*; the 4 whole frames before are done")
        assert len(masks_of(out)) == json.loads((out / "summary.json").read_text())["frames"] == 4


@pytest.mark.parametrize(
    ("data", "arguments", "message"),
    [
        (RAW[:5000], GIVEN, r"holds 5000 bytes, expected at least a frame, 11520 bytes, 80 x 48 pixels"),
        (b"", GIVEN, "standard input: holds 0 bytes"),
        (b"", (), r"standard input: .*cannot be opened|is no video"),
        (RAW, ("--rate", "25"), "no --size: raw pictures on standard input need their size, WIDTHxHEIGHT"),
        (RAW, ("--rate", "25", "--size", "auto"), "--size auto: raw pictures .* need their size"),
        (RAW, ("--rate", "25", "--size", "8x8"), "is 8 x 8 pixels, expected at least 16 x 16"),
        (RAW, (*GIVEN, "--network-size", "50x50"), "50x50: expected HEIGHTxWIDTH in multiples of 32"),
        (RAW, (), "standard input: is no video that can be read"),
        (y4m(PICTURES)[0], GIVEN, "is YUV4MPEG2, which says its size and rate itself; leave --rate out"),
        (RAW, (*GIVEN, "--start", "7"), "standard input: ended before frame 7, the first that is wanted"),
    ],
)
def test_wrong_pipes(tmp_path, piped, weights, data, arguments, message):
    refused(piped(data, "-o", tmp_path / "out", "--weights", weights, *arguments), message)
    assert not list(tmp_path.glob("out/**/*.png"))


def test_masks_on_standard_output(weights, hmhi, clip, tmp_path):
    """And nothing else, whatever is told meanwhile; those before the cut in the pipe are all there."""
    process = start(
        "-", "-o", "-", "--weights", weights, *GIVEN, "--start", 1, text=False, stdin=subprocess.PIPE
    )  # fmt: skip
    masks, told = process.communicate(RAW[:-1])
    (error,) = re.findall("error: .*\n", told.decode())
    refused((process.returncode, "", error), "ends in the middle of a frame.*the 4 whole frames before are done")
    expected = VideoSegmenter.load(weights, chunk=1).stream(PICTURES[1:4])
    assert masks == b"".join(mask.tobytes() for mask in expected)

    reading_stopped = start(clip, "-o", "-", "--weights", weights, text=False)
    reading_stopped.stdout.close()
    told = reading_stopped.stderr.read()
    refused((reading_stopped.wait(), "", told.decode()), r"standard output: takes no more masks \(Broken pipe\)")
    refused(hmhi(clip, tmp_path, "-o", "-", "--weights", weights), "holds no frames")
    (tmp_path / "a.mp4").write_bytes(clip.read_bytes())
    refused(hmhi(clip, tmp_path, "-o", "-", "--weights", weights), "--out -: takes the masks of one video, .* are 2")
