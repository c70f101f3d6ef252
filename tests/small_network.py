"""A network small enough to compile in seconds, with random weights under which every part matters."""

import zlib
from typing import Any

import jax
import numpy as np
from flax.traverse_util import unflatten_dict

from hmhi_jax.interop.shapes import variable_shapes
from hmhi_jax.models import HMHINet, build_model
from hmhi_jax.models.backbones import BackboneSpec, register
from hmhi_jax.models.backbones.mit import MixTransformer

NAME = "mit_test"
ARGUMENTS = {"backbone": NAME, "decoder_width": 16, "feedforward": 32}

register(
    NAME,
    BackboneSpec(
        channels=(8, 16, 24, 32),
        decoder_width=16,
        build=MixTransformer,
        flow_adapters=True,
        drop_path=0.1,
        arguments={"channels": (8, 16, 24, 32), "depths": (1, 1, 1, 1), "heads": (1, 1, 2, 2)},
    ),
)


def small_model(**arguments: Any) -> HMHINet:
    return build_model(**{**ARGUMENTS, **arguments})


def random_variables(model: HMHINet, seed: int = 0) -> dict:
    """Each array from its own name and the seed: models that share modules share their weights. (`model.init` draws
    the release's initial weights, whose gamma of 1e-6 would hide half the network, and takes a minute to compile.)"""
    flat = {}
    for path, leaf in variable_shapes(model).items():
        x = np.random.default_rng(zlib.crc32(f"{seed}:{path}".encode())).standard_normal(leaf.shape)
        if path.endswith("kernel"):
            x = x * np.sqrt(2 / np.prod(leaf.shape[:-1]))
        elif path.endswith("scale"):
            x = 1 + 0.1 * x
        elif path.endswith("gamma"):
            x = 0.5 + 0.1 * x
        else:
            x = 0.1 * x
        flat[path] = jax.device_put(x.astype(np.float32))
    return unflatten_dict(flat, sep="/")
