"""What can be segmented: video files, folders of frames, cameras; one description for all of them."""

import dataclasses
import hashlib
import os
import re
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from hmhi_jax.data.natural_order import natural_order
from hmhi_jax.errors import InputError

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
# What is picked from a folder; a file named by the user may have any suffix.
VIDEO_SUFFIXES = (
    ".mp4",
    ".m4v",
    ".mov",
    ".mkv",
    ".webm",
    ".avi",
    ".mpg",
    ".mpeg",
    ".ts",
    ".m2ts",
    ".mts",
    ".wmv",
    ".flv",
)

SMALLEST_SIDE = 16  # pixels; optical flow needs a few patches
LARGEST_SIDE = 16_384
MOST_PIXELS = 2**26  # twice 8K video


@dataclasses.dataclass(frozen=True)
class Frame:
    """One picture of a video: its number from 0, the name its results get, and 8-bit RGB."""

    index: int
    name: str
    picture: UInt8[np.ndarray, "H W 3"]


class Video(ABC):
    """A video that can be read from its first frame as often as wanted (a live one: once).

    name          what its folder of results is called; may hold '/'
    path          what the user gave, for messages
    size          (height, width) of every frame, in pixels, as it is meant to be seen
    frame_rate    frames per second
    sample_aspect_ratio   width over height of a pixel as it is meant to be shown
    frame_count   how many frames to expect, None if nobody knows (a camera)
    live          whether frames come at their own pace and cannot be read again
    notes         what the user should know about the reading so far, one sentence each (a file that is cut off)
    """

    name: str
    path: str
    size: tuple[int, int]
    frame_rate: Fraction
    sample_aspect_ratio: Fraction = Fraction(1)
    frame_count: int | None
    live: bool = False
    notes: list[str]

    @abstractmethod
    def frames(self, start: int = 0) -> Iterator[Frame]:
        """Read frames from number `start` on, one at a time. Raises `InputError` for what cannot be used."""

    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """What tells this video from another at the same path, as JSON; costs no decoding."""

    def frame_names(self) -> Sequence[str] | None:
        """Names of all frames, where they are known before reading."""
        return None


def open_videos(inputs: Sequence[str | Path], *, frame_rate: Fraction | None = None) -> list[Video]:
    """Everything the user named, in order, each with a `name` of its own.

    An input is a video file, a folder of frames, a folder of videos or of folders of frames (searched all the way
    down), a camera (its number, or a device such as /dev/video0) or a URL. Pictures named one by one are the frames of
    one video per folder. `frame_rate` is for folders of frames, which have none of their own (default 24).

    Raises `InputError` if anything is missing or is no video.
    """
    from hmhi_jax.data.frame_folders import FrameFolder

    opened: list[tuple[Video, tuple[str, ...]]] = []  # with the parts of the path below what was given, as name
    pictures: dict[Path, list[Path]] = {}
    seen: set[Path] = set()
    for given in inputs:
        text = str(given)
        if not text:
            raise InputError("input '': is empty, expected a video file, a folder of frames, or a camera")
        path = Path(text).expanduser()
        try:
            device = stat.S_ISCHR(path.stat().st_mode)
        except FileNotFoundError:
            opened.append(_open_camera(text))
            continue
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from error
        resolved = path.resolve()
        if resolved in seen:
            continue
        seen.add(resolved)
        if device:
            opened.append(_open_camera(str(path), path.name))
        elif path.is_dir():
            opened += _open_folder(path, frame_rate)
        elif path.suffix.lower() in PICTURE_SUFFIXES:
            pictures.setdefault(path.parent, []).append(path)
        else:
            opened.append(_open_file(path))
    for folder, paths in pictures.items():
        opened.append((FrameFolder(folder, frame_rate, paths), (folder.resolve().name,)))
    if not opened:
        raise InputError("no input given, expected a video file, a folder of frames, or a camera")
    for (video, _), name in zip(
        opened, _unique([parts for _, parts in opened], [v.path for v, _ in opened]), strict=True
    ):
        video.name = name
    return [video for video, _ in opened]


