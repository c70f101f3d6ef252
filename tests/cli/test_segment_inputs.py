"""`hmhi segment` on inputs as people report them: nothing left out in silence, and as long as it was."""

import json
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import av
import pytest
from PIL import Image
from segment_results import masks_of
from small_videos import moving_square, write_at, write_video


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        """Nothing on standard error."""


def seconds_of(path):
    with av.open(str(path)) as container:
        return container.duration / av.time_base


def test_one_bad_video_of_a_folder_is_named_and_the_others_come_out(tmp_path, hmhi, weights):
    for video in ("a", "b"):
        (tmp_path / "set" / video).mkdir(parents=True)
        for number, picture in enumerate(moving_square(2)):
            Image.fromarray(picture).save(tmp_path / "set" / video / f"{number}.png")
    (tmp_path / "set/b/2.png").symlink_to("/nowhere/2.png")
    (tmp_path / "set/notes.txt").write_text("shot on Monday")
    (tmp_path / "set/linked").symlink_to("a")
    out = tmp_path / "out"
    code, _, err = hmhi(tmp_path / "set", "-o", out, "--weights", weights, "--no-overlay")
    assert code == 1
    assert "error: " in err
    assert "set/b/2.png: is a link to /nowhere/2.png" in err
    assert "set: 1 file passed over, neither pictures nor videos by suffix: notes.txt" in err
    assert sorted(path.name for path in out.iterdir()) == ["a", "linked"]
    assert list(masks_of(out / "linked")) == ["0.png", "1.png"]
    code, text, err = hmhi(tmp_path / "set", "-o", out, "--weights", weights, "--no-overlay")
    assert (code, text.count("finished before")) == (1, 2)


def test_the_overlay_lasts_as_long_as_a_screen_recording(tmp_path, monkeypatch, hmhi, weights):
    """And FFmpeg takes no part of the output's name for a protocol."""
    monkeypatch.chdir(tmp_path)
    write_at(tmp_path / "screen.webm", [0, 40, 80, 600, 640, 1400])
    code, _, err = hmhi("screen.webm", "-o", "out:1", "--weights", weights)
    assert code == 0
    assert "note:" not in err
    summary = json.loads((tmp_path / "out:1/summary.json").read_text())
    assert (summary["frames"], summary["notes"]) == (6, [])
    assert seconds_of(tmp_path / "out:1/overlay.mp4") == pytest.approx(1.44, abs=0.01)


def test_an_animated_picture_has_a_mask_for_each_of_its_pictures(tmp_path, hmhi, weights):
    images = [Image.fromarray(picture) for picture in moving_square(3)]
    images[0].save(tmp_path / "a.webp", save_all=True, append_images=images[1:], duration=100)
    assert hmhi(tmp_path / "a.webp", "-o", tmp_path / "out", "--weights", weights)[0] == 0
    assert list(masks_of(tmp_path / "out")) == ["00000.png", "00001.png", "00002.png"]
    assert seconds_of(tmp_path / "out/overlay.mp4") == pytest.approx(0.3, abs=0.01)


def test_a_password_is_kept_nowhere(tmp_path, hmhi, weights):
    write_video(tmp_path / "clip.mkv", moving_square(3))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://me:s3cret@127.0.0.1:{server.server_port}/clip.mkv"
        code, text, err = hmhi(address, "-o", tmp_path / "out", "--weights", weights, "--no-overlay")
    finally:
        server.shutdown()
    assert code == 0
    assert len(masks_of(tmp_path / "out")) == 3
    summary = (tmp_path / "out/summary.json").read_text()
    assert f"http://127.0.0.1:{server.server_port}/clip.mkv" in summary
    assert "s3cret" not in text + err + summary
