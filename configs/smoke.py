"""A whole training run in a minute or two on a CPU: generated clips, a small network, a rising J.

    python train.py --config configs/smoke.py --workdir /tmp/smoke

Writes sixteen videos of moving blobs in DAVIS layout into the work directory, trains 100 steps of four clips on them,
and evaluates on four others every 50 steps. Most of the first run's time is compilation, which later runs find in the
cache. Expect a loss that falls from 30 and a J&F that rises; the weights are of no use to anybody.
"""

from ml_collections import ConfigDict

from hmhi_jax.training.config import default_config


def get_config() -> ConfigDict:
    c = default_config()
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
