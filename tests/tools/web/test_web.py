"""The page of `hmhi web`, served by itself and used in a browser."""

import io
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import av
import jax
import numpy as np
import pytest
from PIL import Image
from small_videos import moving_square, pictures_of, save_frames, save_network, write_video

from hmhi_jax.data.open_videos import open_videos
from hmhi_jax.inference import CleanUp, VideoSegmenter, clean_up, track_objects
from hmhi_jax.inference.confidence import Calibration, calibration_file
from hmhi_jax.inference.writers import coloured, draw_overlay

FRAMES = 12


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """By which nothing moves anywhere."""
    weights = save_network(tmp_path_factory.mktemp("weights") / "net.safetensors")
    calibration_file(weights).write_text(Calibration((0.0,) * 6, -5.0, -1.0).to_json(weights, {}))
    return weights


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", moving_square(FRAMES))


@pytest.fixture(scope="module")
def probabilities(weights, clip):
    """8-bit, of every frame."""
    frames = pictures_of(open_videos([clip])[0])
    return list(VideoSegmenter.load(weights).stream(frames, soft=True))


@pytest.fixture(scope="module")
def server(weights, tmp_path_factory):
    """The address of `hmhi web`, in a process of its own, and the folder with all that visitors have. It ends with
    Ctrl-C and leaves nothing."""
    pytest.importorskip("gradio")
    place = tmp_path_factory.mktemp("place")
    limits = ("--max-megabytes", 1, "--max-frames", 600)
    with (
        (place / "errors").open("w") as errors,
        start("--weights", weights, "--port", 0, *limits, place=place, errors=errors) as process,
    ):
        address = process.stdout.readline().split()[0]
        (home,) = place.glob("hmhi-web-*")
        yield address, home
        process.send_signal(signal.SIGINT)
        process.wait(60)
    assert not home.exists()


def start(*options, place, errors=subprocess.PIPE):
    """`hmhi web`, which knows the small network."""
    script = "import small_network\nfrom hmhi_jax.cli import main\nmain()"
    environment = {
        **os.environ,
        "TMPDIR": str(place),
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
    }
    command = [sys.executable, "-c", script, "web", "--no-browser", *map(str, options)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True)


@pytest.fixture
def visit(browser, server):
    """A visitor with a page of their own; in the end nothing may have been asked for from elsewhere, and nothing of
    theirs is left once the page is closed."""
    contexts, elsewhere = [], []
    address, home = server

    def go(**options):
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda r: None if r.url.startswith((address, "data:", "blob:")) else elsewhere.append(r.url))
        page.set_default_timeout(240_000)  # a busy machine is no failure
        page.goto(address)
        page.wait_for_selector("#find")
        return page

    yield go
    for context in contexts:
        context.close()
    assert not elsewhere
    wait_for(lambda: not files(home))


def files(home):
    """All but the empty ones that Gradio leaves of uploads."""
    return [Path(place) / name for place, _, names in os.walk(home) for name in names if not name.startswith("tmp")]


def wait_for(what, seconds=240):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def upload(page, path, says):
    page.set_input_files("#file input[type=file]", path)
    told(page, says)


def told(page, says):
    page.wait_for_function(f"document.querySelector('#status').innerText.includes({says!r})")


def enter(page, control, number):
    field = page.locator(f"{control} input[type=number]")
    field.fill(number)
    field.press("Enter")


def find(page):
    page.click("#find")
    page.wait_for_function("/^(Done|Stopped)/.test(document.querySelector('#status').innerText)")


def shown(page):
    """The picture right of the line."""
    address = page.locator("#slider img").last.get_attribute("src")
    with urllib.request.urlopen(address) as answer:
        return np.asarray(Image.open(io.BytesIO(answer.read())).convert("RGB"))


def download(page, product, folder):
    with page.expect_download() as waiting:
        page.get_by_role("button", name=product, exact=True).click()
    path = folder / waiting.value.suggested_filename
    waiting.value.save_as(path)
    return path


