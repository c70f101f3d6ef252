"""Made-up clips: the same from a seed anywhere, exact masks and flow, flow pictures as at test time."""

import dataclasses

import cv2
import numpy as np
import pytest
import simplejpeg

from hmhi_jax.data.flow import FlowRecipe, estimate_flow, flow_picture
from hmhi_jax.errors import InputError
from hmhi_jax.tools.synthetic.bodies import part_matrices, random_body, silhouette
from hmhi_jax.tools.synthetic.casting import Looks, object_materials
from hmhi_jax.tools.synthetic.clips import ClipMaker
from hmhi_jax.tools.synthetic.motion import Progress
from hmhi_jax.tools.synthetic.pictures import find_pictures, load_picture
from hmhi_jax.tools.synthetic.scene import SceneMaker
from hmhi_jax.tools.synthetic.settings import FEATURES, Settings
from hmhi_jax.tools.synthetic.textures import TextureMaker, noise_field

SMALL = Settings(size=(64, 96), recipe=FlowRecipe(camera="affine", normalisation="robust"), pictures=0.0)
# Nothing but one rigid object before a flat backdrop.
BARE = dataclasses.replace(SMALL, **dict.fromkeys(FEATURES, 0.0))


def test_a_clip_depends_on_seed_and_index_alone():
    first, again = ClipMaker(SMALL), ClipMaker(SMALL)
    again(5, 0)
    one, other = first(5, 3), again(5, 3)
    for name in ("frames", "flows", "masks"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert one.jpegs == other.jpegs
    assert not np.array_equal(one.frames[0], first(6, 3).frames[0])
    assert first.length(5, 3) == len(one.frames)


def test_clips_have_the_promised_form():
    maker = ClipMaker(SMALL)
    lengths, areas = set(), []
    for index in range(16):
        clip = maker(1, index)
        count = len(clip.frames)
        lengths.add(count)
        assert clip.frames.shape == clip.flows.shape == (count, 64, 96, 3)
        assert clip.masks.shape == (count, 64, 96)
        assert set(np.unique(clip.masks)) <= {0, 1}
        areas.append(clip.masks.mean())
        for jpeg, frame in zip(clip.jpegs, clip.frames, strict=True):
            np.testing.assert_array_equal(simplejpeg.decode_jpeg(jpeg), frame)
    assert lengths == {5, 6}
    assert min(areas) < 0.03
    assert max(areas) > 0.08


def test_flow_pictures_are_what_the_recipe_makes_of_the_frames():
    """Where the next frame of the clip is the flow's second frame, the recipe gives the stored picture exactly."""
    maker = ClipMaker(dataclasses.replace(SMALL, exact_flow=0.0))
    checked = 0
    for index in range(12):
        clip = maker(2, index)
        if clip.traits["stride"] != clip.traits["gap"] or clip.traits["backward"]:
            continue
        np.testing.assert_array_equal(clip.flows[0], flow_picture(clip.frames[0], clip.frames[1], SMALL.recipe))
        checked += 1
    assert checked >= 3


def test_flow_pictures_of_both_neighbours():
    recipe = dataclasses.replace(SMALL.recipe, neighbours="both")
    maker = ClipMaker(dataclasses.replace(SMALL, recipe=recipe, exact_flow=0.0, one_sided=0.0, backward_flow=0.0))
    checked = 0
    for index in range(8):
        clip = maker(2, index)
        if clip.traits["stride"] == clip.traits["gap"]:
            expected = flow_picture(clip.frames[1], clip.frames[2], recipe, clip.frames[0])
            np.testing.assert_array_equal(clip.flows[1], expected)
            checked += 1
    assert checked >= 3


def _scene(settings: Settings, seed: int):
    maker = SceneMaker(settings, TextureMaker([]))
    return maker.draw(np.random.default_rng(seed), 0.0, 8.0)


@pytest.mark.parametrize(
    "features", [{}, {"relief": 1.0}, {"waves": 1.0}, {"relief": 1.0, "waves": 1.0, "tracking": 1.0}]
)
def test_exact_flow_carries_one_frame_to_the_next(features):
    """Looking the later frame up at the end of every flow vector gives the earlier frame, but for what gets hidden."""
    settings = dataclasses.replace(BARE, **features)
    for seed in range(3):
        scene = _scene(settings, seed)
        now, later = scene.render(3.0, 4.0), scene.render(4.0)
        y, x = np.mgrid[:64, :96].astype(np.float32)
        ends = np.stack([x, y], -1) + now.flow
        inside = (ends[..., 0] > 1) & (ends[..., 0] < 94) & (ends[..., 1] > 1) & (ends[..., 1] < 62)
        carried = cv2.remap(later.colour, ends, None, cv2.INTER_LINEAR)
        blurred = [cv2.GaussianBlur(picture, (0, 0), 1.0) for picture in (carried, now.colour)]
        error = np.abs(blurred[0] - blurred[1]).mean(-1)[inside]
        still = np.abs(cv2.GaussianBlur(later.colour, (0, 0), 1.0) - blurred[1]).mean(-1)[inside]
        assert np.median(error) < 4
        assert np.median(error) <= 0.7 * np.median(still) + 0.5


def test_estimated_flow_is_near_the_exact_one():
    errors, lengths = [], []
    for seed in range(4):
        scene = _scene(dataclasses.replace(BARE, size=(128, 192)), seed)
        now, later = scene.render(3.0, 4.0), scene.render(4.0)
        frames = [np.clip(target.colour, 0, 255).astype(np.uint8) for target in (now, later)]
        errors.append(np.linalg.norm(estimate_flow(*frames) - now.flow, axis=-1).mean())
        lengths.append(np.linalg.norm(now.flow, axis=-1).mean())
    assert np.mean(errors) < 0.5 * np.mean(lengths)


def test_occluders_hide_the_object():
    """Props before the object take it out of the mask."""
    settings = dataclasses.replace(BARE, props=1.0)
    smaller = 0
    for seed in range(12):
        scene = _scene(settings, seed)
        mask = scene.render(4.0).mask > 0.5
        bare = dataclasses.replace(scene, layers=scene.layers[: len(scene.layers) - scene.traits["occluders"]])
        alone = bare.render(4.0).mask > 0.5
        assert not (mask & ~alone).any()
        smaller += int(mask.sum() < alone.sum())
    assert smaller >= 1


def test_markings_paint_part_of_a_material():
    """Marked materials keep the picture they have without marks on some of their pixels and lose it on others."""
    grey = np.full((64, 96, 3), 128, np.uint8)
    shares = []
    for seed in range(12):
        body, textures = random_body(np.random.default_rng(seed)), TextureMaker([], 0.0)
        bare, marked = (
            object_materials(np.random.default_rng(seed), Looks(textures, grey, markings=markings), body, 40)
            for markings in (0.0, 1.0)
        )
        first = min(bare)  # later ones are drawn from another state of the generator
        shares.append((np.abs(bare[first].astype(int) - marked[first]).max(-1) > 8).mean())
    assert sum(share > 0.05 for share in shares) >= 6
    assert all(share < 0.9 for share in shares)


def test_blending_objects_have_the_backdrops_colours():
    green = np.full((64, 96, 3), (30, 140, 60), np.uint8)
    for seed in range(6):
        body = random_body(np.random.default_rng(seed))
        rng, looks = np.random.default_rng(seed), Looks(TextureMaker([], 0.0), green, blending=1.0)
        materials = object_materials(rng, looks, body, 40)
        for material in materials.values():
            red, leaf, blue = material.reshape(-1, 3).mean(0)
            assert leaf > 1.5 * max(red, blue)


def test_close_objects_fill_the_picture():
    areas = [
        np.median([(_scene(settings, seed).render(4.0).mask > 0.5).mean() for seed in range(12)])
        for settings in (BARE, dataclasses.replace(BARE, close=1.0))
    ]
    assert areas[1] > 0.2 > areas[0]


def test_an_avenue_stands_in_the_way():
    occluders = [_scene(dataclasses.replace(BARE, avenue=1.0), seed).traits["occluders"] for seed in range(8)]
    assert max(occluders) >= 3
    assert _scene(BARE, 0).traits["occluders"] == 0


@pytest.mark.parametrize("feature", FEATURES)
def test_every_feature_can_be_had_alone_and_left_out(feature):
    for settings in (dataclasses.replace(BARE, **{feature: 1.0}), dataclasses.replace(SMALL, **{feature: 0.0})):
        clip = ClipMaker(settings)(3, 1)
        assert clip.masks.any() == (settings.nothing == 0)
        assert clip.frames.std() > 1


def test_a_stopping_object_stops():
    braking, starting = Progress(10.0, False, 0.5), Progress(10.0, True, 0.5)
    assert braking(5) - braking(4) == pytest.approx(1, abs=0.01)
    assert braking(16) - braking(15) == pytest.approx(0, abs=0.01)
    assert starting(5) - starting(4) == pytest.approx(0, abs=0.01)
    assert starting(16) - starting(15) == pytest.approx(1, abs=0.01)
    assert Progress()(7.5) == 7.5


def test_bodies_hang_together_and_move():
    """Parts of all bodies touch one another, and joints move when the gait goes on."""
    moved = 0
    for seed in range(40):
        body = random_body(np.random.default_rng(seed))
        pieces, _ = cv2.connectedComponents((cv2.dilate(silhouette(body), np.ones((5, 5))) > 60).astype(np.uint8))
        assert 2 <= pieces <= 3, body.kind
        rest, later = part_matrices(body, 0.0, 0.0), part_matrices(body, 1.5, 0.3)
        moved += any(not np.allclose(a, b) for a, b in zip(rest, later, strict=True))
    assert moved > 15


def test_noise_has_detail_at_the_scale_asked_for():
    rng = np.random.default_rng(0)
    coarse, fine = (noise_field(rng, (64, 64), cell=cell, roughness=0.1) for cell in (32, 4))
    assert np.abs(np.diff(coarse)).mean() < 0.5 * np.abs(np.diff(fine)).mean()


def test_photographs_are_found_and_used(tmp_path):
    from PIL import Image

    Image.fromarray(np.full((40, 2000, 3), 200, np.uint8)).save(tmp_path / "mine.png")
    paths = find_pictures((str(tmp_path),))
    assert paths[-1].name == "mine.png"
    assert load_picture(paths[-1]).shape == (20, 1024, 3)
    texture = TextureMaker(paths[-1:], 1.0).surface(np.random.default_rng(0), (30, 50))
    assert texture.shape == (30, 50, 3)
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"broken\.jpg: is no picture"):
        load_picture(tmp_path / "broken.jpg")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="holds no pictures"):
        find_pictures((str(empty),))


def test_settings_go_through_json_and_are_checked():
    settings = dataclasses.replace(SMALL, shadows=0.25)
    assert Settings.from_json(settings.to_json()) == settings
    with pytest.raises(InputError, match=r"shadows is 1\.5"):
        Settings(shadows=1.5)
    with pytest.raises(InputError, match="unknown name 'shade'"):
        Settings.from_json('{"shade": 1}')
    with pytest.raises(InputError, match="6 to 5 frames"):
        Settings(least_frames=6, most_frames=5)
    with pytest.raises(InputError, match="at least 64"):
        Settings(size=(32, 96))


def test_clips_in_which_nothing_moves_by_itself():
    """Half of them stand still, to the pixel without noise; in the others the camera moves, and no object is left."""
    nothing = ClipMaker(dataclasses.replace(BARE, nothing=1.0))
    clips = [nothing(4, index) for index in range(6)]
    assert {clip.traits["nothing"] for clip in clips} == {"still", "camera"}
    for clip in clips:
        assert not clip.masks.any()
        if clip.traits["nothing"] == "still":
            assert (clip.frames == clip.frames[:1]).all()
    with_object = ClipMaker(BARE)(4, 0)
    assert with_object.masks.any()
    assert "nothing" not in with_object.traits
