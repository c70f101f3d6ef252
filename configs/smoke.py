"""A whole training run in a few minutes on a CPU: generated clips, a small network, a rising J.

    python train.py --config configs/smoke.py --workdir /tmp/smoke

Writes sixteen videos of moving blobs in DAVIS layout into the work directory, trains 100 steps of four clips on them,
and evaluates on four others every 50 steps. Fresh weights are scaled by fan-in (`initialisation`): drawn as published,
a network this small hardly learns in so few steps. The weights are of no use to anybody.

Measured once, with an empty compilation cache: loss 16.2 at the first step, 2.5 at the last; J 0.602 after 50 steps,
0.644 after 100. 143 s of processor time, more than half of it compilation that later runs find in the cache; 217 s by
the clock on 2 cores of an AMD EPYC 9004 (AVX-512) that several other programs were using.
"""

from ml_collections import ConfigDict

from hmhi_jax.training.config import default_config


def get_config() -> ConfigDict:
    c = default_config()
    c.initialisation = "fan_in"
    c.model.backbone = "conv_tiny"
    c.model.memory_frames = 3
    c.model.decoder_width = 32
    c.model.feedforward = 128
    c.data.generate = 16
    c.data.sizes = ((64, 64),)
    c.data.frames = 3
    c.data.batch_size = 4
    c.steps = 100
    c.step.frames = "scanned"  # compiles in half the time
    c.optimiser.learning_rate = 1e-3
    c.optimiser.schedule = "cosine"
    c.optimiser.warmup_steps = 5
    c.evaluation.every_steps = 50
    c.evaluation.sets = ({"path": "data", "split": "val", "name": "blobs"},)
    c.evaluation.workers = 1
    return c
