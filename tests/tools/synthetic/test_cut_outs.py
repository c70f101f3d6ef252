"""Objects that are pictures with opacity, photographs as backdrops, and what comes with them."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from hmhi_jax.data.flow import FlowRecipe
from hmhi_jax.errors import InputError
from hmhi_jax.tools.synthetic import pictures
from hmhi_jax.tools.synthetic.casting import body_extent, cut_out_body, paint_body, paint_cut_out
from hmhi_jax.tools.synthetic.clips import ClipMaker
from hmhi_jax.tools.synthetic.pictures import find_backdrops, find_cut_outs, find_pictures, load_cut_out
from hmhi_jax.tools.synthetic.scene import SceneMaker
from hmhi_jax.tools.synthetic.settings import DEFAULTS, FEATURES, PHOTOGRAPHIC, Settings
from hmhi_jax.tools.synthetic.textures import Looks, TextureMaker

BARE = dataclasses.replace(
    DEFAULTS, size=(96, 160), recipe=FlowRecipe(camera="affine", normalisation="robust"), **dict.fromkeys(FEATURES, 0.0)
)


@pytest.fixture
def folder(tmp_path):
    """A red tower on transparent ground (with a dark, transparent surrounding), and a blue photograph."""
    tower = np.zeros((80, 100, 4), np.uint8)
    tower[20:70, 40:60] = (220, 30, 30, 255)
    tower[20:70:6, 40:60, :3] = (90, 10, 10)
    Image.fromarray(tower).save(tmp_path / "tower.png")
    place = np.full((300, 500, 3), (20, 40, 200), np.uint8)
    place[::7] = (60, 90, 220)
    Image.fromarray(place).save(tmp_path / "place.jpg", quality=95)
    return tmp_path


def test_opacity_tells_cut_outs_from_backdrops(folder):
    assert [path.name for path in find_cut_outs((str(folder),))][-1] == "tower.png"
    assert [path.name for path in find_backdrops((str(folder),))][-1] == "place.jpg"
    names = [path.name for path in find_pictures((str(folder),))]
    assert names[-1] == "place.jpg"
    assert "tower.png" not in names


def test_of_an_unpacked_package_only_the_listed_files_are_taken(tmp_path):
    inside = tmp_path / "usr" / "share"
    listed = pictures._table()[0]["file"]
    assert pictures._table()[0]["kind"] == "backdrop"
    for name in (listed, "backgrounds/another.jpg"):
        (inside / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(inside / name)
    assert [path for path in find_backdrops((str(tmp_path),)) if tmp_path in path.parents] == [inside / listed]


def test_every_listed_picture_has_an_author_and_free_terms():
    rows = pictures._table()
    assert len({row["file"] for row in rows}) == len(rows) > 200
    for row in rows:
        assert row["author"].strip()
        assert row["kind"] in ("cut-out", "backdrop")
        assert row["terms"] in ("public domain", "CC0 1.0") or row["terms"].startswith("CC BY ")


def test_cut_outs_lose_their_margin_and_their_dark_edges(folder):
    tower = load_cut_out(folder / "tower.png")
    assert tower.shape == (50, 20, 4)
    Image.fromarray(np.dstack([np.zeros((9, 9, 3), np.uint8), np.zeros((9, 9), np.uint8)])).save(folder / "empty.png")
    with pytest.raises(InputError, match=r"empty\.png: is transparent everywhere"):
        load_cut_out(folder / "empty.png")
    round_one = np.zeros((60, 60, 4), np.uint8)
    y, x = np.mgrid[:60, :60]
    round_one[np.hypot(y - 30, x - 30) < 25] = (240, 240, 240, 255)
    Image.fromarray(round_one).save(folder / "round.png")
    loaded = load_cut_out(folder / "round.png")
    assert (loaded[..., 3] < 128).any()
    near = loaded[..., 3] == 0
    near[6:-6, 6:-6] = False
    assert loaded[near][:, :3].max() > 200  # light goes on outside


def test_the_outline_and_the_patch_are_where_the_picture_is(folder):
    rng = np.random.default_rng(0)
    body = cut_out_body(rng, folder / "tower.png")
    area, top, base = body_extent(body)
    assert top == pytest.approx(-0.5, abs=0.03)
    assert base == pytest.approx(0.5, abs=0.03)
    assert area == pytest.approx(body.picture.shape[1] / body.picture.shape[0], rel=0.12)
    black = np.zeros((90, 90, 3), np.uint8)
    (patch,), (fit,) = paint_body(rng, TextureMaker([], 0.0), body, 60, black, Looks())
    corners = np.array([[*body.parts[0].outline.min(0), 1], [*body.parts[0].outline.max(0), 1]]) @ fit.T
    np.testing.assert_allclose(corners[0, :2], (0, 0), atol=1.5)
    np.testing.assert_allclose(corners[1, :2], patch.shape[1::-1], atol=1.5)


def test_camouflage_wears_the_backdrop_and_other_surfaces_hide_the_colour(folder):
    body = cut_out_body(np.random.default_rng(0), folder / "tower.png")
    green = np.full((120, 120, 3), (20, 200, 30), np.uint8)
    hidden, plain, dressed = [], [], []
    for seed in range(12):
        for kept, looks in ((hidden, Looks(camouflage=1.0)), (plain, Looks()), (dressed, Looks(retextured=1.0))):
            (patch,), _ = paint_cut_out(np.random.default_rng(seed), TextureMaker([], 0.0), body, 60, green, looks)
            kept.append(patch[patch[..., 3] > 200][:, :3].mean(0))
    assert all(colour[1] > colour[0] for colour in hidden)
    assert np.mean([colour[0] > 1.5 * colour[1] for colour in plain]) >= 0.5
    assert np.std(np.array(dressed), axis=0).max() > np.std(np.array(hidden), axis=0).max()


def _scenes(settings: Settings, folder, count: int = 10):
    textures = TextureMaker([], 0.0, find_backdrops((str(folder),))[-1:])
    maker = SceneMaker(settings, textures, find_cut_outs((str(folder),))[-1:])
    return [maker.draw(np.random.default_rng(seed), 0.0, 10.0) for seed in range(count)]


def test_objects_are_cut_outs_and_backdrops_photographs(folder):
    scenes = _scenes(dataclasses.replace(BARE, cut_outs=1.0, scenes=1.0), folder)
    assert all(scene.traits["body"] == "tower" for scene in scenes)
    for scene in scenes:
        target = scene.render(5.0)
        red, green, blue = target.colour[target.mask < 0.1].mean(0)
        assert blue > 1.3 * max(red, green)


def test_filling_and_small_objects(folder):
    def areas(**changes):
        scenes = _scenes(dataclasses.replace(BARE, cut_outs=0.5, **changes), folder, 14)
        return [float((scene.render(5.0).mask > 0.5).mean()) for scene in scenes]

    assert np.median(areas(fills=1.0)) > 0.3
    assert 0 < np.median(areas(small_fast=1.0)) < 0.012


def test_small_and_filling_clips_are_accepted_as_such(folder):
    maker = ClipMaker(dataclasses.replace(BARE, small_fast=1.0, cut_outs=1.0), (str(folder),))
    clips = [maker(3, index) for index in range(6)]
    assert np.median([clip.masks.mean() for clip in clips]) < 0.015


def test_legs_swing_and_the_rest_does_not(folder):
    """Below the hip the outline moves with the gait; the upper half stays where the object's plane takes it."""
    scenes = _scenes(dataclasses.replace(BARE, cut_outs=1.0, limbs=1.0), folder, 20)
    actors = [scene.layers[-1] for scene in scenes]
    swinging = [actor for actor in actors if actor.bend is not None]
    assert len(swinging) >= 10
    assert all(actor.hip < actor.base for actor in swinging)
    assert not any(
        actor.bend for actor in (s.layers[-1] for s in _scenes(dataclasses.replace(BARE, cut_outs=1.0), folder))
    )
    actor = swinging[0]
    opacity = np.zeros((96, 160), np.float32)
    plane = np.linalg.inv(actor.plane(0.0))
    y, x = np.mgrid[:96, :160]
    inside = (np.stack([x, y, np.ones_like(x)], -1) @ plane.T)[..., :2]
    opacity[np.abs(inside[..., 0]) < 0.1] = 1
    moved = dataclasses.replace(actor, gait=lambda time: np.pi / 2 - actor.bend.phases[0])._bent(
        np.zeros((96, 160, 3), np.float32), opacity, 0.0
    )[1]
    above, below = inside[..., 1] < actor.hip - 0.02, inside[..., 1] > actor.base - 0.05
    assert np.abs(moved - opacity)[above].max() < 0.1
    assert np.abs(moved - opacity)[below].max() > 0.3


