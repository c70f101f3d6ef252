"""The layouts of public data sets, one rule each (`Layout`); docs/data.md has them as a table.

Rules are tried in order: a folder takes the first that recognises it. Folder names are those of the data sets' own
downloads, and of the copies that unsupervised segmentation papers hand around (`JPEGImages`, `JPEGFlows`).
"""

import re
from collections.abc import Callable, Iterable
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
    masks: Path
    flows: tuple[Path, ...]
    label: str | None = None


@dataclass(frozen=True)
class Layout:
    """A way to arrange folders: `videos(root)` has the places of the videos, by split. Where it finds any, and what the
    layout is `told_by` holds, a root is of this layout."""

    name: str
    tree: str
    videos: Callable[[Path], dict[str, Iterable[Place]]]
    told_by: Callable[[Path], bool] = lambda root: True


def visible(folder: Path) -> list[Path]:
    """What is in a folder, in any order, hidden files left out; nothing when it is missing."""
    with readable(folder):
        paths = list(folder.iterdir()) if folder.is_dir() else []
    return [path for path in paths if not path.name.startswith((".", "__MACOSX"))]


def folders(folder: Path) -> list[Path]:
    """The folders in a folder, in natural order."""
    return sorted((path for path in visible(folder) if path.is_dir()), key=lambda path: natural_key(path.name))


def _beside(folder: Path, *parts: str) -> tuple[Path, ...]:
    return tuple(folder.joinpath(flow, *parts) for flow in _FLOWS)


# --- The release: what its code reads, and what its README shows -----------------------------------------------------


