"""Every registered backbone: the release's and torchvision's maps, parameter counts, a clip and its gradient."""

import json
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict
from goldens import cases

from hmhi_jax.interop.torch_weights import encoder_from_torch, expected_encoder_entries
from hmhi_jax.models import build_model, frame, segment_clip
from hmhi_jax.models.backbones import backbone_names, mit, resnet, spec, swin

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
}
OURS = tuple(sorted({*backbone_names()} - {*PARAMETERS}))  # in no publication


def recipe_encoder(backbone: str, seed: int, flow_adapters: bool | None = None) -> dict:
    """The recipe's weights of an encoder alone, as variables of the encoder module."""
    shapes = {name: entry.shape for name, entry in expected_encoder_entries(backbone, flow_adapters).items()}
    variables = encoder_from_torch(backbone, cases.recipe.state_dict(shapes, seed), flow_adapters)
    return {collection: tree["encoder"] for collection, tree in variables.items()}


@pytest.mark.parametrize(
    ("case", "backbone"),
    [("backbone_mit_b0", "mit_b0"), ("backbone_swin_small", "swin_small"), ("backbone_resnet50", "resnet50")],
)
def test_maps_are_the_release_s(case, backbone):
    arguments = json.loads((cases.FOLDER / f"{case}.json").read_text())
    with np.load(cases.FOLDER / f"{case}.npz") as expected:
        frames, flows = cases.recipe.clip(arguments["seed"], 1, 1, arguments["size"])
        pictures = np.concatenate([frames[:, 0], flows[:, 0]])
        encoder = spec(backbone).make()
        maps = jax.jit(lambda v, x: encoder.apply(v, x, flow_rows=1))(
            recipe_encoder(backbone, arguments["seed"]), pictures
        )
        assert len(maps) == len(expected.files) == 4
        for name, ours in zip(expected.files, maps, strict=True):
            # Rounding grows with the values, and a ResNet with the recipe's weights reaches a thousand.
            scale = max(1.0, float(np.sqrt(np.mean(np.square(expected[name])))))
            assert ours.shape == expected[name].shape
            assert np.abs(np.asarray(ours) - expected[name]).max() < 2e-5 * scale, name


def test_a_clip_with_swin_is_the_release_s():
    case = cases.load("swin_tiny_128")
    model, variables = cases.model_and_variables(case)
    logits = jax.jit(lambda v, *clip: segment_clip(model, v, *clip))(variables, *case.clip())
    error = np.abs(case.kept("logits", np.asarray(logits)) - case.expected["logits"])
    assert np.quantile(error, 0.999) < 1e-4
    assert error.max() < 2e-3


def test_the_published_backbones_are_registered():
    assert set(PARAMETERS) <= set(backbone_names())


@pytest.mark.parametrize("backbone", PARAMETERS)
def test_parameter_count(backbone):
    entries = expected_encoder_entries(backbone)
    assert sum(int(np.prod(e.shape)) for e in entries.values() if e.path.startswith("params/")) == PARAMETERS[backbone]


@pytest.mark.parametrize(
    ("backbone", "width"),
    [
        *(("mit_b0", 128), ("mit_b1", 256), ("mit_b5", 256)),
        *(("swin_tiny", 192), ("swin_small", 192), ("swin_base", 256)),
        *(("resnet50", 256), ("resnet101", 256)),
    ],
)
def test_decoder_width(backbone, width):
    assert spec(backbone).decoder_width == width


@pytest.fixture
def blocks_compiled_once(monkeypatch):
    """The copies of a block are one function to the compiler: forty of them cost what one does."""
    monkeypatch.setattr(mit, "MixBlock", nn.jit(mit.MixBlock, static_argnums=(2, 3)))
    monkeypatch.setattr(swin, "SwinBlock", nn.jit(swin.SwinBlock, static_argnums=(2, 3)))
    monkeypatch.setattr(resnet, "Bottleneck", nn.jit(resnet.Bottleneck, static_argnums=(2, 3)))


def small_model(backbone: str, **changes):
    return build_model(backbone, memory_frames=1, feedforward=64, decoder_width=16, drop_path=0.0, **changes)


@cache
def behind_the_encoder(channels: tuple[int, ...]):
    """Loss and its gradient by the features, compiled once for all backbones of these widths."""
    model = small_model(next(name for name in backbone_names() if spec(name).channels == channels))

    def loss(features, variables):
        memory, first = model.apply(variables, frame(features, 0), method="start")
        _, second = model.apply(variables, memory, frame(features, 1), method="step")
        logits = jnp.stack([first, second], 1)
        return jnp.square(logits - 1).mean(), logits

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


def cheap_variables(model, clip) -> dict:
    """Small numbers in every kernel: drawing hundreds of millions of normal ones takes longer than the test."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), clip, clip)
    pool = np.random.default_rng(0).standard_normal(100_003).astype(np.float32)

    def values(path, leaf):
        if path[-1].key in ("scale", "var"):
            return np.ones(leaf.shape, np.float32)
        fan_in = max(1, int(np.prod(leaf.shape[:-1])))
        return np.resize(pool, leaf.shape) / np.float32(np.sqrt(fan_in))

    return jax.tree.map(jnp.asarray, jax.tree_util.tree_map_with_path(values, shapes))


@pytest.mark.slow
@pytest.mark.parametrize("backbone", [*PARAMETERS, *OURS])
def test_a_clip_and_its_gradient(backbone, blocks_compiled_once):
    model = small_model(backbone)
    clip = jax.random.normal(jax.random.key(0), (1, 2, 64, 64, 3))
    variables = cheap_variables(model, clip)
    params = variables["params"]

    def encode(encoder):
        return model.apply({**variables, "params": {**params, "encoder": encoder}}, clip, -clip, method="encode")

    features, pull = jax.vjp(encode, params["encoder"])
    assert [x.shape[2:] for x in features] == [
        (64 // stride, 64 // stride, channels)
        for stride, channels in zip((4, 8, 16, 32), spec(backbone).channels, strict=True)
    ]
    rest = {"params": {name: tree for name, tree in params.items() if name != "encoder"}}
    (_, logits), cotangents = behind_the_encoder(spec(backbone).channels)(features, rest)
    assert logits.shape == (1, 2, 64, 64, 1)
    assert np.isfinite(np.asarray(logits)).all()
    (gradient,) = pull(cotangents)
    for path, g in flatten_dict(gradient, sep="/").items():
        assert np.isfinite(np.asarray(g)).all(), path
        assert np.abs(np.asarray(g)).max() > 0, path
