"""A whole training run in about a minute on a CPU: generated clips, a small network, a rising J.

    python train.py --config configs/smoke.py --workdir /tmp/smoke

Writes sixteen videos of moving blobs in DAVIS layout into the work directory, trains 60 steps of four clips on them,
and evaluates on four others every 20 steps. Fresh weights are scaled by fan-in (`initialisation`): drawn as published,
a network this small does not learn anything in so few steps. The weights are of no use to anybody.
"""

from ml_collections import ConfigDict

from hmhi_jax.training.config import default_config


def get_config() -> ConfigDict:
    c = default_config()
    c.initialisation = "fan_in"
    c.model.backbone = "conv_joint"
    c.model.memory_frames = 2
    c.model.decoder_width = 32
    c.model.feedforward = 64
    c.data.generate = 16
    c.data.sizes = ((64, 64),)
    c.data.frames = 3
    c.data.batch_size = 4
    c.steps = 60
    c.step.frames = "scanned"  # compiles in half the time
    c.optimiser.learning_rate = 2e-3
    c.optimiser.schedule = "cosine"
    c.optimiser.warmup_steps = 5
    c.optimiser.clip_norm = 1.0
    c.evaluation.every_steps = 20
    c.evaluation.sets = ({"path": "data", "split": "val", "name": "blobs"},)
    c.evaluation.workers = 1
    return c
