"""Every setting of an evaluation with its default."""

from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict, config_dict

from hmhi_jax.data.preprocessing import checked_size
from hmhi_jax.errors import InputError
from hmhi_jax.evaluation.frame_scores import READINGS

_MOST = 1024  # of lanes, of frames of a chunk, of processes
SET_FIELDS = ("path", "root", "name", "split", "layout", "flows", "protocol", "videos")


def default_evaluation() -> ConfigDict:
    """A config for `eval.py` to fill in: its section `eval`.

    Training configs are fine too: their section `evaluation` names the data sets, and the weights are those of the
    run in the work directory.
    """
    c = ConfigDict()
    c.eval = e = ConfigDict()
    e.weights = ""  # a shipped name, a weights file or the folder of a training run; "": the work directory's
    e.root = ""  # what relative paths of `sets` start from
    # of {"path": ..., "split": None, "layout": None, "flows": None, "name": None, "videos": None, "protocol":
    # "davis16"}; a protocol may be several: ("davis16", "vsod")
    e.sets = ()
    e.reading = "release"  # or "plain", or both: "release,plain"
    e.size = ""  # of the network: height and width, "512x512", or "auto"; "": what the weights were trained for
    e.memory_frames = config_dict.placeholder(int)  # capacity of the memory; the weights'
    e.dtype = "float32"
    e.flow = "auto"  # "estimate" by the weights' recipe, take the data set's "files", or take them if made by it
    # Weights of a flow network that estimates flow, a file or a name in PyTorch's hub cache; "": as the recipe says
    e.flow_weights = ""
    e.files = "davis"  # names of predictions: <frame>.png, or "release": <video>_<frame>.png
    e.lanes_per_device = 0  # videos a device works on at once; 0: 1 on CPU, 4 elsewhere
    e.chunk = 0  # frames of a video per round; 0: 1 on CPU, 8 elsewhere
    e.extra = True  # with vsod also mean and adaptive F and E and weighted F
    e.strict = False  # refuse gaps instead of listing them
    e.overwrite = False  # predict again what is there
    e.workers = 0  # processes that score; 0: as many as cores
    return c


def evaluation_section(config: ConfigDict) -> ConfigDict:
    """The settings of an evaluation out of a config that has `eval`, or `evaluation` as training has it."""
    settings = default_evaluation().eval
    found = config.get("eval", None) or config.get("evaluation", None)
    if found is None:
        raise InputError("config: has no section 'eval'; expected one that names data sets, see configs/davis_eval.py")
    shared = "evaluation" if "eval" not in config or not config.eval else "eval"
    with settings.ignore_type(), settings.unlocked():
        for name, value in found.items():
            if name in settings:
                # Training names fewer things, and some configs write a size or readings as tuples: types may differ.
                settings[name] = value
            elif shared == "eval":
                raise InputError(f"config.eval: unknown field {name!r}, expected {', '.join(sorted(settings))}")
    for name, default in default_evaluation().eval.items():
        value, kind = settings[name], type(default)
        if name in ("sets", "reading", "size", "memory_frames"):  # of several types; checked where they are used
            continue
        if type(value) is not kind or (kind is int and not 0 <= value <= _MOST):
            expected = {bool: "True or False", str: "a name"}.get(kind, f"a whole number from 0 to {_MOST}")
            raise InputError(f"config.{shared}.{name} is {value!r}, expected {expected}")
    if not settings.sets:
        raise InputError(f"config.{shared}.sets is empty, expected data sets such as {{'path': 'data/DAVIS'}}")
    if not settings.root and config.get("data", None) is not None and shared == "evaluation":
        settings.root = config.data.get("root", "") or ""
    return settings


def listed_readings(value: str | Sequence[str]) -> tuple[str, ...]:
    """`reading` of a config: one or several, known ones."""
    listed = value.split(",") if isinstance(value, str) else value if isinstance(value, tuple | list) else [value]
    names = tuple(name.strip() if isinstance(name, str) else name for name in listed)
    for name in names:
        if name not in tuple(READINGS):
            raise InputError(
                f"config.eval.reading is {value!r}, expected {' or '.join(READINGS)}, or both with a comma"
            )
    return names


def network_size(value: str | Sequence[int] | None) -> tuple[int, int] | str | None:
    """`size` of a config: (height, width), "auto", or None for the weights' own."""
    if not value:
        return None
    if value == "auto":
        return "auto"
    parts = value.lower().split("x") if isinstance(value, str) else value
    try:
        return checked_size([int(part) if isinstance(part, str) else part for part in parts])
    except (TypeError, ValueError, InputError) as error:
        raise InputError(
            f"config.eval.size is {value!r}, expected height and width such as '512x512', or 'auto' ({error})"
        ) from None


def checked_set(entry: Mapping[str, Any], where: str) -> dict[str, Any]:
    """One data set's fields, `root` being another name of `path`, and `protocol` always several."""
    if not isinstance(entry, Mapping):
        raise InputError(f"{where} is {entry!r}, expected a data set such as {{'path': 'data/DAVIS'}}")
    fields = dict(entry)
    if unknown := set(fields) - set(SET_FIELDS):
        raise InputError(f"{where}: unknown {', '.join(sorted(unknown))}, expected {', '.join(SET_FIELDS)}")
    path = fields.pop("root", None) or fields.get("path")
    if not path:
        raise InputError(f"{where}: names no folder, expected 'path'")
    protocol = fields.get("protocol") or "davis16"
    return fields | {"path": path, "protocol": (protocol,) if isinstance(protocol, str) else tuple(protocol)}
