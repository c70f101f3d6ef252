"""Pre-training with Swin-T: as `ytvos_mit_b1`, with the weight decay the release gives its Swin runs.

    python train.py --config configs/ytvos_swin_tiny.py --workdir runs/ytvos_swin_tiny \
        --config.data.root=data --config.init_from=swin_tiny_imagenet.safetensors

Weight decay is .01 on everything but norms and the tables of relative positions. Data, cost and what is known of the
result as in `ytvos_mit_b1`. Not run to the end by this project.
"""

from ml_collections import ConfigDict

from configs import ytvos_mit_b1


def get_config() -> ConfigDict:
    c = ytvos_mit_b1.get_config()
    c.model.backbone = "swin_tiny"
    c.optimiser.weight_decay = 0.01
    c.optimiser.decay_mask = "spare_norms"
    return c
