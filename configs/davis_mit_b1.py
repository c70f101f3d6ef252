"""Fine-tuning as the release does it: DAVIS-2016 train, MiT-b1, sixteen clips a step, from the pre-trained weights.

    hmhi flow data/DAVIS
    python train.py --config configs/davis_mit_b1.py --workdir runs/davis_mit_b1 \
        --config.data.root=data --config.init_from=runs/ytvos_mit_b1

Data: the 30 training videos of DAVIS-2016; a clip is drawn from each ten times an epoch. Validation on its 20 others.
Cost: the release used four GPUs with four clips each. On fewer devices keep the sixteen and set
`--config.step.accumulate`.
Expected: the release reports J&F 89.8 on DAVIS-16 with its own checkpoint. Not run to the end by this project.
"""

from ml_collections import ConfigDict

from hmhi_jax.training.config import default_config


def get_config() -> ConfigDict:
    c = default_config()
    c.epochs = 100.0
    c.data.sources = ({"path": "DAVIS", "split": "train", "repeats": 10},)
    c.data.batch_size = 16
    c.data.workers = 8
    c.step.checkpoint = "read_outs"
    c.checkpoints.every_steps = 200
    c.evaluation.every_epochs = 1.0
    c.evaluation.sets = ({"path": "DAVIS", "split": "val", "name": "davis16"},)
    return c
