"""What can be segmented: finds the video files, folders of frames and cameras that the user named, and opens them."""

import dataclasses
import os
import stat
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

from hmhi_jax.complete_files import readable, refuse_special
from hmhi_jax.data.ffmpeg import is_url
from hmhi_jax.data.live_sources import Camera, RawPictures, RawStandardInput, StandardInput
from hmhi_jax.data.pictures import PICTURE_SUFFIXES, is_animated, is_picture, natural_order
from hmhi_jax.data.video import Video
from hmhi_jax.data.video_files import AnimatedPicture, FrameFolder, VideoFile
from hmhi_jax.errors import InputError, first_of

# What is picked from a folder; a file named by the user may have any suffix.
VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".3gp", ".3g2", ".mkv", ".webm", ".avi", ".wmv", ".asf", ".flv", ".f4v", ".ogv", ".ogg"),
    *(".mpg", ".mpeg", ".m2v", ".vob", ".ts", ".m2ts", ".mts", ".mxf", ".dv", ".y4m", ".gif", ".apng"),
)


@dataclasses.dataclass
class Found:
    """What there was to open.

    videos     each with a `name` of its own
    notes      files that were passed over, one sentence each
    failures   videos inside folders that cannot be used, one sentence each; the others can
    """

    videos: list[Video] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    failures: list[str] = dataclasses.field(default_factory=list)


def open_videos(inputs: Sequence[str | Path], *, frame_rate: Fraction | None = None) -> list[Video]:
    """The videos that `find_videos` finds. Raises `InputError` also for one inside a folder that cannot be used."""
    found = find_videos(inputs, frame_rate=frame_rate)
    if found.failures:
        raise InputError(found.failures[0])
    return found.videos


def find_videos(
    inputs: Sequence[str | Path],
    *,
    frame_rate: Fraction | None = None,
    raw: RawPictures | None = None,
    timeout: float | None = None,
) -> Found:
    """Everything the user named, in order, each with a `name` of its own.

    An input is a video file, an animated picture, a folder of frames, a folder of videos or of folders of frames
    (searched all the way down, links followed), a camera (its number, or a device such as /dev/video0), a pipe or a
    URL, or `-`, standard input. Pictures named one by one are the frames of one video per folder. `frame_rate` is for
    folders of frames, which have none of their own (default 24); `raw` for pictures without a header on standard input;
    `timeout` for cameras, pipes and URLs (see `Camera`).

    Raises `InputError` if anything that was named is missing or is no video, or if all that is in the folders fails.
    """
    found = Found()
    names: list[tuple[str, ...]] = []  # the parts of the path below what was given, whatever their encoding
    pictures: dict[Path, list[Path]] = {}
    seen: set[Path] = set()

    def add(video: Video, *parts: str) -> None:
        found.videos.append(video)
        names.append(tuple(os.fsencode(part).decode(errors="replace") for part in parts or (video.name,)))

    for given in inputs:
        text = str(given)
        if not text:
            raise InputError("input '': is empty, expected a video file, a folder of frames, or a camera")
        if text == "-":
            add(RawStandardInput(raw) if raw else StandardInput())
            continue
        path = _local(text)
        if path is None:
            add(Camera(text, timeout))
            continue
        resolved = path.resolve()
        if resolved in seen:
            continue
        seen.add(resolved)
        with readable(path):
            mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            _search(path, frame_rate, found, add)
        elif stat.S_ISCHR(mode) or stat.S_ISFIFO(mode):
            add(Camera(str(path), timeout))
        elif not stat.S_ISREG(mode):
            raise InputError(f"{path}: is neither a file nor a folder, expected a video, frames, a camera or a pipe")
        elif is_picture(path) and not is_animated(path):
            pictures.setdefault(path.parent, []).append(path)
        else:
            add(_opened(path, frame_rate))
    for folder, paths in pictures.items():
        add(FrameFolder(folder, frame_rate, paths))
    if not found.videos:
        nothing = "no input given, expected a video file, a folder of frames, or a camera"
        raise InputError("\n".join(found.failures) or nothing)
    for video, name in zip(found.videos, _unique(names, [video.path for video in found.videos]), strict=True):
        video.name = name
    return found