def test_a_clip_is_segmented_looked_at_and_cut_out(visit, clip, probabilities, server, tmp_path):
    page = visit()
    upload(page, clip, "clip: 80 x 48 pixels, 12 frames, 25 a second")
    find(page)
    assert f"{FRAMES} frames" in page.inner_text("#status")

    frame = FRAMES // 2
    told(page, "Nothing moves by itself in 12 of them: 0 to 11.")
    page.get_by_label("Mask", exact=True).click()
    wait_for(lambda: shown(page).max() < 12)
    page.get_by_label("Empty frames in which nothing moves by itself").click()
    wait_for(lambda: shown(page).max() > 200)
    wait_for(lambda: (np.ptp(shown(page).astype(int), axis=-1) < 12).all())  # grey, apart from what JPEG does
    expected = probabilities[frame] > 127
    assert ((shown(page)[..., 0] > 127) == expected).mean() > 0.98

    enter(page, "#threshold", "0.45")
    expected = probabilities[frame] > 0.45 * 255
    wait_for(lambda: ((shown(page)[..., 0] > 127) == expected).mean() > 0.98)

    masks = [np.where(soft > 0.45 * 255, 255, 0) for soft in probabilities]
    with zipfile.ZipFile(download(page, "Masks", tmp_path)) as archive:
        assert archive.namelist() == [f"{number:05d}.png" for number in range(FRAMES)]
        for name, mask in zip(archive.namelist(), masks, strict=True):
            assert (np.asarray(Image.open(archive.open(name))) == mask).all()
    with zipfile.ZipFile(download(page, "Cut-out, PNG", tmp_path)) as archive:
        picture = Image.open(archive.open("00003.png"))
        assert picture.mode == "RGBA"
        assert (np.asarray(picture)[..., 3] == masks[3]).all()
    with av.open(str(download(page, "Cut-out, MOV", tmp_path))) as video:
        frames = list(video.decode(video=0))
    assert [frame.format.name for frame in frames] == ["yuva444p10le"] * FRAMES
    for decoded, mask in zip(frames, masks, strict=True):
        alpha = np.frombuffer(decoded.planes[3], np.uint16).reshape(48, -1)[:, :80]
        assert (alpha == np.where(mask, 1023, 0)).all()
    for product in ("Matte", "Overlay", "Cut-out, WebM"):
        with av.open(str(download(page, product, tmp_path))) as video:
            assert sum(1 for _ in video.decode(video=0)) == FRAMES
    assert len({path.parts[len(server[1].parts)] for path in files(server[1])}) == 2  # the visitor's, and the upload

    follow_and_number(page, masks, frame, server[1], tmp_path)
    made = page.locator("#slider img").last.get_attribute("src")
    page.close()
    wait_for(lambda: not files(server[1]))
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(made)


def follow_and_number(page, masks, frame, home, folder):
    """Damp the flicker of `masks` and number objects, as the package does; the network does not run again."""
    computed = {path: path.stat().st_mtime_ns for path in home.rglob("soft-*/*.png")}
    previews = [np.asarray(Image.open(path)) for path in sorted(home.rglob("frames/*.jpg"))]
    page.get_by_label("some", exact=True).click()
    told(page, "Followed through 12 frames.")
    steady = list(clean_up([mask.astype(np.uint8) for mask in masks], CleanUp(steady=0.6), previews))
    assert not np.array_equal(steady, masks)
    wait_for(lambda: ((shown(page)[..., 0] > 127) == (steady[frame] > 0)).mean() > 0.98)

    enter(page, "#objects", "2")
    told(page, "Objects: number 1 in ")
    chosen = page.get_by_label("some", exact=True)  # where the pointer still rests
    assert chosen.evaluate("radio => getComputedStyle(radio).backgroundColor") != "rgb(255, 255, 255)"
    labels = list(track_objects(steady, previews, 2))
    for number in (1, 2):
        if seen := sum((each == number).any() for each in labels):
            assert f"number {number} in {seen} frames" in page.inner_text("#status")
    page.get_by_label("Tinted", exact=True).click()
    drawn = draw_overlay(previews[frame], coloured(steady[frame], labels[frame]))
    Image.fromarray(drawn).save(jpeg := io.BytesIO(), "JPEG", quality=90)
    wait_for(lambda: np.array_equal(shown(page), np.asarray(Image.open(jpeg))), seconds=40)
    with zipfile.ZipFile(download(page, "Labels, PNG", folder)) as archive:
        for name, expected in zip(archive.namelist(), labels, strict=True):
            assert (np.asarray(Image.open(archive.open(name))) == expected).all()

    page.locator("#objects button").click()  # back to none
    told(page, "Followed through 12 frames. Nothing")
    page.get_by_label("not", exact=True).click()
    told(page, "Done: 12 frames")
    assert {path: path.stat().st_mtime_ns for path in home.rglob("soft-*/*.png")} == computed


def test_a_recording(visit):
    """Of the browser's own camera, which shows something that turns."""
    page = visit()
    page.get_by_role("tab", name="Record").click()
    page.locator("#camera").get_by_text("Access Webcam").click()
    page.get_by_role("button", name="start recording").get_by_text("Record").click()
    page.wait_for_timeout(3000)
    page.get_by_role("button", name="start recording").get_by_text("Stop").click()
    page.wait_for_function("/1280 x 720 pixels, [0-9]+ frames/.test(document.querySelector('#status').innerText)")
    find(page)
    assert re.match(r"Done: \d+ frames", page.inner_text("#status"))
    assert np.ptp(shown(page)) > 100


