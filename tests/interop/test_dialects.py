"""ImageNet encoders under the names people have them.

data/published_names.json: names and shapes as torchvision 0.29, timm 1.0.31 and transformers 5.23 give them.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from goldens import cases

from hmhi_jax.errors import InputError
from hmhi_jax.interop.dialects import rename_encoder
from hmhi_jax.interop.identify import guess_backbone, identify
from hmhi_jax.interop.torch_weights import expected_encoder_entries
from hmhi_jax.interop.weight_sources import WeightSource

PUBLISHED = json.loads((Path(__file__).parent / "data" / "published_names.json").read_text())


def marked(shapes: dict[str, list[int]]) -> dict[str, np.ndarray]:
    """Each entry holds its own number everywhere, and takes no memory."""
    return {
        name: np.broadcast_to(np.asarray(index, np.float32), shape)
        for index, (name, shape) in enumerate(shapes.items())
    }


def source(entries: dict[str, np.ndarray]) -> WeightSource:
    return WeightSource(Path("weights.pth"), "PyTorch checkpoint", entries)


def canonical(backbone: str) -> dict[str, tuple[int, ...]]:
    """The authors' own names: SegFormer's, Swin's, torchvision's ResNet."""
    entries = expected_encoder_entries(backbone)
    return {n.removeprefix("backbone."): e.shape for n, e in entries.items() if "adapter." not in n}


@pytest.mark.parametrize(
    ("published", "backbone", "dropped"),
    [
        ("torchvision swin_t", "swin_tiny", {"relative-position indices, a constant": 12, "classifier head": 2}),
        ("timm swin_tiny_patch4_window7_224", "swin_tiny", {"classifier head": 2, "norm before the classifier": 2}),
        ("transformers state_dict swin-tiny", "swin_tiny", {"classifier head": 2, "norm before the classifier": 2}),
        ("transformers file swin-tiny", "swin_tiny", {"classifier head": 2, "norm before the classifier": 2}),
        ("transformers state_dict mit-b0", "mit_b0", {"classifier head": 2}),
        ("transformers file mit-b0", "mit_b0", {"classifier head": 2}),
        ("timm resnet50", "resnet50", {"classifier head": 2, "batch counters": 53}),
        ("transformers file resnet-50", "resnet50", {"classifier head": 2, "batch counters": 53}),
    ],
)
def test_published_names_fit_exactly(published, backbone, dropped):
    found = identify(source(marked(PUBLISHED[published])))
    assert found.network == backbone
    assert not found.whole
    assert found.fit, str(found.fit)
    for reason, count in dropped.items():
        assert len(found.dropped[reason]) == count
    # Nothing is used twice, and nothing gets lost.
    assert {n.removeprefix("backbone.") for n in found.entries} == set(canonical(backbone))


@pytest.mark.parametrize("backbone", ["mit_b1", "swin_small", "resnet101"])
def test_the_authors_names_with_what_they_carry_along(backbone):
    shapes = dict(canonical(backbone))
    extra = {"head.weight": (1000, 512), "head.bias": (1000,)}
    if backbone == "swin_small":
        extra |= {"norm.weight": (768,), "norm.bias": (768,), "layers.0.blocks.1.attn_mask": (64, 49, 49)}
        extra |= {"layers.0.blocks.0.attn.relative_position_index": (49, 49)}
    found = identify(source(marked({**shapes, **extra})))
    assert found.network == backbone
    assert found.fit, str(found.fit)
    assert sum(map(len, found.dropped.values())) == len(extra)


def value(entries: dict[str, np.ndarray], name: str) -> float:
    return float(entries[name].reshape(-1)[0])


def test_keys_and_values_are_put_together_in_order():
    for published, names in {
        "transformers file mit-b0": ("self.key", "self.value"),
        "transformers state_dict mit-b0": ("k_proj", "v_proj"),
    }.items():
        given = marked(PUBLISHED[published])
        kv = rename_encoder(given, "x").entries["block1.1.attn.kv.weight"]
        key, val = (
            next(a for n, a in given.items() if f"0.1.attention.{w}.weight" in n.replace("blocks.", "")) for w in names
        )
        np.testing.assert_array_equal(kv, np.concatenate([key, val]))


def test_query_key_value_of_swin_are_put_together_in_order():
    given = marked(PUBLISHED["transformers file swin-tiny"])
    qkv = rename_encoder(given, "x").entries["layers.2.blocks.5.attn.qkv.bias"]
    stem = "swin.encoder.layers.2.blocks.5.attention.self."
    np.testing.assert_array_equal(qkv, np.concatenate([given[f"{stem}{n}.bias"] for n in ("query", "key", "value")]))


def test_timm_merges_patches_at_the_start_of_a_layer_and_swin_at_the_end():
    given = marked(PUBLISHED["timm swin_tiny_patch4_window7_224"])
    entries = rename_encoder(given, "x").entries
    for layer in range(3):
        assert value(entries, f"layers.{layer}.downsample.reduction.weight") == value(
            given, f"layers.{layer + 1}.downsample.reduction.weight"
        )


def test_torchvision_s_list_of_modules():
    given = marked(PUBLISHED["torchvision swin_t"])
    entries = rename_encoder(given, "x").entries
    for ours, theirs in {
        "patch_embed.proj.weight": "features.0.0.weight",
        "patch_embed.norm.bias": "features.0.2.bias",
        "layers.2.blocks.5.mlp.fc2.weight": "features.5.5.mlp.3.weight",
        "layers.1.downsample.norm.weight": "features.4.norm.weight",
        "layers.3.blocks.1.norm2.bias": "features.7.1.norm2.bias",
    }.items():
        assert value(entries, ours) == value(given, theirs)


def test_resnet_of_hugging_face():
    given = marked(PUBLISHED["transformers file resnet-50"])
    entries = rename_encoder(given, "x").entries
    for ours, theirs in {
        "conv1.weight": "resnet.embedder.embedder.convolution.weight",
        "layer3.4.bn2.running_var": "resnet.encoder.stages.2.layers.4.layer.1.normalization.running_var",
        "layer2.0.downsample.1.bias": "resnet.encoder.stages.1.layers.0.shortcut.normalization.bias",
    }.items():
        assert value(entries, ours) == value(given, theirs)


# --- OpenMMLab: names and layouts as its converters (mit2mmseg, swin2mmseg) describe them -----------------------------


def to_openmmlab_mit(entries: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    renamed = {}
    for name, array in entries.items():
        part, rest = name.split(".", 1)
        stage = int(part[-1]) - 1
        if part.startswith("patch_embed"):
            renamed[f"layers.{stage}.0.{rest.replace('proj', 'projection')}"] = array
        elif part.startswith("norm"):
            renamed[f"layers.{stage}.2.{rest}"] = array
        elif ".attn.q." in name:
            kv = entries[name.replace(".q.", ".kv.")]
            renamed[f"layers.{stage}.1.{rest.replace('attn.q.', 'attn.attn.in_proj_')}"] = np.concatenate([array, kv])
        elif ".attn.kv." not in name:
            array = array[:, :, None, None] if rest.endswith(("fc1.weight", "fc2.weight")) else array
            for old, new in (
                ("attn.proj", "attn.attn.out_proj"),
                ("mlp.fc1", "ffn.layers.0"),
                ("mlp.dwconv.dwconv", "ffn.layers.1"),
                ("mlp.fc2", "ffn.layers.4"),
            ):
                rest = rest.replace(old, new)
            renamed[f"layers.{stage}.1.{rest}"] = array
    return renamed


def test_openmmlab_mit():
    entries = cases.recipe.state_dict(canonical("mit_b0"), 3)
    given = to_openmmlab_mit(entries)
    back = rename_encoder({f"backbone.{name}": array for name, array in given.items()}, "x")
    assert back.unknown == []
    assert set(back.entries) == set(entries)
    for name, array in entries.items():
        np.testing.assert_array_equal(back.entries[name], array, err_msg=name)


def test_openmmlab_swin_takes_corners_in_another_order():
    width = 4
    # Channels of Swin's merging: (even row, even column), (odd, even), (even, odd), (odd, odd), each `width` long.
    norm = np.arange(4 * width, dtype=np.float32)
    by_corner = dict(zip(((0, 0), (1, 0), (0, 1), (1, 1)), norm.reshape(4, width), strict=True))
    unfolded = [by_corner[row, column][c] for c in range(width) for row in (0, 1) for column in (0, 1)]
    given = {
        "stages.0.blocks.0.attn.w_msa.qkv.weight": np.zeros((12, 4), np.float32),
        "stages.0.downsample.norm.weight": np.asarray(unfolded, np.float32),
        "stages.0.downsample.reduction.weight": np.stack([unfolded, [2 * x for x in unfolded]]).astype(np.float32),
        "patch_embed.projection.bias": np.ones(4, np.float32),
        "stages.0.blocks.0.ffn.layers.0.0.bias": np.ones(16, np.float32),
        "norm3.weight": np.ones(4, np.float32),
    }
    renamed = rename_encoder(given, "x")
    np.testing.assert_array_equal(renamed.entries["layers.0.downsample.norm.weight"], norm)
    np.testing.assert_array_equal(renamed.entries["layers.0.downsample.reduction.weight"], [norm, 2 * norm])
    assert {"patch_embed.proj.bias", "layers.0.blocks.0.mlp.fc1.bias"} <= set(renamed.entries)
    assert list(renamed.dropped.values()) == [["norm3.weight"]]


# --- what does not fit ------------------------------------------------------------------------------------------------


def test_missing_and_left_over_entries_are_named():
    given = marked(canonical("mit_b0"))
    del given["block2.1.attn.kv.bias"]
    given["block2.1.extra"] = np.zeros(3, np.float32)
    found = identify(source(given))
    assert found.fit.missing == ["backbone.block2.1.attn.kv.bias"]
    assert found.fit.unused == ["backbone.block2.1.extra"]
    with pytest.raises(InputError, match=r"weights\.pth.*encoder of mit_b0.*kv\.bias"):
        found.require_fit()


@pytest.mark.parametrize(
    ("backbone", "first"),
    [
        ("mit_b0", "patch_embed1.proj.weight"),
        ("swin_tiny", "layers.0.blocks.0.attn.qkv.weight"),
        ("swin_tiny", "patch_embed.proj.weight"),
        ("resnet50", "layer1.0.conv1.weight"),
        ("resnet50", "conv1.weight"),
    ],
)
def test_a_missing_first_layer_is_one_that_is_missing(backbone, first):
    given = marked(canonical(backbone))
    del given[first]
    found = identify(source(given))
    assert found.network == backbone
    assert found.fit.missing == [f"backbone.{first}"]
    assert not found.fit.unused


def test_a_window_of_another_size_is_said():
    shapes = {n: ((23**2, s[1]) if n.endswith("bias_table") else s) for n, s in canonical("swin_base").items()}
    with pytest.raises(InputError, match=r"width 128.*window 12.*swin_base.* has"):
        identify(source(marked(shapes)))


def test_a_resnet_of_basic_blocks_is_said():
    shapes = {n: s for n, s in canonical("resnet50").items() if "conv3" not in n and "bn3" not in n}
    with pytest.raises(InputError, match="blocks basic"):
        guess_backbone("resnet", marked(shapes), "resnet34.pth")


def test_strangers_are_refused():
    with pytest.raises(InputError, match=r"no source that is known \(a\.weight"):
        identify(source({"a.weight": np.zeros(3, np.float32)}))
