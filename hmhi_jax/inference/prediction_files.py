"""Predictions of a data set on disk: 8-bit pictures in a folder per video, and what they were made with.

A video's folder appears under its name when the video is complete and on the disk, never before.
"""

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from hmhi_jax.complete_files import file_to_disk, names_to_disk, write_text
from hmhi_jax.errors import InputError
from hmhi_jax.inference.result_folder import differences, read_note, some
from hmhi_jax.inference.writers import writing

MANIFEST = "predictions.json"
PredictionLayout = Literal["davis", "release"]


def file_name(video: str, frame: str, layout: PredictionLayout) -> str:
    """Name of a prediction: `<frame>.png` (DAVIS), or `<video>_<frame>.png` as the release's own data sets have it."""
    if layout == "davis" or frame.startswith(f"{video}_"):
        return f"{frame}.png"
    return f"{video}_{frame}.png"


class VideoFolder:
    """Where one video's predictions go."""

    def __init__(self, root: Path, video: str, frames: tuple[str, ...], layout: PredictionLayout) -> None:
        self.folder = root / video
        self._partial = root / f".{video}.partial"
        self._names = [file_name(video, frame, layout) for frame in frames]

    def complete(self) -> bool:
        """Whether every frame's prediction is there already."""
        return self.folder.is_dir() and set(self._names) <= set(os.listdir(self.folder))

    def begin(self) -> None:
        """Start from nothing."""
        shutil.rmtree(self._partial, ignore_errors=True)
        with writing(self._partial):
            self._partial.mkdir(parents=True)

    def write(self, frame: int, prediction: UInt8[np.ndarray, "H W"]) -> None:
        """Save the prediction of a frame, by its number."""
        path = self._partial / self._names[frame]
        with writing(path):
            Image.fromarray(prediction).save(path)
            file_to_disk(path)

    def finish(self) -> None:
        """All frames are there: give the folder its name."""
        if self.folder.exists():
            shutil.rmtree(self.folder)
        names_to_disk(self._partial)
        self._partial.rename(self.folder)
        names_to_disk(self.folder.parent)

    def abandon(self) -> None:
        """Leave nothing behind."""
        shutil.rmtree(self._partial, ignore_errors=True)


def fingerprint(variables: Any) -> str:
    """A short hash of all weights, by name and value."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def check_manifest(
    root: Path,
    settings: Mapping[str, Any],
    videos: Mapping[str, str],
    present: Collection[str],
    overwrite: bool,
    writer: bool = True,
) -> None:
    """Refuse to go on where predictions were made with other settings or from other pictures, else note ours.

    Args:
        root: folder of the predictions.
        settings: what JSON can hold.
        videos: name -> fingerprint of what is to be predicted.
        present: videos whose predictions are there, which are compared; the others may have been replaced or repaired.
        overwrite: make everything again, whatever is there.
        writer: whether this host writes the note.
    """
    path = root / MANIFEST
    settings = json.loads(json.dumps(settings))
    noted: dict[str, str] = {}
    if path.exists() and not overwrite:
        before = read_note(path)
        noted = before.pop("videos", {})
        if other := differences(before, settings):
            raise InputError(
                f"{root}: its predictions were made with other settings ({other}); choose another folder or overwrite"
            )
        if unknown := [name for name in present if name not in noted]:
            raise InputError(
                f"{path}: does not say from which pictures the predictions of {some(unknown)} were made, as an older "
                "version wrote it; choose another folder or overwrite"
            )
        if changed := [name for name in present if noted[name] != videos[name]]:
            raise InputError(
                f"{root}: its predictions of {some(changed)} were made from other pictures (frames, or flow pictures "
                "where they are used, differ in names or sizes of files); choose another folder or overwrite"
            )
    if writer:
        with writing(root):
            write_text(path, json.dumps({**settings, "videos": {**noted, **videos}}, indent=1) + "\n")


def plain_arguments(model: Any) -> dict[str, Any]:
    """A model's attributes as JSON values."""
    fields = {field.name: getattr(model, field.name) for field in dataclasses.fields(model)}
    own = {name: value for name, value in fields.items() if name not in ("parent", "name")}
    return {
        name: value if value is None or isinstance(value, (bool, int, float, str)) else np.dtype(value).name
        for name, value in own.items()
    }