def test_two_visitors_do_not_meet(visit, clip, weights, tmp_path):
    """Each sees their own, and a zip of frames serves as well as a video."""
    save_frames(tmp_path / "walk", moving_square(5))
    with zipfile.ZipFile(tmp_path / "walk.zip", "w") as archive:
        for path in sorted((tmp_path / "walk").iterdir()):
            archive.write(path, f"walk/{path.name}")
        archive.write(path, "../../../outside.png")
    one, two = visit(), visit()
    upload(one, clip, "clip:")
    upload(two, tmp_path / "walk.zip", "holds 2 videos")  # what led outside is a second folder of frames
    with zipfile.ZipFile(tmp_path / "walk.zip", "w") as archive:
        for path in sorted((tmp_path / "walk").iterdir()):
            archive.write(path, f"walk/{path.name}")
    upload(two, tmp_path / "walk.zip", "walk: 80 x 48 pixels, 5 frames, 24 a second")
    one.click("#find")
    find(two)
    one.wait_for_function("document.querySelector('#status').innerText.startsWith('Done')")
    assert "12 frames" in one.inner_text("#status")
    assert "5 frames" in two.inner_text("#status")
    sources = [page.locator("#slider img").last.get_attribute("src") for page in (one, two)]
    assert len({Path(source).parts[-3] for source in sources}) == 2


def test_a_page_that_is_closed_stops_its_work(visit, server, tmp_path):
    _, home = server
    long = write_video(tmp_path / "long.mp4", moving_square(600), options={"movflags": "+faststart"})
    page = visit()
    upload(page, long, "600 frames")
    page.click("#find")
    wait_for(lambda: len(list(home.rglob("soft-0/*.png"))) > 3)
    page.close()
    counts = []
    wait_for(lambda: counts.append(len(list(home.rglob("soft-0/*.png")))) or not files(home))
    assert max(counts) < 600


def test_bad_uploads_are_one_line(visit, clip, server, tmp_path):
    page = visit()
    (tmp_path / "broken.mp4").write_bytes(clip.read_bytes()[:60] + b"nothing" * 100)
    upload(page, tmp_path / "broken.mp4", "broken.mp4")
    with zipfile.ZipFile(tmp_path / "broken.zip", "w") as archive:
        archive.writestr("0.png", bytes(100))
    (tmp_path / "broken.zip").write_bytes((tmp_path / "broken.zip").read_bytes().replace(bytes(100), b"x" * 100))
    upload(page, tmp_path / "broken.zip", "broken.zip: cannot be unpacked")
    write_video(tmp_path / "endless.mp4", moving_square(601))
    upload(page, tmp_path / "endless.mp4", "endless.mp4: has 601 frames, this page takes at most 600; cut it")
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0.png", bytes(5_000_000))
    upload(page, tmp_path / "bomb.zip", "bomb.zip: holds 5 MB, this page takes at most 4 MB unpacked")
    alert = page.get_by_role("alert")
    assert "\n" not in alert.inner_text().strip()
    assert str(server[1]) not in alert.inner_text()
    assert not page.locator("#find").is_enabled()
    (tmp_path / "heavy.mp4").write_bytes(bytes(1_100_000))
    page.set_input_files("#file input[type=file]", tmp_path / "heavy.mp4")
    page.get_by_text("exceed the maximum allowed size of 1").wait_for()


def test_a_phone(visit, clip):
    page = visit(viewport={"width": 360, "height": 740}, has_touch=True, color_scheme="dark")
    upload(page, clip, "clip:")
    find(page)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    for name in ("Masks", "Cut-out, MOV"):
        box = page.get_by_role("button", name=name, exact=True).bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 360


def test_only_this_computer_under_its_own_name(server):
    address, _ = server
    with urllib.request.urlopen(address) as answer:
        policy = answer.headers["content-security-policy"]
        page = answer.read().decode()
    assert re.match(r"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:;", policy)
    assert '"analytics_enabled":false' in page.replace(" ", "")
    assert address.startswith("http://127.0.0.1:")
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(urllib.request.Request(address, headers={"Host": "elsewhere.example"}))


def test_what_cannot_be_served_is_one_line(server, weights, tmp_path):
    port = server[0].rpartition(":")[2]
    for options, expected in (
        (("--weights", weights, "--port", port), f"--port {port}: cannot be had"),
        (("--weights", "nowhere"), "nowhere"),
        (("--port", "70000"), "--port 70000: expected 0 to 65535"),
    ):
        _, error = (process := start(*options, place=tmp_path)).communicate(timeout=240)
        assert process.returncode == 2
        assert re.fullmatch(f"error: .*{expected}.*\n", error), error
    assert not list(tmp_path.iterdir())
