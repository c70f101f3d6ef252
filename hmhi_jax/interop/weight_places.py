"""Where weights lie: the names of files and folders that hold them, and which one a user's word stands for."""

from importlib import resources
from pathlib import Path

from hmhi_jax.errors import InputError

SUFFIX = ".safetensors"
CHECKPOINT_EXPORT = "weights" + SUFFIX  # what training writes beside its checkpoints
ORBAX_VARIABLES, ORBAX_HEADER = "variables", "hmhi"  # the two parts of an Orbax folder of ours
METADATA = "__metadata__"  # key of a `.npz` that holds the JSON that safetensors keeps in its header


def find_weights(name_or_path: str | Path) -> Path:
    """The file, or folder of one checkpoint, that `name_or_path` stands for; see `weights_file.load_weights`."""
    path = Path(name_or_path).expanduser()
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
    names = ", ".join(shipped) if shipped else "none in this version"
    raise InputError(
        f"weights {str(name_or_path)!r}: no such file, folder or shipped name (shipped: {names}); "
        "make one with 'hmhi convert' or by training"
    )


def shipped_weights() -> dict[str, Path]:
    """Name -> file of the weights inside this package."""
    folder = Path(str(resources.files("hmhi_jax"))) / "weights"
    return {path.stem: path for path in sorted(folder.glob("*" + SUFFIX))}


def checkpoint_of(folder: Path) -> Path | None:
    """The Orbax folder that a folder stands for: itself if `hmhi convert` or training wrote it, the newest checkpoint
    of a training run, or None."""
    if (folder / ORBAX_VARIABLES).is_dir():
        return folder
    steps = [
        step
        for place in (folder, folder / "checkpoints", folder.parent)
        if place.is_dir()
        for step in place.iterdir()
        if step.name.isdigit() and (step / "state").is_dir() and (place != folder.parent or step == folder)
    ]
    return max(steps, key=lambda step: int(step.name), default=None)
