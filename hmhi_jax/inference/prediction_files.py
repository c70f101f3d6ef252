"""Predictions of a data set on disk: 8-bit pictures in a folder per video, and what they were made with.

A video's folder appears under its name when the video is complete and on the disk, never before.
"""

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import cv2
import jax
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from hmhi_jax.complete_files import file_to_disk, names_to_disk, write_text
from hmhi_jax.errors import InputError

MANIFEST = "predictions.json"
PredictionLayout = Literal["davis", "release"]


def as_read(logits: Float[np.ndarray, "h w"], size: tuple[int, int], reading: str) -> UInt8[np.ndarray, "H W"]:
    """A prediction's 8-bit values at the frame's (height, width) (docs/model.md 8).

    Logits are resized bilinearly with half-pixel centres. "plain" is the probability times 255, rounded. "release"
    stretches the frame's probabilities to 0..1 first and rounds down, in float32, exactly as the release saves them.
    """
    logits = cv2.resize(logits, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    probability = np.float32(1) / (np.float32(1) + np.exp(-np.clip(logits, -80, 80)))
    if reading == "plain":
        return np.rint(probability * np.float32(255)).astype(np.uint8)
    low, high = probability.min(), probability.max()
    stretched = (probability - low) / (high - low + np.float32(1e-8))
    return (stretched * np.float32(255)).astype(np.uint8)


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
        try:
            self._partial.mkdir(parents=True)
        except OSError as error:
            raise InputError(f"{self._partial}: cannot be made ({error.strerror}); choose another folder") from error

    def write(self, frame: int, prediction: UInt8[np.ndarray, "H W"]) -> None:
        """Save the prediction of a frame, by its number."""
        path = self._partial / self._names[frame]
        try:
            Image.fromarray(prediction).save(path)
            file_to_disk(path)
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror}); is the disk full?") from error

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
        settings: JSON values.
        videos: name -> fingerprint of what is to be predicted.
        present: videos whose predictions are there, which are compared; the others may have been replaced or repaired.
        overwrite: make everything again, whatever is there.
        writer: whether this host writes the note.
    """
    path = root / MANIFEST
    noted: dict[str, str] = {}
    if path.exists() and not overwrite:
        try:
            before = dict(json.loads(path.read_text(encoding="utf-8")))
            noted = dict(before.pop("videos", {}))
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"{path}: cannot be read ({error}); remove the folder {root} or choose another") from error
        names = sorted(name for name in {*before, *settings} if before.get(name) != settings.get(name))
        if names:
            listed = "; ".join(
                f"{name}: {_short(before.get(name))}, now {_short(settings.get(name))}" for name in names
            )
            raise InputError(
                f"{root}: its predictions were made with other settings ({listed}); choose another folder or overwrite"
            )
        if unknown := [name for name in present if name not in noted]:
            raise InputError(
                f"{path}: does not say from which pictures the predictions of {_some(unknown)} were made, as an older "
                "version wrote it; choose another folder or overwrite"
            )
        if changed := [name for name in present if noted[name] != videos[name]]:
            raise InputError(
                f"{root}: its predictions of {_some(changed)} were made from other pictures (frames, or flow pictures "
                "where they are used, differ in names or sizes of files); choose another folder or overwrite"
            )
    if not writer:
        return
    try:
        write_text(path, json.dumps({**settings, "videos": {**noted, **videos}}, indent=1) + "\n")
    except OSError as error:
        raise InputError(f"{root}: cannot be written to ({error.strerror}); choose another folder") from error


def _some(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 120 else text[:117] + "..."


def plain_arguments(model: Any) -> dict[str, Any]:
    """A model's attributes as JSON values."""
    fields = {field.name: getattr(model, field.name) for field in dataclasses.fields(model)}
    own = {name: value for name, value in fields.items() if name not in ("parent", "name")}
    return {
        name: value if value is None or isinstance(value, (bool, int, float, str)) else np.dtype(value).name
        for name, value in own.items()
    }
