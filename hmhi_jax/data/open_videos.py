"""What can be segmented: finds the video files, folders of frames and cameras that the user named, and opens them."""

import os
import re
import stat
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from hmhi_jax.data.frame_folders import FrameFolder
from hmhi_jax.data.natural_order import natural_order
from hmhi_jax.data.pictures import PICTURE_SUFFIXES, is_picture
from hmhi_jax.data.video import Video
from hmhi_jax.data.video_files import Camera, VideoFile
from hmhi_jax.errors import InputError

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


def open_videos(inputs: Sequence[str | Path], *, frame_rate: Fraction | None = None) -> list[Video]:
    """Everything the user named, in order, each with a `name` of its own.

    An input is a video file, a folder of frames, a folder of videos or of folders of frames (searched all the way
    down), a camera (its number, or a device such as /dev/video0) or a URL. Pictures named one by one are the frames of
    one video per folder. `frame_rate` is for folders of frames, which have none of their own (default 24).

    Raises `InputError` if anything is missing or is no video.
    """
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
        elif is_picture(path):
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


def _visible(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    files = (p for p in folder.iterdir() if p.suffix.lower() in suffixes and not p.name.startswith(".") and p.is_file())
    return sorted(files, key=natural_order)


def _open_file(path: Path) -> tuple[Video, tuple[str, ...]]:
    return VideoFile(path), (path.stem,)


def _open_camera(text: str, device: str = "") -> tuple[Video, tuple[str, ...]]:
    """A camera's number, a URL, or the path of a device of the name `device`."""
    if not (device or text.isdigit() or "://" in text):
        raise InputError(f"{text}: no such file or folder")
    if not device:
        number, url = f"camera{text}", text.partition("://")[2]
        device = number if text.isdigit() else re.sub(r"[^\w.-]+", "-", url).strip("-.") or "stream"
    return Camera(text), (device,)


def _open_folder(folder: Path, frame_rate: Fraction | None) -> list[tuple[Video, tuple[str, ...]]]:
    """The videos in a folder: the folder itself if it holds frames, else all videos and frame folders below it."""
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
