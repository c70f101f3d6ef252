"""Photographs used as textures: from permissively licensed packages, if installed, and from folders a user names.

Packages of the extra `synthetic` and what is taken from them:

| picture | package | terms, as the package states them |
|---|---|---|
| brick, grass, gravel, camera, chelsea, coffee, retina | scikit-image | CC0 |
| astronaut, hubble_deep_field (NASA), rocket (SpaceX) | scikit-image | public domain |
| coins (Brooklyn Museum), ihc | scikit-image | no known copyright restrictions |
| moon | scikit-image | not stated for the picture; the package is under the BSD licence |
| china, flower (Flickr: danielbuechele, vultilion) | scikit-learn | CC BY 2.0 |
| grace_hopper (portrait by the U.S. Navy) | Matplotlib | not stated; a work of the U.S. government (public domain) |

Without them everything still works: textures are then all procedural.
"""

import functools
import hashlib
import importlib.util
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from hmhi_jax.errors import InputError

_PACKAGED = {
    "skimage": (
        "data",
        [
            "astronaut.png",
            "brick.png",
            "camera.png",
            "chelsea.png",
            "coffee.png",
            "coins.png",
            "grass.png",
            "gravel.png",
            "hubble_deep_field.jpg",
            "ihc.png",
            "moon.png",
            "retina.jpg",
            "rocket.jpg",
        ],
    ),
    "sklearn": ("datasets/images", ["china.jpg", "flower.jpg"]),
    "matplotlib": ("mpl-data/sample_data", ["grace_hopper.jpg"]),
}
_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
_LONGEST = 1024  # pixels: more than any scene at clip size can show, and a bound on memory


def find_pictures(folders: tuple[str, ...] = ()) -> list[Path]:
    """Files of the packaged pictures that are installed, then every picture below `folders`, in a fixed order."""
    found = []
    for package, (inside, names) in _PACKAGED.items():
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            continue
        root = Path(spec.submodule_search_locations[0]) / inside
        found += [root / name for name in names if (root / name).is_file()]
    for folder in folders:
        inside = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in _SUFFIXES)
        if not inside:
            raise InputError(f"{folder}: holds no pictures, expected {', '.join(sorted(_SUFFIXES))} files")
        found += inside
    return found


@functools.lru_cache(maxsize=128)
def load_picture(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """Decode to RGB, at most 1024 pixels on the longer side. Kept in memory, once per process."""
    try:
        with Image.open(path) as picture:
            picture.draft("RGB", (_LONGEST, _LONGEST))
            picture = picture.convert("RGB")
    except OSError as error:
        raise InputError(f"{path}: is no picture Pillow can read ({error})") from error
    picture.thumbnail((_LONGEST, _LONGEST), Image.Resampling.LANCZOS)
    return np.asarray(picture)


def fingerprint(paths: list[Path]) -> str:
    """A short digest of which pictures are in use: clips of the same seed differ when it differs."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.name}:{path.stat().st_size}\n".encode())
    return digest.hexdigest()[:16]
