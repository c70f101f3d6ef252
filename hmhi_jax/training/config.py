"""Every setting of a training run with its default: the release's, but where a comment says otherwise."""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, get_args

from ml_collections import ConfigDict, config_dict

from hmhi_jax.errors import InputError
from hmhi_jax.models.hmhi_net import SWITCHES

# Settings that may differ from those a checkpoint was made with: the arrays stay the same. What is learnt does too, but
# for a decaying schedule's length (steps, epochs), dropout's draws (step.checkpoint), and bad videos (data.skip_bad).
FREE = (
    "mesh", "logging", "checkpoints", "evaluation", "step.checkpoint", "step.frames", "data.workers", "data.threads",
    "data.buffer", "data.on_corrupt", "data.skip_bad", "data.root", "init_from", "init_optimiser", "initialisation",
    "steps", "epochs",
)  # fmt: skip

INITIALISATIONS = ("published", "fan_in")


def default_config() -> ConfigDict:
    """A config to fill in. Lengths of time are in steps or epochs, sizes in pixels (height, width)."""
    c = ConfigDict()
    c.seed = 0
    c.steps = 0  # length of the run; 0: `epochs` counts
    c.epochs = 0.0
    # Weights file (converted backbone, whole network), the folder of another run, or "package:efficientnet-lite0", the
    # ImageNet encoder of an installed package; "": fresh weights.
    c.init_from = ""
    c.initialisation = "published"  # of fresh weights; or "fan_in": for small networks, see `fan_in_scaled`
    c.init_optimiser = "fresh"  # or "kept": that of the other run

    c.model = model_defaults()
    c.model.memory_frames = 5

    c.data = ConfigDict()
    c.data.make = ""  # "module:function" that makes the batches from (config, mesh); "": from `sources`
    c.data.root = ""  # what relative paths of `sources` start from
    c.data.sources = ()  # of {"path": ..., "repeats": 1, "split": None, "layout": None, "flows": None, "name": None,
    # "videos": None (all), "without": ()}
    c.data.rendered = ()  # made-up clips, rendered while training, of {"clips": ..., "repeats": 1, "seed": 0,
    # "preset": "photographic", "pictures": (folders,), "settings": {...}}: see tools/synthetic/datasets.py
    c.data.generate = 0  # videos of moving blobs to write into the work directory and train on
    c.data.batch_size = 8  # clips of a step, over all devices
    c.data.frames = 5
    c.data.reach = 7
    c.data.among = "all"  # frames that clips are made of; or "annotated"
    c.data.sizes = ((512, 512),)
    c.data.flip = 0.5
    c.data.photometric = True
    c.data.hue = 18  # +- degrees of 180 that hues are shifted by
    c.data.still = 0.0  # share of frames after a clip's first whose flow picture is made to say "nothing moves"
    c.data.no_flow = 0.0  # share of clips without any flow picture, likewise
    c.data.other_flow = 0.0  # share of clips with the flow pictures of another video
    c.data.flow_noise = 0.0  # share of clips with noise on their flow pictures
    c.data.augment_per = "clip"  # "frame": as the release
    c.data.crop = config_dict.placeholder(tuple)  # (least, largest) share of the area a random window keeps
    c.data.reading = "exact"
    c.data.on_corrupt = "skip"  # or "fatal"
    c.data.skip_bad = False  # go on without videos that `hmhi inspect` complains about
    c.data.workers = 0
    c.data.threads = 4
    c.data.buffer = 2

    c.optimiser = ConfigDict()
    c.optimiser.learning_rate = 6e-5
    c.optimiser.schedule = "constant"
    c.optimiser.warmup_steps = 0
    c.optimiser.final_fraction = 0.0
    c.optimiser.weight_decay = 5e-4
    c.optimiser.decay_mask = "all"
    c.optimiser.b1 = 0.9
    c.optimiser.b2 = 0.999
    c.optimiser.eps = 1e-8
    c.optimiser.clip_norm = 0.0  # 0: no clipping
    c.optimiser.frozen = ()  # patterns of parameter paths
    c.optimiser.backbone_rate = 1.0  # factor on the learning rate of the encoder

    c.step = ConfigDict()
    c.step.accumulate = 1
    c.step.checkpoint = "none"  # or "read_outs", "cheap", "step": what the backward pass computes again
    c.step.frames = "auto"  # of a clip: "scanned", or "unrolled", which "auto" takes on CPU and TPU: docs/training.md
    c.step.dropout = True
    c.step.map_weight = 20.0  # of focal + bce / 2 against dice in the loss
    c.step.ema_decay = 0.0  # 0: no averaged parameters

    c.mesh = ConfigDict()
    c.mesh.data = -1  # all devices that `space` leaves
    c.mesh.space = 1

    c.checkpoints = ConfigDict()
    c.checkpoints.every_steps = 0  # 0: with every evaluation and at the end
    c.checkpoints.keep_last = 2
    c.checkpoints.keep_best = 1

    c.evaluation = ConfigDict()
    c.evaluation.every_epochs = 0.0
    c.evaluation.every_steps = 0
    c.evaluation.sets = ()  # of {"path": ..., "split": ..., "protocol": "davis16", "layout": None, "flows": None}
    c.evaluation.best_metric = ""  # "<set>/JF_mean"; "": the first set's J&F, or MAE
    c.evaluation.memory_frames = config_dict.placeholder(int)  # capacity in validation; that of training
    c.evaluation.workers = 0  # processes that score; 0: as many as cores
    c.evaluation.pictures = 4  # videos of each set whose prediction is drawn

    c.logging = ConfigDict()
    c.logging.every_steps = 1
    c.logging.tensorboard = True
    return c


