"""Fine-tuning on real video: `configs/small_synthetic.py`'s network, then DAVIS-2016 train beside made-up clips.

    hmhi flow data/DAVIS --split train --recipe runs/small      # flow pictures as the first stage had them
    hmhi pack data/DAVIS data/davis --split train --size 208 384 --quality 75 --codec webp
    python train.py --config configs/small_davis.py:short --workdir runs/small_davis_short --config.data.root=data \
        --config.init_from=runs/small
    python train.py --config configs/small_davis.py:long --workdir runs/small_davis --config.data.root=data \
        --config.init_from=runs/small_davis_short

Without a GPU, from the shipped weights, which know the made-up clips already (350 of them keep that alive):

    hmhi flow data/DAVIS --split train --recipe small
    hmhi pack data/DAVIS data/davis --split train --size 288 512 --quality 90 --codec webp
    hmhi synthesise data/train --preset photographic --clips 350 --height 288 --width 512
    python train.py --config configs/small_davis.py:cpu --workdir runs/small_davis --config.data.root=data
    hmhi convert runs/small_davis small_davis.safetensors --input-size 288 512 --every 3 --dtype float16

The 30 training videos of DAVIS-2016 (CC BY-NC 4.0) as often as made-up clips (`data/train` of the first stage;
`short-rendered`, `long-rendered`: rendered meanwhile). Five of the 30 are held out: settings and steps are chosen on
them, never on DAVIS-2016 val. `long-all` and `long-rendered-all` train on all 30 when everything is chosen; their
figures on the five then say nothing. With YouTube-VOS at hand, add it to `sources` (`hmhi flow` with the same recipe).
"""

from ml_collections import ConfigDict

from configs import small_synthetic

STAGES = ("short", "long", "short-rendered", "long-rendered", "long-all", "long-rendered-all", "cpu")
HELD_OUT = ("bmx-bumps", "car-turn", "dog-agility", "kite-walk", "mallard-water")
_CLIPS = 4000  # made-up clips of an epoch, and about as many of DAVIS


def get_config(stage: str = "short") -> ConfigDict:
    """The settings of one stage; the name after the colon of `--config`."""
    if stage not in STAGES:
        raise ValueError(f"stage {stage!r}; write configs/small_davis.py:{' or :'.join(STAGES)}")
    if stage == "cpu":
        return _on_a_cpu()
    words = stage.split("-")
    c = small_synthetic.small(long="long" in words)
    out = () if "all" in words else HELD_OUT
    clips = 10 * _CLIPS if "rendered" in words else _CLIPS
    davis = {"path": "davis", "name": "davis", "repeats": clips // (30 - len(out)), "without": out}
    if "rendered" in words:
        c.data.sources = (davis,)
        c.data.rendered = ({"clips": clips, "seed": 1, "pictures": ()},)
        c.data.workers = 12
    else:
        c.data.sources = (davis, {"path": "train"})
    c.steps = 3000 if "short" in words else 2000
    c.optimiser.learning_rate *= 0.5
    c.evaluation.sets = ({"path": "davis", "name": "held-out", "videos": HELD_OUT},)
    return c


def _on_a_cpu() -> ConfigDict:
    """`small_synthetic.on_a_cpu` with DAVIS."""
    c = small_synthetic.on_a_cpu()
    c.data.sources = ({"path": "davis", "name": "davis", "repeats": 18, "without": HELD_OUT}, {"path": "train"})
    c.data.crop = (0.35, 0.85)
    c.steps = 2000
    return c
