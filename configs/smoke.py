"""A whole training run in about a minute on a CPU: generated clips, a small network, a rising J.

    python train.py --config configs/smoke.py --workdir /tmp/smoke

Writes sixteen videos of moving blobs in DAVIS layout into the work directory, trains 40 steps of four clips of two
frames on them, and evaluates on four others every 20 steps. The network is of the kind of `tiny`'s, but smaller, whole
memory included. Fresh weights are scaled by fan-in (`initialisation`). The weights are of no use to anybody.

Measured on 2 cores of an AMD EPYC 9004 (AVX-512), nothing else running: loss 4.00 at the first step, 1.43 at the last;
J .761 after 20 steps, .810 after 40; 60 s by the clock with no programs kept, more than half of them compiling, and 15
with those of another run.
"""

from ml_collections import ConfigDict

from hmhi_jax.training.config import default_config


def get_config() -> ConfigDict:
    c = default_config()
    c.initialisation = "fan_in"
    c.model.backbone = "conv_joint"
    c.model.memory_frames = 3
    c.model.decoder_width = 16
    c.model.feedforward = 64
    c.data.generate = 16
    c.data.sizes = ((64, 64),)
    c.data.frames = 2
    c.data.batch_size = 4
    c.steps = 40
    c.step.dropout = False
    c.step.map_weight = 5.0
    c.optimiser.learning_rate = 1e-3
    c.optimiser.schedule = "cosine"
    c.optimiser.warmup_steps = 5
    c.evaluation.every_steps = 20
    c.evaluation.sets = ({"path": "data", "split": "val", "name": "blobs"},)
    c.evaluation.workers = 1
    return c
