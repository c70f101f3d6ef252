"""What a comparison says about two sides' arrays."""

import numpy as np
import pytest

from hmhi_jax.errors import InputError
from hmhi_jax.interop import comparison, comparison_page
from hmhi_jax.interop.compare_sides import Side, check_release, run_side

FRAMES = 3


def make_side(folder, maps, report=None) -> Side:
    folder.mkdir(exist_ok=True)
    for name, array in maps.items():
        np.save(folder / f"{name}.npy", array.astype(np.float32))
    return Side(folder, report or {})


@pytest.fixture
def maps() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {
        "fused1": (1, FRAMES, 16, 16, 4),
        "read_shallow": (1, FRAMES - 1, 8, 8, 4),
        "logits": (1, FRAMES, 64, 64, 1),
    }
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()}


def test_equal_sides_are_within_every_tolerance(tmp_path, maps):
    a, b = make_side(tmp_path / "a", maps), make_side(tmp_path / "b", maps)
    rows = comparison.compare_maps(a, b, 1e-9)
    # In the order of computation; the first frame reads no memory.
    assert [(row.frame, row.stage) for row in rows] == [
        (0, "fused1"), (0, "logits"),
        (1, "fused1"), (1, "read_shallow"), (1, "logits"),
        (2, "fused1"), (2, "read_shallow"), (2, "logits"),
    ]  # fmt: skip
    assert comparison.first_outside(rows) is None
    masks = comparison.compare_masks(a, b)
    assert [row.jaccard for row in masks] == [1.0] * FRAMES
    assert [row.sign_agreement for row in masks] == [1.0] * FRAMES


def test_the_first_map_outside_is_named(tmp_path, maps):
    changed = {name: array.copy() for name, array in maps.items()}
    changed["read_shallow"][:, 1] += 0.01  # the read-out of frame 2
    changed["logits"][:, 2] += 0.5
    rows = comparison.compare_maps(make_side(tmp_path / "a", maps), make_side(tmp_path / "b", changed), 1e-3)
    outside = comparison.first_outside(rows)
    assert (outside.frame, outside.stage) == (2, "read_shallow")
    assert outside.largest == pytest.approx(0.01, rel=1e-3)
    assert [row.within for row in rows if row.frame < 2] == [True] * 5


def test_a_few_values_may_move_further_but_not_without_end(tmp_path, maps):
    changed = {name: array.copy() for name, array in maps.items()}
    changed["fused1"].reshape(-1)[:3] += 0.05  # two scores of a query that changed places
    rows = comparison.compare_maps(make_side(tmp_path / "a", maps), make_side(tmp_path / "b", changed), 1e-3)
    assert comparison.first_outside(rows) is None
    changed["fused1"].reshape(-1)[0] += 0.2
    rows = comparison.compare_maps(make_side(tmp_path / "a", maps), make_side(tmp_path / "b", changed), 1e-3)
    assert comparison.first_outside(rows).stage == "fused1"


def test_not_a_number_is_never_within(tmp_path, maps):
    changed = {**maps, "logits": np.full_like(maps["logits"], np.nan)}
    rows = comparison.compare_maps(make_side(tmp_path / "a", maps), make_side(tmp_path / "b", changed), 1e9)
    assert comparison.first_outside(rows).stage == "logits"


def test_masks(tmp_path, maps):
    theirs = np.full((1, 2, 4, 4, 1), -1.0)
    ours = theirs.copy()
    theirs[0, 0, :2] = 1  # 8 pixels
    ours[0, 0, :1] = 1  # 4 of them
    rows = comparison.compare_masks(
        make_side(tmp_path / "a", {"logits": theirs}), make_side(tmp_path / "b", {"logits": ours})
    )
    assert (rows[0].sign_agreement, rows[0].jaccard, rows[0].release_area) == (0.75, 0.5, 0.5)
    assert rows[1].jaccard == 1.0  # both empty


def test_steps(tmp_path):
    theirs = {"losses": [2.0, 1.5], "gradient_norms": [{"Mem0.x.w": 3.0, "Mem0.x.b": 4.0, "decode_head.a": 1.0}] * 2}
    ours = {"losses": [2.0, 1.5003], "gradient_norms": [{"Mem0.x.w": 3.0, "Mem0.x.b": 4.0, "decode_head.a": 1.02}] * 2}
    rows = comparison.compare_steps(Side(tmp_path, theirs), Side(tmp_path, ours))
    assert rows[0].worst_module == "decode_head"
    assert rows[0].gradient == pytest.approx(0.02)
    assert comparison.steps_outside(rows, 1e-3).startswith("gradient norm of decode_head at step 0")
    assert comparison.steps_outside(rows, 1e-4 * 21) is None
    assert comparison.steps_outside(rows, 1e-4).startswith("gradient norm")
    ours["gradient_norms"] = theirs["gradient_norms"]
    rows = comparison.compare_steps(Side(tmp_path, theirs), Side(tmp_path, ours))
    assert comparison.steps_outside(rows, 1e-4).startswith("loss of step 1")


