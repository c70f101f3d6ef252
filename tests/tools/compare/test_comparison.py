"""What a comparison says about two sides' arrays."""

from dataclasses import asdict

import numpy as np
import pytest

from hmhi_jax.errors import InputError
from hmhi_jax.tools.compare import comparison
from hmhi_jax.tools.compare import report as comparison_page
from hmhi_jax.tools.compare.compare import check_release, run_side
from hmhi_jax.tools.compare.comparison import Side
from hmhi_jax.training.config import default_config, to_plain

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


@pytest.mark.parametrize(("release", "ours"), [(np.inf, np.inf), (np.inf, 0.0), (0.0, np.inf), (np.nan, 0.0)])
def test_one_value_that_is_not_finite_is_never_within(tmp_path, maps, release, ours):
    sides = []
    for name, value in (("a", release), ("b", ours)):
        changed = maps["fused1"].copy()
        changed[0, 1, 3, 3, 0] = value
        sides.append(make_side(tmp_path / name, {**maps, "fused1": changed}))
    outside = comparison.first_outside(comparison.compare_maps(*sides, 1e9))
    assert (outside.frame, outside.stage) == (1, "fused1")


@pytest.mark.parametrize(("lacking", "words"), [(0, "the release recorded no such map"), (1, "our side recorded no")])
def test_a_map_that_one_side_alone_recorded_is_outside(tmp_path, maps, lacking, words):
    less = {name: array for name, array in maps.items() if name != "read_shallow"}
    sides = [make_side(tmp_path / name, less if i == lacking else maps) for i, name in enumerate("ab")]
    rows = comparison.compare_maps(*sides, 1e9)
    outside = comparison.first_outside(rows)
    assert (outside.frame, outside.stage) == (1, "read_shallow")
    assert words in outside.problem
    assert [row["stage"] for row in comparison.summary(rows) if not row["within"]] == ["read_shallow"]
    assert comparison_page.deviation_chart(list(map(asdict, rows)), 1e9).startswith(b"\x89PNG")


def test_switched_off_modules_are_missed_on_neither_side(tmp_path, maps):
    less = {name: array for name, array in maps.items() if name != "read_shallow"}
    rows = comparison.compare_maps(make_side(tmp_path / "a", less), make_side(tmp_path / "b", less), 1e-9)
    assert {row.stage for row in rows} == {"fused1", "logits"}
    assert comparison.first_outside(rows) is None


def test_frames_that_our_side_did_not_record_are_outside(tmp_path, maps):
    shorter = {**maps, "fused1": maps["fused1"][:, :2]}
    rows = comparison.compare_maps(make_side(tmp_path / "a", maps), make_side(tmp_path / "b", shorter), 1e9)
    outside = comparison.first_outside(rows)
    assert (outside.frame, outside.stage) == (0, "fused1")
    assert outside.problem == "shape (1, 3, 16, 16, 4) in the release, (1, 2, 16, 16, 4) in ours"


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


@pytest.mark.parametrize(
    ("release", "ours", "module"),
    [
        ({"Mem0.x.w": 3.0, "decode_head.a": 1.0}, {"Mem0.x.w": 3.0, "decode_head.a": np.nan}, "decode_head"),
        ({"Mem0.x.w": np.nan, "decode_head.a": 1.0}, {"Mem0.x.w": np.nan, "decode_head.a": 1.0}, "Mem0.x"),
        ({"Mem0.x.w": 3.0, "decode_head.a": 1.0}, {"Mem0.x.w": 3.0}, "decode_head"),
        ({"Mem0.x.w": 3.0}, {"Mem0.x.w": 3.0, "decode_head.a": 1.0}, "decode_head"),
    ],
)
@pytest.mark.parametrize("step", [0, 1])
def test_gradients_that_are_missing_or_not_finite_are_outside(tmp_path, release, ours, module, step):
    sides = []
    for norms in (release, ours):
        steps = [{"Mem0.x.w": 3.0, "decode_head.a": 1.0}] * 2
        steps[step] = norms
        sides.append(Side(tmp_path, {"losses": [2.0, 1.5], "gradient_norms": steps}))
    rows = comparison.compare_steps(*sides)
    assert comparison.steps_outside(rows, 1e9).startswith(f"gradient norm of {module} at step {step}")


@pytest.mark.parametrize("ours", [{}, {"decode_head.a": np.array([1, np.nan], np.float32)}])
def test_parameters_that_are_missing_or_not_finite_are_outside(tmp_path, ours):
    before = {"Mem1.x.a": np.zeros(4, np.float32), "decode_head.a": np.zeros(2, np.float32)}
    after = {name: array + 1 for name, array in before.items()}
    sides = [Side(tmp_path, {"gradient_norms": [{}]})] * 2
    rows = comparison.compare_parameters(before, after, {"Mem1.x.a": after["Mem1.x.a"] + 1, **ours}, sides)
    assert comparison.parameters_outside(rows).startswith("parameters of decode_head after the last step")
    rows = comparison.compare_parameters(before, after, after, sides)
    assert comparison.parameters_outside(rows) is None


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
    rows = list(map(asdict, comparison.compare_maps(side, side, 1e-3)))
    chart = comparison_page.deviation_chart(rows, 1e-3)
    assert chart.startswith(b"\x89PNG")
    picture = np.zeros((8, 8, 3), np.uint8)
    tables = [("T", "note", [{"stage": "fused1", "within": False, "largest": 1e-7}])]
    found = comparison_page.Findings("fine", True, tables, chart, [("frame 0", [("one", picture)])])
    page = comparison_page.render_page("a <b>", "x & y", found)
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
    with pytest.raises(InputError, match="decoder_width 16: the release's network has 256 built in"):
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


def test_weights_that_say_what_the_release_has_built_in(tmp_path):
    """Training exports every argument: the release's own values are no reason to refuse, others are."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "HMHI_Net.py").write_text("")
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 0\n")
    python.chmod(0o755)
    for backbone, adapters in (("mit_b1", True), ("swin_tiny", False)):
        trained = to_plain(default_config())["model"] | {"backbone": backbone}
        check_release(tmp_path, str(python), "cpu", trained)
        check_release(tmp_path, str(python), "cpu", trained | {"flow_adapters": adapters})
        for name, value in (("top_k", 49), ("feedforward", 1024), ("subpixels", 2), ("flow_adapters", not adapters)):
            with pytest.raises(InputError, match=f"{name} {value}: the release's network has .* built in"):
                check_release(tmp_path, str(python), "cpu", trained | {name: value})


def test_a_side_that_fails_says_why(tmp_path):
    script = tmp_path / "side"
    script.write_text("#!/bin/sh\necho working\necho 'RuntimeError: out of memory'\nexit 3\n")
    script.chmod(0o755)
    with pytest.raises(
        InputError, match=r"process of release failed \(exit code 3\): RuntimeError: out of memory; see "
    ):
        run_side([str(script)], "release", tmp_path, {}, tmp_path / "release.log")
    assert (tmp_path / "release.log").read_text().startswith("working")
