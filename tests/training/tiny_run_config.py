"""A training run that compiles in seconds: an encoder of four strided layers, no memory, clips of three small frames.

For tests of what surrounds the network.
"""

import contextlib
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from hmhi_jax.models.backbones import BackboneSpec, register
from hmhi_jax.models.layers import PatchConv
from hmhi_jax.training.config import default_config

BACKBONE = "strided_test"


class StridedLayers(nn.Module):
    """Four convolutions that only look at their own patch, with dropout, so that runs have something random."""

    flow_adapters: bool = False
    drop_path: float = 0.1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, pictures: jax.Array, *, flow_rows: int, train: bool = False):
        x, maps = pictures, []
        for stage, patch in enumerate((4, 2, 2, 2)):
            x = jax.nn.relu(PatchConv(16, patch, self.dtype, name=f"stage{stage}")(x))
            x = nn.Dropout(self.drop_path, deterministic=not train)(x)
            maps.append(x)
        return tuple(maps)


with contextlib.suppress(ValueError):  # config files are executed anew by every import
    version = Path(__file__).read_text()  # so that one run's program serves the next
    register(BACKBONE, BackboneSpec((16, 16, 16, 16), 8, StridedLayers, drop_path=0.1, version=version))


def get_config() -> ConfigDict:
    c = default_config()
    c.model.backbone = BACKBONE
    c.model.shallow_memory = False
    c.model.deep_memory = False
    c.model.memory_frames = 2
    c.data.generate = 8
    c.data.sizes = ((32, 32),)
    c.data.frames = 3
    c.data.batch_size = 8
    c.data.threads = 1
    c.steps = 12
    c.step.frames = "scanned"
    c.optimiser.learning_rate = 1e-3
    c.optimiser.schedule = "cosine"
    c.optimiser.warmup_steps = 2
    c.checkpoints.every_steps = 3
    c.logging.tensorboard = False
    return c