def test_drift_is_measured_against_the_distance_moved(tmp_path):
    before = {
        "Mem1.memory_encoder.a": np.zeros(4, np.float32),
        "Mem1.cross_attention.q_proj.weight": np.zeros(2, np.float32),
    }
    after = {name: array + 1 for name, array in before.items()}
    ours = {name: array + 0.01 for name, array in after.items()}
    norms = {"gradient_norms": [{"Mem1.memory_encoder.a": 2.0}]}
    rows = comparison.compare_parameters(before, after, ours, (Side(tmp_path, norms), Side(tmp_path, norms)))
    assert [row.module for row in rows] == ["Mem1.memory_encoder"]  # what the release never reads does not count
    assert rows[0].moved == pytest.approx(2.0)
    assert rows[0].drift == pytest.approx(0.02, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("backbone.block3.1.attn.q.weight", "backbone.block3"),
        ("backbone.patch_embed3.proj.bias", "backbone.block3"),
        ("backbone.norm3.bias", "backbone.block3"),
        ("backbone.layers.2.blocks.0.norm1.bias", "backbone.layers.2"),
        ("backbone.patch_embed.norm.weight", "backbone.patch_embed"),
        ("decode_head.cbam1.conv1.conv.weight", "decode_head"),
        ("Mem1.memory_encoder.fuser.layers.0.gamma", "Mem1.memory_encoder"),
        ("obj_reduce.0.weight", "obj_reduce"),
    ],
)
def test_modules(name, module):
    assert comparison.module_of(name) == module


def test_the_difference_picture_is_red_where_ours_is_higher():
    release, ours = np.zeros((2, 2)), np.array([[0.0, 0.5], [-0.25, 0.0]])
    picture, full = comparison_page.difference_picture(release, ours)
    assert full == 0.5
    assert picture[0, 0].tolist() == [255, 255, 255]
    assert picture[0, 1].tolist() == [255, 0, 0]
    red, green, blue = picture[1, 0].tolist()
    assert blue == 255
    assert red == green == 128


def test_the_page_is_whole_and_escapes_what_it_is_given(tmp_path, maps):
    side = make_side(tmp_path / "a", maps)
    rows = comparison.as_json(comparison.compare_maps(side, side, 1e-3))
    chart = comparison_page.deviation_chart(rows, 1e-3)
    assert chart.startswith(b"\x89PNG")
    picture = np.zeros((8, 8, 3), np.uint8)
    page = comparison_page.render_page(
        "a <b>", "x & y", "fine", True, [("T", "note", [{"stage": "fused1", "within": False, "largest": 1e-7}])],
        chart, [("frame 0", [("one", picture)])],
    )  # fmt: skip
    assert "a &lt;b&gt;" in page
    assert "x &amp; y" in page
    assert "<tr class=bad><td>fused1</td><td>1.0e-07</td></tr>" in page
    assert page.count("data:image/png;base64,") == 2
    assert "src='http" not in page


def test_a_folder_that_is_no_clone(tmp_path):
    with pytest.raises(InputError, match=r"no clone of the authors' release \(lib/HMHI_Net\.py is missing\)"):
        check_release(tmp_path, "python3", "cpu", {"backbone": "mit_b1"})


def test_a_python_that_cannot_run_the_release(tmp_path):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "HMHI_Net.py").write_text("")
    with pytest.raises(InputError, match="no such program"):
        check_release(tmp_path, str(tmp_path / "python9"), "cpu", {"backbone": "mit_b1"})
    with pytest.raises(InputError, match="resnet50: the release's network can be built with mit_b1"):
        check_release(tmp_path, "python3", "cpu", {"backbone": "resnet50"})
    with pytest.raises(InputError, match="decoder_width 16: the release's network has this one built in"):
        check_release(tmp_path, "python3", "cpu", {"backbone": "mit_b1", "decoder_width": 16})
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'ModuleNotFoundError: no torch' >&2\nexit 1\n")
    broken.chmod(0o755)
    with pytest.raises(InputError, match=r"cannot import torch and numpy \(ModuleNotFoundError: no torch\)"):
        check_release(tmp_path, str(broken), "cpu", {"backbone": "mit_b1"})
    # One that has torch, but not the device: the probe names it as a third argument.
    broken.write_text('#!/bin/sh\n[ -z "$3" ] && exit 0\necho "RuntimeError: no device $3" >&2\nexit 1\n')
    with pytest.raises(InputError, match=r"--device cuda: PyTorch cannot use it \(RuntimeError: no device cuda\)"):
        check_release(tmp_path, str(broken), "cuda", {"backbone": "mit_b1"})


def test_a_side_that_fails_says_why(tmp_path):
    script = tmp_path / "side"
    script.write_text("#!/bin/sh\necho working\necho 'RuntimeError: out of memory'\nexit 3\n")
    script.chmod(0o755)
    with pytest.raises(
        InputError, match=r"process of release failed \(exit code 3\): RuntimeError: out of memory; see "
    ):
        run_side([str(script)], "release", tmp_path, {}, tmp_path / "release.log")
    assert (tmp_path / "release.log").read_text().startswith("working")
