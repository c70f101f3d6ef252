"""Every registered backbone: the release's and torchvision's maps, parameter counts, a clip and its gradient."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from block_programs import block_programs, forget_programs
from flax.traverse_util import flatten_dict, unflatten_dict
from goldens import cases

from hmhi_jax.interop.shapes import variable_shapes
from hmhi_jax.interop.torch_weights import encoder_from_torch, expected_encoder_entries
from hmhi_jax.models import build_model, frame
from hmhi_jax.models.backbones import backbone_names, efficientnet_lite, mit, plain_conv, resnet, spec, swin

# Encoder alone: the release's classes (with adapters where it has them), torchvision's models without classifier
# (Swin also without the norm before it).
PARAMETERS = {
    "mit_b0": 4_004_960,
    "mit_b1": 15_870_144,
    "mit_b2": 29_419_424,
    "mit_b3": 53_640_224,
    "mit_b4": 73_904_768,
    "mit_b5": 99_094_496,
    "swin_tiny": 28_288_354 - 769_000 - 2 * 768,
    "swin_small": 49_606_258 - 769_000 - 2 * 768,
    "swin_base": 87_768_224 - 1_025_000 - 2 * 1024,
    "resnet50": 25_557_032 - 2_049_000,
    "resnet101": 44_549_160 - 2_049_000,
    # Of the published 4,652,008: without the last 1x1 convolution, its norm and the classifier.
    "efficientnet_lite0": 4_652_008 - 320 * 1280 - 2 * 1280 - 1280 * 1000 - 1000,
}
# In no publication; the tests register some of their own.
OURS = tuple(name for name in backbone_names() if name not in PARAMETERS and not name.endswith("_test"))


@pytest.fixture(scope="module", autouse=True)
def _compiled_programs():
    yield
    forget_programs()


def recipe_encoder(backbone: str, seed: int) -> dict:
    """The recipe's weights of an encoder alone, as variables of the encoder module."""
    shapes = {name: entry.shape for name, entry in expected_encoder_entries(backbone).items()}
    variables = encoder_from_torch(backbone, cases.recipe.state_dict(shapes, seed))
    return {collection: tree["encoder"] for collection, tree in variables.items()}


@pytest.mark.parametrize(
    ("case", "backbone"),
    [
        ("backbone_mit_b0", "mit_b0"),
        ("backbone_swin_small", "swin_small"),
        ("backbone_resnet50", "resnet50"),
        ("backbone_efficientnet_lite0", "efficientnet_lite0"),
    ],
)
def test_maps_are_the_release_s(case, backbone):
    arguments = json.loads((cases.FOLDER / f"{case}.json").read_text())
    frames, flows = cases.recipe.clip(arguments["seed"], 1, 1, arguments["size"])
    model = build_model(backbone)
    variables = {k: {"encoder": tree} for k, tree in recipe_encoder(backbone, arguments["seed"]).items()}

    def rows(method_model, frames, flows):
        return method_model.encoder(jnp.concatenate([frames[:, 0], flows[:, 0]]), flow_rows=1)

    with block_programs():
        maps = model.apply(variables, frames, flows, method=rows)
    with np.load(cases.FOLDER / f"{case}.npz") as expected:
        assert len(maps) == len(expected.files) == 4
        for name, ours in zip(expected.files, maps, strict=True):
            stride = arguments["kept"][name]["stride"]
            kept = np.asarray(ours)[:, ::stride, ::stride]
            # Rounding grows with the values, and a ResNet with the recipe's weights reaches a thousand.
            scale = max(1.0, float(np.sqrt(np.mean(np.square(expected[name])))))
            assert kept.shape == expected[name].shape
            assert np.abs(kept - expected[name]).max() < 2e-5 * scale, name


def test_a_clip_with_swin_is_the_release_s():
    case = cases.load("swin_tiny_128")
    model, variables = cases.model_and_variables(case)
    frames, flows = case.clip()
    with block_programs():
        logits = model.apply(variables, frames, flows)
    error = np.abs(case.kept("logits", np.asarray(logits)) - case.expected["logits"])
    assert np.quantile(error, 0.999) < 1e-4
    assert error.max() < 2e-3


def test_the_published_backbones_are_registered():
    assert set(PARAMETERS) <= set(backbone_names())


@pytest.mark.parametrize(
    ("backbone", "width"),
    [
        *(("mit_b0", 128), ("mit_b1", 256), ("mit_b5", 256)),
        *(("swin_tiny", 192), ("swin_small", 192), ("swin_base", 256)),
        *(("resnet50", 256), ("resnet101", 256), ("efficientnet_lite0", 64)),
    ],
)
def test_decoder_width(backbone, width):
    assert spec(backbone).decoder_width == width


def numbered_variables(shapes: dict[str, jax.ShapeDtypeStruct]) -> dict[str, np.ndarray]:
    """Some normal numbers over and over, scaled: drawing a hundred million takes longer than the test."""
    few = np.random.default_rng(0).standard_normal(100_003).astype(np.float32)
    flat = {}
    for path, leaf in shapes.items():
        if path.endswith(("/scale", "/var")):
            flat[path] = np.ones(leaf.shape, np.float32)
        else:
            flat[path] = np.resize(few / np.float32(np.sqrt(max(1, np.prod(leaf.shape[:-1])))), leaf.shape)
    return flat


