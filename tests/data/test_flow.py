"""Optical flow: Middlebury files and colours, the camera's removal, the recipe."""

import cv2
import numpy as np
import pytest

from hmhi_jax.data.camera import camera_flow, fit_camera
from hmhi_jax.data.flow import (
    FlowRecipe,
    draw_flow,
    estimate_flow,
    flow_picture,
    flow_to_picture,
    neighbours_of,
    read_flo,
    remove_camera,
    write_flo,
)
from hmhi_jax.errors import InputError


def _texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    smooth = cv2.GaussianBlur(noise, (0, 0), 1.5).astype(np.float32)
    return np.clip((smooth - 127) * 4 + 127, 0, 255).astype(np.uint8)


def _scene_with_an_object() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A camera that pans, zooms and rolls, one square with its own motion; the flow and where the square is."""
    size = (90, 160)
    model = np.array([[3.0, -2.0], [1.5, 0.4], [-0.4, 1.5]], np.float32)
    camera = camera_flow(model, size)
    inside = np.zeros(size, bool)
    inside[20:70, 40:90] = True
    flow = camera + np.where(inside[..., None], np.array([4.0, 1.0], np.float32), 0)
    return flow.astype(np.float32), inside, model


def test_wheel_has_the_published_colours():
    # Directions of Middlebury's wheel: left is cyan, right red, up blue to magenta, down yellow to green.
    unit = np.array([[[1, 0], [-1, 0], [0, 1], [0, -1]]], np.float32)
    right, left, down, up = flow_to_picture(unit)[0].astype(int)
    assert right[0] == 255
    assert right[1:].max() < 30
    assert left[0] < 30
    assert left[1:].min() > 200
    assert down[0] > 200
    assert down[1] > 200
    assert down[2] == 0
    assert up[2] == 255
    assert up[1] == 0
    still = flow_to_picture(np.zeros((2, 3, 2), np.float32))
    assert (still == 255).all()


def test_wheel_matches_an_independent_drawing():
    """A picture drawn one vector at a time from the published description of the colour code."""
    flow = np.random.default_rng(1).normal(size=(9, 7, 2)).astype(np.float32)
    hues = []
    red, green, blue = np.eye(3) * 255
    corners = [red, red + green, green, green + blue, blue, blue + red, red]
    for start, stop, count in zip(corners, corners[1:], (15, 6, 4, 11, 13, 6), strict=False):
        hues += [start + np.sign(stop - start) * np.floor(255 * i / count) for i in range(count)]
    assert len(hues) == 55
    longest = np.linalg.norm(flow, axis=-1).max()
    for y in range(9):
        for x in range(7):
            u, v = flow[y, x] / longest
            where = (np.arctan2(-v, -u) / np.pi + 1) / 2 * 54
            low = int(where)
            hue = (1 - (where - low)) * hues[low] + (where - low) * hues[(low + 1) % 55]
            expected = 255 - np.hypot(u, v) * (255 - hue)
            assert np.abs(flow_to_picture(flow)[y, x] - expected).max() <= 1.01


def test_unknown_flow_is_black_and_does_not_set_the_scale():
    flow = np.ones((4, 5, 2), np.float32)
    clean = flow_to_picture(flow)
    flow[0, 0] = 2e9
    flow[1, 1] = np.nan
    drawn = flow_to_picture(flow)
    assert (drawn[0, 0] == 0).all()
    assert (drawn[1, 1] == 0).all()
    np.testing.assert_array_equal(drawn[2:], clean[2:])


def test_camera_is_found_despite_an_object():
    flow, inside, model = _scene_with_an_object()
    np.testing.assert_allclose(fit_camera(flow), model, atol=0.02)
    lengths = np.linalg.norm(remove_camera(flow), axis=-1)
    assert lengths[~inside].max() < 0.05
    np.testing.assert_allclose(lengths[inside], np.hypot(4, 1), atol=0.05)


def test_camera_removal_keeps_unknown_vectors_and_survives_hopeless_flow():
    flow, _, _ = _scene_with_an_object()
    flow[:10] = np.nan
    residual = remove_camera(flow)
    assert np.isnan(residual[:10]).all()
    assert np.isfinite(residual[10:]).all()
    hopeless = np.full((20, 30, 2), 1e10, np.float32)
    np.testing.assert_array_equal(remove_camera(hopeless), hopeless)
    assert (flow_to_picture(hopeless) == 0).all()
    assert (draw_flow(hopeless, FlowRecipe(camera="affine", normalisation="robust")) == 0).all()


def test_robust_normalisation_keeps_noise_pale_where_max_blows_it_up():
    noise = np.random.default_rng(0).normal(0, 0.05, (160, 288, 2)).astype(np.float32)
    assert draw_flow(noise, FlowRecipe(normalisation="max")).min() < 30
    assert draw_flow(noise, FlowRecipe(normalisation="robust")).min() > 200


def test_estimated_flow_follows_a_known_shift():
    big = _texture(100, 140)
    first, second = big[10:90, 10:130], big[8:88, 7:127]  # content moves 3 right, 2 down
    flow = estimate_flow(first, second, FlowRecipe())
    np.testing.assert_allclose(np.median(flow, (0, 1)), [3, 2], atol=0.1)
    half = estimate_flow(first, second, FlowRecipe(size=(40, 60)))
    assert half.shape == (40, 60, 2)
    np.testing.assert_allclose(np.median(half, (0, 1)), [1.5, 1], atol=0.15)


def test_estimated_flow_does_not_depend_on_threads():
    first, second = _texture(96, 160), np.roll(_texture(96, 160), 2, axis=1)
    threads = cv2.getNumThreads()
    try:
        flows = []
        for count in (1, 2, 3):
            cv2.setNumThreads(count)
            flows.append(estimate_flow(first, second, FlowRecipe()))
    finally:
        cv2.setNumThreads(threads)
    np.testing.assert_array_equal(flows[0], flows[1])
    np.testing.assert_array_equal(flows[0], flows[2])


def test_flow_picture_is_the_whole_recipe():
    first, second = _texture(64, 96), np.roll(_texture(64, 96), 3, axis=1)
    raw = flow_picture(first, second, FlowRecipe())
    np.testing.assert_array_equal(raw, flow_to_picture(estimate_flow(first, second, FlowRecipe())))
    still = flow_picture(first, second, FlowRecipe(size=(32, 48), camera="affine", normalisation="robust"))
    assert still.shape == (32, 48, 3)
    assert still[8:-8, 8:-8].mean() > 230 > raw[8:-8, 8:-8].mean()


def test_both_neighbours_show_the_object_where_one_smears_it():
    """A square moves over ground that stands still: what both flows agree on lies nearer to the square."""
    ground, square = _texture(96, 160), 255 - _texture(40, 40, seed=1)
    frames = []
    for t in range(3):
        frames.append(ground.copy())
        frames[t][30:70, 40 + 8 * t : 80 + 8 * t] = square
    truth = np.zeros((96, 160), bool)
    truth[30:70, 48:88] = True

    def overlap(recipe, opposite):
        moving = flow_picture(frames[1], frames[2], recipe, opposite).min(-1) < 150
        return (moving & truth).sum() / (moving | truth).sum()

    one, both = (FlowRecipe(normalisation="robust", neighbours=which) for which in ("next", "both"))
    assert overlap(both, frames[0]) > overlap(one, frames[0]) + 0.05
    assert overlap(both, None) == overlap(one, None) == overlap(one, frames[0])
    # Seen from the other side it is the same picture but for its direction.
    flow = flow_picture(frames[1], frames[0], both, frames[2])
    np.testing.assert_allclose(flow.min(-1), flow_picture(frames[1], frames[2], both, frames[0]).min(-1), atol=1)


def test_neighbours_of_a_frame():
    one, both = (FlowRecipe(neighbours=which) for which in ("next", "both"))
    assert [neighbours_of(t, 3, both) for t in range(3)] == [(1, None), (2, 0), (1, None)]
    assert [neighbours_of(t, 3, one) for t in range(3)] == [(1, None), (2, None), (1, None)]
    assert neighbours_of(0, 1, both) == (0, None)


@pytest.mark.parametrize(
    ("first", "second", "complaint"),
    [((40, 50, 3), (40, 51, 3), "40 x 50.*40 x 51"), ((8, 40, 3), (8, 40, 3), "8 x 40.*at least 12")],
)
def test_unusable_frames_are_explained(first, second, complaint):
    with pytest.raises(InputError, match=complaint):
        estimate_flow(np.zeros(first, np.uint8), np.zeros(second, np.uint8))


def test_recipe_goes_through_json():
    recipe = FlowRecipe(preset="fast", size=(160, 288), camera="affine", normalisation="robust", least_motion=0.01)
    assert FlowRecipe.from_json(recipe.to_json()) == recipe
    assert FlowRecipe.from_json("{}") == FlowRecipe()
    assert hash(recipe) != hash(FlowRecipe())


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "not JSON"),
        ("[1]", "JSON object"),
        ('{"camra": "affine"}', "unknown field 'camra'.*camera"),
        ('{"camera": "homography"}', "camera is 'homography'.*'none', 'affine'"),
        ('{"size": [160]}', "size"),
        ('{"size": [160, 2.5]}', "size"),
        ('{"preset": "slow"}', "preset"),
        ('{"least_motion": -1}', "least_motion"),
    ],
)
def test_bad_recipes_are_explained(text, complaint):
    with pytest.raises(InputError, match=complaint):
        FlowRecipe.from_json(text)


def test_flo_files_round_trip(tmp_path):
    flow = np.random.default_rng(0).normal(size=(5, 7, 2)).astype(np.float32)
    write_flo(tmp_path / "a.flo", flow)
    assert (tmp_path / "a.flo").read_bytes()[:4] == b"PIEH"
    np.testing.assert_array_equal(read_flo(tmp_path / "a.flo"), flow)
    assert [p.name for p in tmp_path.iterdir()] == ["a.flo"]


def test_broken_flo_files_are_explained(tmp_path):
    path = tmp_path / "a.flo"
    with pytest.raises(InputError, match=r"a\.flo: cannot be read"):
        read_flo(path)
    path.write_bytes(b"\x89PNG" + bytes(40))
    with pytest.raises(InputError, match="no Middlebury flow file"):
        read_flo(path)
    write_flo(path, np.zeros((4, 6, 2), np.float32))
    data = path.read_bytes()
    path.write_bytes(data[:-5])
    with pytest.raises(InputError, match=r"199 bytes, expected 204 for 6 x 4.*cut off"):
        read_flo(path)
    path.write_bytes(data[:4] + b"\xff\xff\xff\xff" + data[8:])
    with pytest.raises(InputError, match="width -1"):
        read_flo(path)
    with pytest.raises(InputError, match="cannot be written"):
        write_flo(path / "a.flo", np.zeros((4, 6, 2), np.float32))  # in a file


def test_real_flow_files_agree_with_estimated_flow(davis):
    from PIL import Image

    folder = davis.parent / "tennis_flow"
    frames = [np.asarray(Image.open(folder / "frames" / f"000{i}.png").convert("RGB")) for i in (1, 2)]
    exact = read_flo(folder / "flow" / "0001.flo")
    assert exact.shape == (256, 448, 2)
    error = np.linalg.norm(estimate_flow(*frames) - exact, axis=-1).mean()
    assert error < 0.3 * np.linalg.norm(exact, axis=-1).mean()