def _split_trees(frames: str, masks: str, flows: str):
    """`<frames>/<split>/<video>`, and the same below `<masks>` and `<flows>`."""

    def places(split: str, root: Path) -> Iterable[Place]:
        videos = folders(root / frames / split)
        # YouTube-Objects in this layout carries its classes in the names of its videos.
        labels = [re.match(rf"({'|'.join(_CLASSES)})(?![a-z])", video.name) for video in videos]
        for video, label in zip(videos, labels, strict=True):
            mask, flow = (root / kind / split / video.name for kind in (masks, flows))
            yield Place(video.name, video, mask, (flow,), label[1] if all(labels) else None)

    return {
        "videos": lambda root: {path.name: places(path.name, root) for path in folders(root / frames)},
        "told_by": lambda root: (root / masks).is_dir(),
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

    def told_by(root: Path) -> bool:
        # DAVIS-2016 is what has its lists, or no lists at all.
        of_2016 = any((root / "ImageSets" / name).is_dir() for name in ("2016", "480p"))
        listed = of_2016 or not folders(root / "ImageSets") if year == "2016" else bool(lists(root))
        return quality(root) is not None and listed

    def places(root: Path, listed: Path | None) -> Iterable[Place]:
        size = quality(root) or _QUALITIES[0]
        frames, masks = root / "JPEGImages" / size, root / "Annotations" / size
        if not masks.is_dir() and (root / "Annotations_unsupervised" / size).is_dir():
            masks = root / "Annotations_unsupervised" / size
        if listed is None:
            names = [path.name for path in folders(frames)]
        else:
            # A line is a sequence's name (2017), or "/JPEGImages/480p/bear/00000.jpg /Annotations/..." (2016).
            with readable(listed):  # names of folders may be in any encoding
                text = listed.read_text("utf-8-sig", errors="surrogateescape")
            lines = [line.split()[0] for line in text.splitlines() if line.strip()]
            names = list(dict.fromkeys(Path(line).parent.name if "/" in line else line for line in lines))
        for name in names:
            yield Place(name, frames / name, masks / name, _beside(root, size, name))

    def videos(root: Path) -> dict[str, Iterable[Place]]:
        return {split: places(root, listed) for split, listed in (lists(root) or {"all": None}).items()}

    return {"videos": videos, "told_by": told_by}


# --- JPEGImages and Annotations: YouTube-VOS and prepared copies of FBMS, YouTube-Objects and others ------------------


def _image_trees(root: Path) -> dict[str, Iterable[Place]]:
    """Of the root (split "all") or of the folders in it, which have `JPEGImages`."""
    trees = {"all": root} if (root / "JPEGImages").is_dir() else {path.name: path for path in folders(root)}
    return {split: _image_tree(tree, split) for split, tree in trees.items() if (tree / "JPEGImages").is_dir()}


def _image_tree(tree: Path, split: str) -> Iterable[Place]:
    masks = tree / "Annotations"
    if not masks.is_dir() and split.endswith("_all_frames"):  # of YouTube-VOS, of which train/ annotates a fifth
        masks = tree.with_name(split.removesuffix("_all_frames")) / "Annotations"
    for video in folders(tree / "JPEGImages"):
        if any(map(is_picture, visible(video))) or not folders(video):
            yield Place(video.name, video, masks / video.name, _beside(tree, video.name))
        else:  # JPEGImages/<class>/<video>
            for shot in folders(video):
                parts = (video.name, shot.name)
                yield Place("_".join(parts), shot, masks.joinpath(*parts), _beside(tree, *parts), video.name)


# --- Folders inside each video's folder ------------------------------------------------------------------------------


def _video_folders(root: Path, inner: str) -> dict[str, list[Path]]:
    """Videos that have a folder `inner`, by split: below the root (split "all"), or one folder further down."""

    def those(parent: Path) -> list[Path]:
        return [path for path in folders(parent) if (path / inner).is_dir()]

    if videos := those(root):
        return {"all": videos}
    return {path.name: videos for path in folders(root) if (videos := those(path))}


def _saliency(root: Path) -> dict[str, Iterable[Place]]:
    return {
        split: [Place(video.name, video / "Imgs", video / "GT_object_level", _beside(video)) for video in videos]
        for split, videos in _video_folders(root, "Imgs").items()
    }


def _visal(root: Path) -> dict[str, Iterable[Place]]:
    masks = root / "GT_object_level"
    videos = folders(root / "Imgs")
    places = [Place(video.name, video, masks / video.name, _beside(root, video.name)) for video in videos]
    return {"all": places} if places else _saliency(root)


def _fbms(root: Path) -> dict[str, Iterable[Place]]:
    return {
        split: [Place(video.name, video, video / "GroundTruth", _beside(video)) for video in videos]
        for split, videos in _video_folders(root, "GroundTruth").items()
    }


def _youtube_objects(root: Path) -> dict[str, Iterable[Place]]:
    places = []
    for kind in folders(root):
        for video in folders(kind / "data"):
            for shot in folders(video / "shots"):
                frames = shot / "images" if (shot / "images").is_dir() else shot
                name = f"{kind.name}_{video.name}_{shot.name}"
                places.append(Place(name, frames, shot / "labels", _beside(shot), kind.name))
        for video in folders(kind):
            if (video / "JPEGImages").is_dir():
                name, masks = f"{kind.name}_{video.name}", video / "Annotations"
                places.append(Place(name, video / "JPEGImages", masks, _beside(video), kind.name))
    return {"all": places} if places else {}


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
        _image_trees,
        lambda root: not (root / "JPEGImages").is_dir(),
    ),
    Layout(
        "jpegimages",
        "JPEGImages/<video> or /<class>/<video>, Annotations/...",
        _image_trees,
        lambda root: bool(folders(root / "JPEGImages")),
    ),
    Layout(
        "davsod",
        "<set>/<video>/Imgs, <set>/<video>/GT_object_level",
        _saliency,
        lambda root: _saliency(root).keys() != {"all"},
    ),
    Layout("visal", "<video>/Imgs, <video>/GT_object_level; or Imgs/<video>, GT_object_level/<video>", _visal),
    Layout(
        "youtube-objects",
        "<class>/data/<video>/shots/<shot>/images, .../labels; or <class>/<video>/JPEGImages, .../Annotations",
        _youtube_objects,
    ),
    Layout("fbms", "<set>/<video>/*.jpg, <set>/<video>/GroundTruth", _fbms),
)


def recognise(root: Path) -> tuple[Layout | None, dict[str, Iterable[Place]]]:
    """The layout of a folder, and the places of its videos by split; None and nothing where it is of none."""
    for layout in LAYOUTS:
        if layout.told_by(root) and (videos := layout.videos(root)):
            return layout, videos
    return None, {}