nested = partial(unflatten_dict, sep="/")


@pytest.mark.slow
@pytest.mark.parametrize("backbone", [*PARAMETERS, *OURS])
def test_a_clip_and_its_gradient(backbone):
    """The whole network of every entry, with the parameters its publishers count: two frames and all gradients."""
    model = build_model(backbone, memory_frames=1, feedforward=64, decoder_width=16, drop_path=0.0, top_k=8)
    shapes = variable_shapes(model)
    if backbone in PARAMETERS:
        sizes = {path: leaf.size for path, leaf in shapes.items() if path.startswith("params/encoder/")}
        assert sum(sizes.values()) == PARAMETERS[backbone]
    # PLAM's grouped convolution follows the ratio of the widths: each shallow channel gives as many deep ones.
    widths = spec(backbone).channels
    assert shapes["params/plam_module/downsample/kernel"].shape == (7, 7, 1, widths[3])

    clip = np.random.default_rng(1).standard_normal((1, 2, 64, 64, 3)).astype(np.float32)
    variables = jax.device_put(nested(numbered_variables(shapes)))

    def loss(params):
        whole = {**variables, "params": params}
        features = model.apply(whole, clip, -clip, method="encode")
        memory, first = model.apply(whole, frame(features, 0), method="start")
        _, second = model.apply(whole, memory, frame(features, 1), method="step")
        logits = jnp.stack([first, second], 1)
        return jnp.square(logits - 1).mean(), (features, logits)

    with block_programs():
        (_, (features, logits)), gradient = jax.value_and_grad(loss, has_aux=True)(variables["params"])
    assert [x.shape[2:] for x in features] == [
        (64 // stride, 64 // stride, channels) for stride, channels in zip((4, 8, 16, 32), widths, strict=True)
    ]
    assert logits.shape == (1, 2, 64, 64, 1)
    assert np.isfinite(np.asarray(logits)).all()
    largest = {path: np.abs(np.asarray(g)).max() for path, g in flatten_dict(gradient, sep="/").items()}
    assert all(np.isfinite(size) for size in largest.values())
    # Untrained numbers saturate a gate of the decoder behind a hundred layers, which has no gradient then.
    assert all(size > 0 for path, size in largest.items() if path.startswith("encoder/")), largest
    reached = {path.split("/")[0] for path, size in largest.items() if size > 0}
    assert reached == {"encoder", "decoder", "shallow_bank", "deep_bank", "sgim_module", "plam_module"}


SHALLOW = {
    "mit": partial(mit.MixTransformer, (8, 16, 24, 32), (1, 1, 1, 1), (1, 1, 2, 2)),
    "swin": partial(swin.SwinTransformer, 8, (1, 1, 1, 1), (1, 1, 2, 2)),
    "resnet": partial(resnet.ResNet, (1, 1, 1, 1)),
    "efficientnet": partial(
        efficientnet_lite.EfficientNetLite,
        (((8, 3, 1, 1, 1), (8, 3, 2, 6, 1)), ((8, 5, 2, 6, 1),), ((16, 3, 2, 6, 1),), ((16, 5, 2, 6, 2),)),
        8,
    ),
    "plain_conv": partial(plain_conv.PlainConvNet, (8, 8, 16, 16), (1, 1, 1, 1), 8),
}


@pytest.mark.parametrize("family", SHALLOW)
def test_flow_adapters_touch_the_flow_rows_alone(family):
    encoder = SHALLOW[family](flow_adapters=True, dtype=jnp.dtype("float32"))
    pictures = jnp.asarray(np.random.default_rng(2).standard_normal((4, 64, 64, 3)), jnp.float32)
    shapes = jax.eval_shape(lambda key: encoder.init(key, pictures, flow_rows=2), jax.random.key(0))
    flat = numbered_variables(flatten_dict(shapes, sep="/"))
    silent = {path: 0 * x if "adapter/up/" in path else x for path, x in flat.items()}
    assert sum("adapter/up/kernel" in path for path in flat) >= 4
    run = jax.jit(lambda v, x: encoder.apply(v, x, flow_rows=2))
    for loud_map, silent_map in zip(run(nested(flat), pictures), run(nested(silent), pictures), strict=True):
        np.testing.assert_array_equal(loud_map[::2], silent_map[::2])
        assert np.abs(np.asarray(loud_map - silent_map)[1::2]).max((1, 2, 3)).min() > 1e-3


@pytest.mark.parametrize("backbone", ["swin_tiny", "swin_base", "resnet50", "efficientnet_lite0"])
def test_flow_adapters_can_be_switched_on_and_off(backbone):
    off, on = (expected_encoder_entries(backbone, choice) for choice in (False, True))
    assert set(expected_encoder_entries(backbone)) == set(off)
    added = set(on) - set(off)
    assert added
    assert all("adapter." in name for name in added)
