"""The small network that comes with the package, from made-up clips alone: no video, no annotation, no GPU.

    pip install "hmhi-jax[synthetic]"
    hmhi synthesise data/train --clips 4000
    hmhi synthesise data/val --clips 120 --seed 900
    python train.py --config configs/tiny_synthetic.py:frames --workdir runs/tiny_frames --config.data.root=data
    python train.py --config configs/tiny_synthetic.py:memory --workdir runs/tiny --config.data.root=data \
        --config.init_from=runs/tiny_frames
    python train.py --config configs/tiny_synthetic.py:memory --workdir runs/tiny_longer --config.data.root=data \
        --config.init_from=runs/tiny --config.steps=4000
    hmhi segment video.mp4 --weights runs/tiny_longer

Two stages, the second twice. `frames`: 80,000 single frames with the memory off, which teaches the encoder and the
decoder for half of what frames of clips cost. `memory`: 8,800 clips of four, then 16,000 more, with both banks, SGIM
and PLAM; a quarter of the later frames lose their flow, so that the banks are needed.
Cost on one core of an AMD EPYC 9004 (AVX-512): 4,000 clips are some 22,000 frames, made at 34 a second on two; the
first stage ran at 27 frames a second (50 minutes), the second at 3.7 clips (40 minutes), compilation and evaluation not
counted; its repetition 80 minutes.
The shipped weights went this way with clips of an earlier generator (J on held-out clips .70, .72 and .735), and then
through a second repetition, 4,600 steps in 85 minutes, on clips of the present one (.742). docs/weights.md has their
scores.
"""

from ml_collections import ConfigDict

from hmhi_jax.training.config import default_config

STAGES = ("frames", "memory")


def get_config(stage: str = "frames") -> ConfigDict:
    """The settings of one stage; the name after the colon of `--config`."""
    if stage not in STAGES:
        raise ValueError(f"stage {stage!r}; write configs/tiny_synthetic.py:{STAGES[0]} or :{STAGES[1]}")
    with_memory = stage == "memory"
    c = made_up_clips()
    c.model.backbone = "conv_joint"
    c.model.subpixels = 2
    for part in ("shallow_memory", "deep_memory", "sgim", "plam"):
        c.model[part] = with_memory

    c.data.sources = ({"path": "train"},)
    c.data.sizes = ((128, 224),)
    c.data.frames = 4 if with_memory else 1
    c.data.batch_size = 4 if with_memory else 16
    c.data.reach = 2
    c.data.crop = (0.3, 1.0)
    c.data.hue = 90
    c.data.still = 0.25

    c.steps = 2200 if with_memory else 5000
    c.optimiser.learning_rate = 1e-3 if with_memory else 2e-3
    c.optimiser.backbone_rate = 0.5 if with_memory else 1.0

    c.evaluation.sets = ({"path": "val", "name": "made-up"},)
    c.evaluation.every_steps = 600 if with_memory else 1500
    c.checkpoints.every_steps = 150
    return c


def made_up_clips() -> ConfigDict:
    """What all trainings on made-up clips share: the memory, the optimiser's schedule, the loss."""
    c = default_config()
    c.model.memory_frames = 5
    c.model.feedforward = 256
    c.initialisation = "fan_in"
    c.data.reading = "fast"
    c.optimiser.schedule = "cosine"
    c.optimiser.warmup_steps = 100
    c.optimiser.final_fraction = 0.02
    c.optimiser.weight_decay = 0.02
    c.optimiser.decay_mask = "spare_vectors"
    c.optimiser.clip_norm = 1.0
    c.step.dropout = False
    c.step.map_weight = 1.0
    c.step.ema_decay = 0.998
    c.logging.every_steps = 10
    return c