# What numbers must be, but for those of `model`, which `build_model` checks: finite, and 0 or more unless said here.
_LEAST = {
    "data.batch_size": 1, "data.frames": 1, "data.reach": 1, "data.threads": 1, "data.buffer": 1, "step.accumulate": 1,
    "mesh.data": -1, "checkpoints.keep_last": 1, "logging.every_steps": 1,
}  # fmt: skip
_MOST = {
    "seed": 2**31 - 1, "data.workers": 1024, "data.threads": 1024, "data.buffer": 1024, "evaluation.workers": 1024,
    "optimiser.final_fraction": 1,
}  # fmt: skip
_LESS_THAN_1 = ("optimiser.b1", "optimiser.b2", "step.ema_decay")
_MORE_THAN_0 = ("optimiser.learning_rate", "optimiser.eps")


def check_values(config: ConfigDict) -> None:
    """Raises `InputError` for a field outside of `model` of another kind than its default, or a number that cannot be
    used."""
    given = flat(to_plain(config))
    for name, default in flat(to_plain(default_config())).items():
        value, kind = given.get(name, default), type(default)
        if name.startswith("model.") or default is None:
            continue
        fits = type(value) in ((int, float) if kind is float else (kind,))
        expected = {bool: "True or False", str: "a text", list: "a tuple"}.get(kind, "")
        if kind in (int, float):
            least, most = _LEAST.get(name, 0), _MOST.get(name, math.inf)
            expected = f"from {least} to {most}" if name in _MOST else f"a finite number, {least} or more"
            fits = fits and least <= value <= most and math.isfinite(value)
        if name in _LESS_THAN_1:
            expected, fits = "at least 0 and less than 1", fits and value < 1
        if name in _MORE_THAN_0:
            expected, fits = "a finite number, more than 0", fits and value > 0
        if not fits:
            raise InputError(f"config.{name} is {value!r}, expected {expected}")


def check_initialisation(name: str) -> None:
    """Raises `InputError` for a name that is none of `INITIALISATIONS`."""
    if name not in INITIALISATIONS:
        raise InputError(f"config.initialisation is {name!r}, expected one of {', '.join(INITIALISATIONS)}")


def model_defaults() -> ConfigDict:
    """The arguments of `build_model`, which are the attributes of `HMHINet`; parameters are float32 always."""
    c = ConfigDict()
    for name, switch in SWITCHES.items():
        unset = switch.default is None  # the backbone's
        c[name] = config_dict.placeholder(get_args(switch.type)[0]) if unset else switch.default
    c.dtype = "float32"
    return c


def to_plain(config: ConfigDict) -> dict[str, Any]:
    """The config as JSON values."""
    return json.loads(config.to_json_best_effort())


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """ "section.field" -> value."""
    fields: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            fields |= flat(value, f"{prefix}{name}.")
        else:
            fields[prefix + name] = value
    return fields


def is_among(name: str, fields: Iterable[str]) -> bool:
    """Whether a field, or a section it belongs to, is among these."""
    return any(name == field or name.startswith(field + ".") for field in fields)


def differences(stored: Mapping[str, Any], current: Mapping[str, Any], accepted: Iterable[str] = ()) -> list[str]:
    """One line for every field that a checkpoint and this run do not share and that is not free to change."""
    accepted = (*FREE, *accepted)
    then, now = flat(stored), flat(current)
    missing = "(no such field)"
    return [
        f"{name}: checkpoint {then.get(name, missing)!r}, now {now.get(name, missing)!r}"
        for name in sorted({*then, *now})
        if then.get(name, missing) != now.get(name, missing) and not is_among(name, accepted)
    ]


def check_same(stored: Mapping[str, Any], current: Mapping[str, Any], where: str, accepted: Iterable[str] = ()) -> None:
    """Refuse to go on from a checkpoint made with other settings, naming every field."""
    if lines := differences(stored, current, accepted):
        raise InputError(
            f"{where}: its checkpoints were made with other settings: {'; '.join(lines)}; give the same config, "
            "another --workdir, or --accept_changes with these fields' names"
        )