def test_smoke_is_seen_and_is_not_the_object(folder):
    settings = dataclasses.replace(BARE, cut_outs=1.0, scenes=1.0)
    seen = 0
    for seed in range(8):
        with_smoke = _scenes(dataclasses.replace(settings, smoke=1.0), folder, seed + 1)[-1]
        puffs = [layer for layer in with_smoke.layers if getattr(layer, "fade", None)]
        assert len(puffs) >= 5
        clear = dataclasses.replace(
            with_smoke, layers=tuple(la for la in with_smoke.layers if not getattr(la, "fade", None))
        )
        smoky, bare = with_smoke.render(6.0), clear.render(6.0)
        seen += np.abs(smoky.colour - bare.colour).max() > 20
        assert not ((smoky.mask > 0.5) & (bare.mask < 0.5)).any()
    assert seen >= 6


def test_what_is_off_by_default_changes_no_clip():
    """Fields of the new features do not touch the stream of random numbers while they are 0."""
    plain = dataclasses.replace(BARE, props=0.5, soft=0.5)
    one = ClipMaker(plain)(4, 2)
    other = ClipMaker(dataclasses.replace(plain, retextured=1.0, limbs=1.0))(4, 2)
    np.testing.assert_array_equal(one.frames, other.frames)


def test_the_photographic_preset_is_whole():
    assert Settings.from_json(PHOTOGRAPHIC.to_json()) == PHOTOGRAPHIC
    assert PHOTOGRAPHIC.recipe.neighbours == DEFAULTS.recipe.neighbours == "next"
    assert PHOTOGRAPHIC.recipe.size == PHOTOGRAPHIC.size
    with pytest.raises(InputError, match="longest_stride is 0"):
        Settings(longest_stride=0)
