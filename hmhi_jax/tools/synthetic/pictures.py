"""Photographs and cut-outs to make clips of, from freely licensed packages and from folders a user names.

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

Cut-outs (objects with opacity) and backdrops come from Debian's packages openclipart-png, tuxpaint-stamps-default and
lomiri-wallpapers-16.04, where these are installed: the files of `free_pictures.csv`, each with its author and terms.
The table holds what is in the public domain or under CC0 or CC BY, and nothing else of these packages: their other
files are under the GPL or share-alike licences. Of openclipart, pictures whose file names no licence were left out.

A folder that a user names may hold
- pictures: those with opacity are cut-outs; all others serve as textures and as backdrops;
- or an unpacked Debian package (`dpkg -x FILE.deb FOLDER`), recognised by its `usr/share`: then its files of the table.
"""

import contextlib
import csv
import functools
import hashlib
import importlib.resources
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from hmhi_jax.errors import InputError

_OF_SKIMAGE = (
    "astronaut.png brick.png camera.png chelsea.png coffee.png coins.png grass.png gravel.png hubble_deep_field.jpg "
    "ihc.png moon.png retina.jpg rocket.jpg"
)
_PACKAGED = {
    "skimage": ("data", _OF_SKIMAGE.split()),
    "sklearn": ("datasets/images", ["china.jpg", "flower.jpg"]),
    "matplotlib": ("mpl-data/sample_data", ["grace_hopper.jpg"]),
}
_PLACES = {"china.jpg", "coffee.png", "flower.jpg"}  # of those: what can be a whole backdrop
_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
_INSIDE = Path("usr", "share")
_INSTALLED = Path("/", _INSIDE)
_LONGEST = 1024  # pixels: more than any scene at clip size can show, and a bound on memory
_LARGEST_CUT_OUT = 420


def find_pictures(folders: tuple[str, ...] = ()) -> list[Path]:
    """Pictures for textures: the packaged ones that are installed, then all without opacity below `folders`, in a
    fixed order. Raises `InputError` for a folder without any picture."""
    found = []
    for package, (inside, names) in _PACKAGED.items():
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            continue
        root = Path(spec.submodule_search_locations[0]) / inside
        found += [root / name for name in names if (root / name).is_file()]
    return found + _of_folders(folders, opacity=False)


def find_cut_outs(folders: tuple[str, ...] = ()) -> list[Path]:
    """Pictures of objects, with opacity: those of `free_pictures.csv` that are there, then all below `folders`."""
    return _listed("cut-out", folders) + _of_folders(folders, opacity=True)


def find_backdrops(folders: tuple[str, ...] = ()) -> list[Path]:
    """Photographs of places: packaged ones and those of `free_pictures.csv` that are there, then all without opacity
    below `folders`."""
    packaged = [path for path in find_pictures() if path.name in _PLACES]
    return packaged + _listed("backdrop", folders) + _of_folders(folders, opacity=False)


def _listed(kind: str, folders: tuple[str, ...]) -> list[Path]:
    roots = [_INSTALLED, *(Path(folder) / _INSIDE for folder in folders)]
    return [
        path for root in roots for row in _table() if row["kind"] == kind and (path := root / row["file"]).is_file()
    ]


@functools.cache
def _table() -> tuple[dict[str, str], ...]:
    """The rows of `free_pictures.csv`: package, file (below usr/share), kind, author, terms."""
    text = importlib.resources.files(__package__).joinpath("free_pictures.csv").read_text("utf-8")
    return tuple(csv.DictReader(text.splitlines()))


def _of_folders(folders: tuple[str, ...], opacity: bool) -> list[Path]:
    found = []
    for folder in folders:
        if (Path(folder) / _INSIDE).is_dir():
            continue
        inside = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in _SUFFIXES)
        if not inside:
            raise InputError(f"{folder}: holds no pictures, expected {', '.join(sorted(_SUFFIXES))} files")
        found += [path for path in inside if _has_opacity(path) == opacity]
    return found


@functools.cache
def _has_opacity(path: Path) -> bool:
    try:
        with Image.open(path) as picture:
            return "A" in picture.mode or "transparency" in picture.info
    except OSError:  # `load_picture` says what is wrong with it, should it be drawn
        return False


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as picture:
            yield picture
    except OSError as error:
        raise InputError(f"{path}: is no picture Pillow can read ({error})") from error


@functools.lru_cache(maxsize=128)
def load_picture(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """Decode to RGB, at most 1024 pixels on the longer side. Kept in memory, once per process."""
    with _opened(path) as picture:
        picture.draft("RGB", (_LONGEST, _LONGEST))
        picture = picture.convert("RGB")
    picture.thumbnail((_LONGEST, _LONGEST), Image.Resampling.LANCZOS)
    return np.asarray(picture)


@functools.lru_cache(maxsize=512)
def load_cut_out(path: Path) -> UInt8[np.ndarray, "h w 4"]:
    """Decode to RGB and opacity, cut to what is opaque, at most 420 pixels on the longer side. The colours go on beyond
    the edge, so that shrunk or turned edges do not darken. Kept in memory, once per process."""
    with _opened(path) as picture:
        picture = picture.convert("RGBA")
    box = picture.getchannel("A").point(lambda value: 255 * (value > 127)).getbbox()
    if box is None:
        raise InputError(f"{path}: is transparent everywhere, expected an object with opacity")
    picture = picture.crop(box)
    picture.thumbnail((_LARGEST_CUT_OUT, _LARGEST_CUT_OUT), Image.Resampling.LANCZOS)
    pixels = np.asarray(picture)
    share = pixels[..., 3:] / np.float32(255)
    weights, colours = (cv2.GaussianBlur(part, (0, 0), 4.0) for part in (share[..., 0], share * pixels[..., :3]))
    spread = colours / np.maximum(weights, 1e-4)[..., None]
    return np.dstack([np.clip(pixels[..., :3] * share + spread * (1 - share), 0, 255).astype(np.uint8), pixels[..., 3]])


def fingerprint(paths: list[Path]) -> str:
    """A short digest of which pictures are in use: clips of the same seed differ when it differs."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.name}:{path.stat().st_size}\n".encode())
    return digest.hexdigest()[:16]