def check_size(size: tuple[int, int], what: str) -> None:
    """Refuse pictures that are too small for optical flow or too large for memory; `what` names the picture."""
    height, width = size
    if min(size) < SMALLEST_SIDE:
        raise InputError(
            f"{what} is {width} x {height} pixels, expected at least {SMALLEST_SIDE} x {SMALLEST_SIDE}; "
            "motion cannot be seen in less"
        )
    if max(size) > LARGEST_SIDE or height * width > MOST_PIXELS:
        raise InputError(
            f"{what} is {width} x {height} pixels, expected at most {LARGEST_SIDE} a side and "
            f"{MOST_PIXELS // 2**20} megapixels; scale it down first"
        )


def files_fingerprint(files: Iterable[Path]) -> str:
    """A hash of names, sizes and times of change; costs no reading."""
    digest = hashlib.sha256()
    for path in files:
        status = path.stat()
        digest.update(f"{path.name}/{status.st_size}/{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _visible(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    files = (p for p in folder.iterdir() if p.suffix.lower() in suffixes and not p.name.startswith(".") and p.is_file())
    return sorted(files, key=natural_order)


def _open_file(path: Path) -> tuple[Video, tuple[str, ...]]:
    from hmhi_jax.data.video_files import VideoFile

    return VideoFile(path), (path.stem,)


def _open_camera(text: str, device: str = "") -> tuple[Video, tuple[str, ...]]:
    """A camera's number, a URL, or the path of a device of the name `device`."""
    from hmhi_jax.data.video_files import Camera

    if not (device or text.isdigit() or "://" in text):
        raise InputError(f"{text}: no such file or folder")
    if not device:
        number, url = f"camera{text}", text.partition("://")[2]
        device = number if text.isdigit() else re.sub(r"[^\w.-]+", "-", url).strip("-.") or "stream"
    return Camera(text), (device,)


def _open_folder(folder: Path, frame_rate: Fraction | None) -> list[tuple[Video, tuple[str, ...]]]:
    """The videos in a folder: the folder itself if it holds frames, else all videos and frame folders below it."""
    from hmhi_jax.data.frame_folders import FrameFolder

    found: list[tuple[Video, tuple[str, ...]]] = []

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename}: the folder cannot be read ({error.strerror})") from error

    for place, subfolders, _ in os.walk(folder, onerror=refuse):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        here = Path(place)
        pictures, films = _visible(here, PICTURE_SUFFIXES), _visible(here, VIDEO_SUFFIXES)
        if pictures and films:
            raise InputError(
                f"{here}: holds {len(pictures)} pictures and {len(films)} video files, expected one kind; "
                "name the video files, or move one kind away"
            )
        parts = here.relative_to(folder).parts
        if pictures:
            found.append((FrameFolder(here, frame_rate, pictures), parts or (folder.resolve().name,)))
        found += [(video, (*parts, *name)) for video, name in map(_open_file, films)]
    if not found:
        raise InputError(f"{folder}: the folder holds no frames ({', '.join(PICTURE_SUFFIXES[:3])}, ...) and no videos")
    return found


def _unique(names: Sequence[tuple[str, ...]], paths: Sequence[str]) -> list[str]:
    """Names of result folders: as given, or with suffix, or with as many parents as it takes to tell them apart."""
    chosen = ["/".join(parts) for parts in names]
    for depth in range(1, 50):
        alike = {name for name in chosen if chosen.count(name) > 1}
        if not alike:
            return chosen
        chosen = [
            "-".join(Path(path).resolve().parts[-depth:]).strip("/") if name in alike else name
            for name, path in zip(chosen, paths, strict=True)
        ]
    raise InputError(f"inputs {', '.join(paths)}: their results would share a folder; segment them one by one")
