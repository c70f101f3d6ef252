"""The layouts of public data sets, one rule each (`Layout`); docs/data.md has them as a table.

Rules are tried in order: a folder takes the first that recognises it. Folder names are those of the data sets' own
downloads, and of the copies that unsupervised segmentation papers hand around (`JPEGImages`, `JPEGFlows`).
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hmhi_jax.complete_files import readable
from hmhi_jax.data.pictures import is_picture, natural_key, natural_order

# Beside the folder of frames; the first is the one `hmhi flow` makes.
_FLOWS = ("Flows", "JPEGFlows", "OpticalFlow", "Flow", "flows", "flow")
_CLASSES = ("aeroplane", "bird", "boat", "car", "cat", "cow", "dog", "horse", "motorbike", "train")
_QUALITIES = ("480p", "1080p", "Full-Resolution")


@dataclass(frozen=True)
class Place:
    """Where a layout keeps one video. Folders need not exist; the first of `flows` that does is read, or written to."""

    name: str
    frames: Path
    masks: Path | None
    flows: tuple[Path, ...]
    label: str | None = None


@dataclass(frozen=True)
class Layout:
    """A way to arrange folders: `recognise(root)`, its `splits(root)`, and the `places(root, split)` of the videos."""

    name: str
    tree: str
    recognise: Callable[[Path], bool]
    splits: Callable[[Path], Sequence[str]]
    places: Callable[[Path, str], Iterable[Place]]


def visible(folder: Path) -> list[Path]:
    """What is in a folder, in any order, hidden files left out; nothing when it is missing."""
    with readable(folder):
        paths = list(folder.iterdir()) if folder.is_dir() else []
    return [path for path in paths if not path.name.startswith((".", "__MACOSX"))]


def folders(folder: Path) -> list[Path]:
    """The folders in a folder, in natural order."""
    return sorted((path for path in visible(folder) if path.is_dir()), key=lambda path: natural_key(path.name))


def _has_frames(folder: Path) -> bool:
    return any(is_picture(path) for path in visible(folder))


def _beside(folder: Path, *parts: str) -> tuple[Path, ...]:
    return tuple(folder.joinpath(flow, *parts) for flow in _FLOWS)


# --- The release: what its code reads, and what its README shows -----------------------------------------------------


def _split_trees(frames: str, masks: str, flows: str):
    """`<frames>/<split>/<video>`, and the same below `<masks>` and `<flows>`."""

    def places(root: Path, split: str) -> Iterable[Place]:
        videos = folders(root / frames / split)
        # YouTube-Objects in this layout carries its classes in the names of its videos.
        labels = [re.match(rf"({'|'.join(_CLASSES)})(?![a-z])", video.name) for video in videos]
        for video, label in zip(videos, labels, strict=True):
            flow = root / flows / split / video.name
            yield Place(
                video.name, video, root / masks / split / video.name, (flow,), label[1] if all(labels) else None
            )

    return {
        "recognise": lambda root: bool(folders(root / frames)) and (root / masks).is_dir(),
        "splits": lambda root: [path.name for path in folders(root / frames)],
        "places": places,
    }


# --- DAVIS -----------------------------------------------------------------------------------------------------------


def _davis(year: str):
    def lists(root: Path) -> dict[str, Path]:
        names = (year, "480p", "1080p") if year == "2016" else (year,)
        return {
            path.stem: path
            for name in reversed(names)
            for path in sorted(visible(root / "ImageSets" / name), key=natural_order)
            if path.suffix == ".txt"
        }

    def quality(root: Path) -> str | None:
        return next((name for name in _QUALITIES if (root / "JPEGImages" / name).is_dir()), None)

    def recognise(root: Path) -> bool:
        return quality(root) is not None and (_lists_2016(root) if year == "2016" else bool(lists(root)))

    def places(root: Path, split: str) -> Iterable[Place]:
        size = quality(root) or _QUALITIES[0]
        frames, masks = root / "JPEGImages" / size, root / "Annotations" / size
        if not masks.is_dir() and (root / "Annotations_unsupervised" / size).is_dir():
            masks = root / "Annotations_unsupervised" / size
        if split == "all":
            names = [path.name for path in folders(frames)]
        else:
            # A line is a sequence's name (2017), or "/JPEGImages/480p/bear/00000.jpg /Annotations/..." (2016).
            with readable(lists(root)[split]):  # names of folders may be in any encoding
                text = lists(root)[split].read_text("utf-8-sig", errors="surrogateescape")
            lines = [line.split()[0] for line in text.splitlines() if line.strip()]
            names = list(dict.fromkeys(Path(line).parent.name if "/" in line else line for line in lines))
        for name in names:
            yield Place(name, frames / name, masks / name, _beside(root, size, name))

    return {"recognise": recognise, "splits": lambda root: list(lists(root)) or ["all"], "places": places}


def _lists_2016(root: Path) -> bool:
    """Whether a DAVIS tree has the lists of DAVIS-2016, or no lists at all."""
    return any((root / "ImageSets" / name).is_dir() for name in ("2016", "480p")) or not folders(root / "ImageSets")


# --- JPEGImages and Annotations: YouTube-VOS and prepared copies of FBMS, YouTube-Objects and others ------------------


def _image_trees(root: Path) -> dict[str, Path]:
    """The folders that have `JPEGImages`, by split: the root itself is the split "all"."""
    if (root / "JPEGImages").is_dir():
        return {"all": root}
    return {path.name: path for path in folders(root) if (path / "JPEGImages").is_dir()}


def _image_tree_places(root: Path, split: str) -> Iterable[Place]:
    tree = _image_trees(root)[split]
    masks = tree / "Annotations"
    if not masks.is_dir() and split.endswith("_all_frames"):  # of YouTube-VOS, of which train/ annotates a fifth
        masks = root / split.removesuffix("_all_frames") / "Annotations"
    for video in folders(tree / "JPEGImages"):
        if _has_frames(video) or not folders(video):
            yield Place(video.name, video, masks / video.name, _beside(tree, video.name))
        else:  # JPEGImages/<class>/<video>
            for shot in folders(video):
                parts = (video.name, shot.name)
                yield Place("_".join(parts), shot, masks.joinpath(*parts), _beside(tree, *parts), video.name)


# --- Folders inside each video's folder ------------------------------------------------------------------------------


def _video_folders(root: Path, *inner: str) -> dict[str, list[Path]]:
    """Videos that have the folders `inner`, by split: below the root (split "all"), or one folder further down."""

    def those(parent: Path) -> list[Path]:
        return [path for path in folders(parent) if all((path / name).is_dir() for name in inner)]

    if videos := those(root):
        return {"all": videos}
    return {path.name: videos for path in folders(root) if (videos := those(path))}


def _saliency_places(root: Path, split: str) -> Iterable[Place]:
    for video in _video_folders(root, "Imgs")[split]:
        yield Place(video.name, video / "Imgs", video / "GT_object_level", _beside(video))


def _visal_splits(root: Path) -> Sequence[str]:
    return ["all"] if folders(root / "Imgs") else list(_video_folders(root, "Imgs"))


def _visal_places(root: Path, split: str) -> Iterable[Place]:
    if not folders(root / "Imgs"):
        yield from _saliency_places(root, split)
    for video in folders(root / "Imgs"):
        yield Place(video.name, video, root / "GT_object_level" / video.name, _beside(root, video.name))


def _fbms_splits(root: Path) -> Sequence[str]:
    return list(_video_folders(root, "GroundTruth"))


def _fbms_places(root: Path, split: str) -> Iterable[Place]:
    for video in _video_folders(root, "GroundTruth")[split]:
        yield Place(video.name, video, video / "GroundTruth", _beside(video))


def _object_shots(root: Path) -> list[tuple[str, str, Path]]:
    """Class, name and folder of every shot of YouTube-Objects: `<class>/data/<video>/shots/<shot>`."""
    videos = ((kind.name, video) for kind in folders(root) for video in folders(kind / "data"))
    shots = ((kind, video.name, shot) for kind, video in videos for shot in folders(video / "shots"))
    return [(kind, f"{kind}_{video}_{shot.name}", shot) for kind, video, shot in shots]


def _object_classes(root: Path) -> list[tuple[str, str, Path]]:
    """The same of the copy arranged as `<class>/<video>/JPEGImages`."""
    videos = ((kind.name, video) for kind in folders(root) for video in folders(kind))
    return [(kind, f"{kind}_{video.name}", video) for kind, video in videos if (video / "JPEGImages").is_dir()]


def _objects_places(root: Path, split: str) -> Iterable[Place]:
    for label, name, shot in _object_shots(root):
        frames = shot / "images" if (shot / "images").is_dir() else shot
        yield Place(name, frames, shot / "labels", _beside(shot), label)
    for label, name, video in _object_classes(root):
        yield Place(name, video / "JPEGImages", video / "Annotations", _beside(video), label)


LAYOUTS: tuple[Layout, ...] = (
    Layout("release", "frame/<split>/<video>, mask/..., flow/...", **_split_trees("frame", "mask", "flow")),
    Layout(
        "release-readme",
        "Images/<split>/<video>, Annotations/..., Flows/...",
        **_split_trees("Images", "Annotations", "Flows"),
    ),
    Layout(
        "davis-2016", "JPEGImages/480p/<video>, Annotations/480p/<video>, ImageSets/2016 or /480p", **_davis("2016")
    ),
    Layout("davis-2017", "JPEGImages/480p/<video>, Annotations/480p/<video>, ImageSets/2017", **_davis("2017")),
    Layout(
        "youtube-vos",
        "<split>/JPEGImages/<video>, <split>/Annotations/<video>",
        recognise=lambda root: bool(_image_trees(root)) and not (root / "JPEGImages").is_dir(),
        splits=lambda root: list(_image_trees(root)),
        places=_image_tree_places,
    ),
    Layout(
        "jpegimages",
        "JPEGImages/<video> or /<class>/<video>, Annotations/...",
        recognise=lambda root: bool(folders(root / "JPEGImages")),
        splits=lambda root: list(_image_trees(root)),
        places=_image_tree_places,
    ),
    Layout(
        "davsod",
        "<set>/<video>/Imgs, <set>/<video>/GT_object_level",
        recognise=lambda root: any(name != "all" for name in _video_folders(root, "Imgs")),
        splits=lambda root: list(_video_folders(root, "Imgs")),
        places=_saliency_places,
    ),
    Layout(
        "visal",
        "<video>/Imgs, <video>/GT_object_level; or Imgs/<video>, GT_object_level/<video>",
        recognise=lambda root: bool(_visal_splits(root)),
        splits=_visal_splits,
        places=_visal_places,
    ),
    Layout(
        "youtube-objects",
        "<class>/data/<video>/shots/<shot>/images, .../labels; or <class>/<video>/JPEGImages, .../Annotations",
        recognise=lambda root: bool(_object_shots(root) or _object_classes(root)),
        splits=lambda root: ["all"],
        places=_objects_places,
    ),
    Layout(
        "fbms",
        "<set>/<video>/*.jpg, <set>/<video>/GroundTruth",
        recognise=lambda root: bool(_fbms_splits(root)),
        splits=_fbms_splits,
        places=_fbms_places,
    ),
)