def _opened(path: Path, frame_rate: Fraction | None) -> Video:
    """A file that holds a video, whatever it is called. FFmpeg says nothing of a GIF that is cut off, and reads no
    animated WebP."""
    refuse_special(path)
    with readable(path), path.open("rb") as file:
        begin = file.read(12)
    animated = is_picture(path) or begin[:4] in (b"GIF8", b"\x89PNG") or begin[8:] == b"WEBP"
    return AnimatedPicture(path, frame_rate) if animated else VideoFile(path)


def _local(text: str) -> Path | None:
    """The file or folder of this name; None if there is none, but it may be a camera's number or a URL."""
    path = Path(text)
    if not os.path.lexists(path):
        if text.isdigit() or is_url(text):
            return None
        path = Path(os.path.expanduser(text))
    with readable(path):
        try:
            path.lstat()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise InputError(f"{path}: no such file or folder") from error
        _refuse_dangling(path)
    return path


def _refuse_dangling(path: Path) -> None:
    if path.is_symlink() and not path.exists():
        raise InputError(
            f"{path}: is a link to {os.readlink(path)}, which is not there; fetch or mount it, or remove the link"
        )


def _search(top: Path, frame_rate: Fraction | None, found: Found, add: Callable[..., None]) -> None:
    """Find the videos in a folder: the folder itself if it holds frames, and all videos and frame folders below.

    Raises `InputError` where there is nothing, or the folder cannot be read.
    """
    before = len(found.videos) + len(found.failures)
    passed_over: list[str] = []

    def attempt(opening: Callable[[], Video], files: Sequence[Path], *parts: str) -> None:
        """Open a video, or note why it cannot be."""
        try:
            for path in files:
                with readable(path):
                    _refuse_dangling(path)
            add(opening(), *parts)
        except InputError as error:
            found.failures.append(str(error))

    def look(folder: Path, above: tuple[str, ...]) -> None:
        """`above`: the folders on the way here as they really are; a link back to one of them is not followed."""
        with readable(folder):
            entries = sorted((path for path in folder.iterdir() if path.name[0] != "."), key=natural_order)
        folders, pictures, films = [], [], []
        for path in entries:
            if os.path.isdir(path):
                folders.append(path)
            elif is_picture(path):
                pictures.append(path)
            elif path.suffix.lower() in VIDEO_SUFFIXES:
                films.append(path)
            else:
                passed_over.append(str(path.relative_to(top)))
        parts = folder.relative_to(top).parts
        if pictures and films:
            found.failures.append(
                f"{folder}: holds {len(pictures)} pictures and {len(films)} video files, expected one kind; "
                "name the video files, or move one kind away"
            )
        elif pictures:
            name = parts or (top.resolve().name,)
            attempt(lambda: FrameFolder(folder, frame_rate, pictures), pictures, *name)
        else:
            for film in films:
                attempt(lambda film=film: _opened(film, frame_rate), [film], *parts, film.stem)
        here = (*above, os.path.realpath(folder))
        for inside in sorted(folders):
            if os.path.realpath(inside) not in here:
                try:
                    look(inside, here)
                except InputError as error:  # one that cannot be read does not stop the others
                    found.failures.append(str(error))

    look(top, ())
    some = first_of(passed_over, 5)
    if before == len(found.videos) + len(found.failures):
        holds = f"; it holds {some}" if some else ""
        raise InputError(
            f"{top}: the folder holds no frames ({', '.join(PICTURE_SUFFIXES[:3])}, ...) and no videos{holds}"
        )
    if some:
        count = f"{len(passed_over)} file{'s' * (len(passed_over) > 1)}"
        found.notes.append(f"{top}: {count} passed over, neither pictures nor videos by suffix: {some}")


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
