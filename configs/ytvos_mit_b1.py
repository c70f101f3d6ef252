"""Pre-training as the release does it: YouTube-VOS, MiT-b1, clips of five at 512 x 512, eight clips a step.

    hmhi flow data/YouTube-VOS
    python train.py --config configs/ytvos_mit_b1.py --workdir runs/ytvos_mit_b1 \
        --config.data.root=data --config.init_from=mit_b1_imagenet.safetensors

Data: `train/` of YouTube-VOS 2018 (3,471 videos; all objects of a frame merged into one foreground; every fifth frame
is annotated and only those are drawn), flow pictures by `hmhi flow`; DAVIS-2016 `val` for validation.
Initial weights: SegFormer's ImageNet MiT-b1, converted with `hmhi convert`.
Cost: the release used four GPUs with two clips each. A step on a CPU with two cores takes tens of seconds
(`benchmarks/training.py`), so this config wants accelerators.
Settings: AdamW 6e-5 constant, weight decay 5e-4 on everything, no clipping, averaging or mixed precision; flips and
colours are drawn once per clip, where the release draws them per frame (`--config.data.augment_per=frame`). On GPUs
and TPUs `--config.model.dtype=bfloat16` computes in half precision with float32 parameters.
Expected: the published number, DAVIS-16 J&F 89.8, is after fine-tuning. Not run to the end by this project.
"""

from ml_collections import ConfigDict

from hmhi_jax.training.config import default_config


def get_config() -> ConfigDict:
    c = default_config()
    c.epochs = 100.0
    c.data.sources = ({"path": "YouTube-VOS", "split": "train", "layout": "youtube-vos"},)
    c.data.among = "annotated"
    c.data.workers = 8
    c.step.checkpoint = "read_outs"
    c.checkpoints.every_steps = 500
    c.evaluation.every_epochs = 1.0
    c.evaluation.sets = ({"path": "DAVIS", "split": "val", "name": "davis16"},)
    return c
