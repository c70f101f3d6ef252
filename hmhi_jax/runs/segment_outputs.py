"""Where the results of `hmhi segment` go, and whether what they need is there."""

import dataclasses
import importlib.util
from pathlib import Path

from hmhi_jax.data.open_videos import VIDEO_SUFFIXES
from hmhi_jax.errors import InputError
from hmhi_jax.inference.outputs import Outputs

_CUTOUT_SUFFIXES = {".mov": "mov", ".webm": "webm"}
_PACKAGES = {"exr": ("OpenEXR", "exr"), "coco": ("pycocotools", "coco"), "youtube_vis": ("pycocotools", "coco")}


def place_outputs(out: Path, outputs: Outputs, videos: int) -> tuple[Path, Outputs]:
    """The folder for the results, and what to write, where `out` may also be a file for the cut-out of a single video;
    its other results then go into a folder beside it that is named after it.

    Raises `InputError` for a file that cannot hold one, or a package that is missing.
    """
    for field, (package, extra) in _PACKAGES.items():
        if getattr(outputs, field) and importlib.util.find_spec(package) is None:
            option = field.replace("_", "-")
            raise InputError(f"--{option}: needs the package {package}; pip install 'hmhi-jax[{extra}]'")
    suffix = out.suffix.lower()
    if suffix not in VIDEO_SUFFIXES or out.is_dir():
        return out, outputs
    if suffix not in _CUTOUT_SUFFIXES:
        raise InputError(
            f"--out {out}: a {suffix} file cannot hold a cut-out, for want of transparency; name a .mov or .webm file, "
            "or a folder, where an overlay is written as .mp4, and a black and white video with --matte"
        )
    kind = _CUTOUT_SUFFIXES[suffix]
    if outputs.cutout not in (None, kind):
        raise InputError(f"--out {out} --cutout {outputs.cutout}: expected one kind; name a folder to choose it")
    if videos != 1:
        raise InputError(
            f"--out {out}: is one file, but there are {videos} videos; "
            f"name a folder, and --cutout {kind} to get one each"
        )
    return Path(f"{out}.results"), dataclasses.replace(outputs, cutout=kind, file=out)
