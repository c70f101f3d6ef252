"""A whole training run in under a minute on a CPU: generated clips, a small network, a rising J.

python train.py --config configs/smoke.py --workdir /tmp/smoke
"""

from ml_collections import ConfigDict

from hmhi_jax.training.config import default_config


def get_config() -> ConfigDict:
    c = default_config()
    c.model.backbone = "mit_b0"
    c.model.memory_frames = 3
    c.model.decoder_width = 32
    c.model.feedforward = 128
    c.data.generate = 16
    c.data.sizes = ((64, 64),)
    c.data.frames = 3
    c.data.batch_size = 4
    c.steps = 60
    c.optimiser.learning_rate = 1e-3
    c.optimiser.schedule = "cosine"
    c.optimiser.warmup_steps = 5
    c.checkpoints.every_steps = 20
    return c
