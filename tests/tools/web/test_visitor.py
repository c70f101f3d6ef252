"""What a visitor of the page has, without the page."""

import zipfile

import numpy as np
import pytest
from PIL import Image
from small_videos import moving_square, save_network, write_video

from hmhi_jax.inference import CleanUp, clean_up, track_objects
from hmhi_jax.inference.confidence import Calibration, calibration_file
from hmhi_jax.tools.web.visitor import SIZES, Limits, Visitor, calibration_of
from hmhi_jax.tools.web.work import PRODUCTS, Look


def done(visitor):
    """Wait for the job."""
    visitor.job._thread.join()
    assert not visitor.job.failure


@pytest.fixture(scope="module")
def visitor(tmp_path_factory):
    """One whose weights call everything unmoved."""
    tmp_path = tmp_path_factory.mktemp("visitor")
    weights = save_network(tmp_path / "net.safetensors")
    calibration_file(weights).write_text(Calibration((0.0,) * 6, -5.0, -1.0).to_json(weights, {}))
    calibration_of.cache_clear()
    clip = write_video(tmp_path / "clip.mp4", moving_square(6))
    visitor = Visitor(tmp_path / "home", str(weights), Limits())
    visitor.folder.parent.mkdir()
    visitor.open(str(clip))
    visitor.segment(SIZES[0])
    done(visitor)
    yield visitor
    visitor.close()


def test_frames_with_nothing_are_marked_and_empty_if_wanted(visitor):
    assert [seen.nothing for seen in visitor.seen] == [True] * 6
    for look in (Look(0.3, objects=objects, nothing=nothing) for objects in (0, 2) for nothing in (True, False)):
        if look.follows:
            visitor.follow(look)
            done(visitor)
        masks = [visitor.masks(number, look)[0] for number in range(6)]
        assert any(mask.any() for mask in masks) != look.nothing
        assert bool(visitor.objects) == bool(look.objects and not look.nothing)


def test_followed_as_the_command_does(visitor):
    look = Look(0.3, CleanUp(steady=0.6), objects=2, nothing=False)
    visitor.follow(look)
    done(visitor)
    previews = [np.asarray(Image.open(path)) for path in sorted((visitor.folder / "frames").iterdir())]
    steady = list(clean_up([look.mask(visitor.soft(number)) for number in range(6)], look.clean_up, previews))
    for number, shown in enumerate(zip(steady, track_objects(steady, previews, 2), strict=True)):
        assert all(map(np.array_equal, visitor.masks(number, look), shown))


@pytest.mark.parametrize("kind", PRODUCTS)
def test_only_what_is_asked_for_is_written(visitor, kind):
    """Of a video no pictures, and of pictures no others."""
    look = Look(0.3, nothing=False)
    path = visitor.make(kind, look)
    done(visitor)
    assert path.stat().st_size
    pictures = list(path.parent.rglob("*.png"))
    assert {each.parent.name for each in pictures} == ({PRODUCTS[kind].found} if path.suffix == ".zip" else set())
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            assert len(archive.namelist()) == 6
            last = np.asarray(Image.open(archive.open(archive.namelist()[-1])))
        mask = visitor.masks(5, look)[0]
        assert np.array_equal(last if last.ndim == 2 else last[..., 3], mask // (255 if last.max() == 1 else 1))
