"""Which prediction belongs to which ground truth, and clear lines about everything that has no partner."""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hmhi_jax.errors import InputError
from hmhi_jax.evaluation.pictures import PICTURE_SUFFIXES

# Where data sets keep their masks, below the folder people name: DAVIS, then the release's layout.
_TRUTH_FOLDERS = ("Annotations/480p", "Annotations", "mask/val", "mask/test", "mask")
# Or inside each video's folder, beside its frames: FBMS.
_MASKS_INSIDE = frozenset({"groundtruth", "ground-truth", "ground_truth", "gt"})


@dataclass(frozen=True)
class Remark:
    """A line for the reader of the scores.

    `kind` is "gap" for an annotated frame that was not scored, "rule" for something scored by a rule worth knowing,
    "unused" for a prediction without ground truth. `frame` is None where the whole video (or the whole run, `video`
    empty) is meant.
    """

    kind: Literal["gap", "rule", "unused"]
    video: str
    frame: str | None
    text: str

    def __str__(self) -> str:
        where = "/".join(part for part in (self.video, self.frame) if part)
        return f"{where}: {self.text}" if where else self.text


@dataclass(frozen=True)
class FramePair:
    """An annotated frame: its name (of the truth's file, without suffix), its truth and, if any, its prediction."""

    frame: str
    truth: Path
    prediction: Path | None


@dataclass(frozen=True)
class VideoPair:
    """A video's annotated frames in order, and the names of predicted frames without annotation."""

    video: str
    frames: tuple[FramePair, ...]
    unannotated: tuple[str, ...] = ()


def natural_key(name: str) -> tuple[tuple[tuple[int, str], ...], str]:
    """Sort key under which `frame2` comes before `frame10`; equal to plain sorting for zero-padded names."""
    parts = re.split(r"(\d+)", name)
    return tuple((int(part), "") if i % 2 else (-1, part) for i, part in enumerate(parts)), name


def _videos_below(root: Path) -> dict[str, list[Path]]:
    """Every folder below `root` that holds pictures, by its relative path; `root` itself under its own name."""
    found = {}
    for place, subfolders, files in os.walk(root):  # Path.walk is new in Python 3.12
        folder = Path(place)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        pictures = {}
        for name in sorted(files, key=lambda name: name.lower().endswith(".png")):  # a PNG beats its JPEG namesake
            path = folder / name
            if path.suffix.lower() in PICTURE_SUFFIXES and not name.startswith("."):
                pictures[path.stem] = path
        if pictures or (not subfolders and folder != root):
            name = folder.relative_to(root).as_posix() if folder != root else root.resolve().name
            found[name] = [pictures[stem] for stem in sorted(pictures, key=natural_key)]
    return found


def _truths_below(root: Path) -> dict[str, list[Path]]:
    """Folders of masks by video; where masks lie in `<video>/GroundTruth` beside the frames, only those count."""
    found = _videos_below(root)
    inside = {name: name.rpartition("/")[0] for name in found if name.rpartition("/")[2].lower() in _MASKS_INSIDE}
    if inside and all(inside.values()):
        return {video: found[name] for name, video in inside.items()}
    return found


def truth_folder(gt_dir: Path) -> Path:
    """The folder of masks inside a data set's folder (`Annotations/480p`, `mask/val`, ...), else `gt_dir` itself."""
    return next((gt_dir / name for name in _TRUTH_FOLDERS if (gt_dir / name).is_dir()), gt_dir)


def pair_folders(
    pred_dir: Path, gt_dir: Path, videos: Sequence[str] | None = None
) -> tuple[list[VideoPair], list[Remark]]:
    """Find the partner of every annotated frame.

    A video is a folder with pictures, named by its path below the root. Videos are partners if their paths are equal,
    or, where that leaves one without, if their last folders are and no other folder has that name. Frames are
    partners by name, else by the last number in the name, else, where both folders have equally many, by order; the
    last two leave a remark.

    Args:
        pred_dir: folder of a method's predictions, `<video>/<frame>.png`.
        gt_dir: folder of masks, or a data set's folder (`truth_folder`).
        videos: the videos to score, where not all.

    Returns:
        The videos with ground truth, whether predicted or not, and remarks.

    Raises:
        InputError: a folder is missing, or nothing in them fits together.
    """
    for role, folder in (("predictions", pred_dir), ("ground truth", gt_dir)):
        if not folder.is_dir():
            raise InputError(f"{folder}: there is no such folder; give the folder that holds the {role} of all videos")
    gt_dir = truth_folder(gt_dir)
    truths, predictions = _truths_below(gt_dir), _videos_below(pred_dir)
    remarks: list[Remark] = []
    if videos is not None:
        remarks += [
            Remark("gap", name, None, f"asked for, but not in {gt_dir}") for name in videos if name not in truths
        ]
        truths = {name: truths[name] for name in videos if name in truths}
    partners = _partner_videos(truths, predictions)
    if not any(truths.values()):
        raise InputError(f"{gt_dir}: no ground truth found; expected <video>/<frame>.png in it")
    if not partners:
        raise InputError(
            f"{pred_dir}: no video of {gt_dir} was found in it; expected folders such as {_some(truths)}, "
            f"found {_some(predictions) or 'no pictures'}; give the folder that holds the videos' folders"
        )
    pairs = []
    for name in sorted(truths, key=natural_key):
        if not truths[name]:
            remarks.append(Remark("gap", name, None, "has no annotated frame"))
        elif name not in partners:
            remarks.append(Remark("gap", name, None, f"has no predictions in {pred_dir}"))
            pairs.append(VideoPair(name, tuple(FramePair(path.stem, path, None) for path in truths[name])))
        else:
            pair, more = _pair_frames(name, truths[name], predictions[partners[name]])
            pairs.append(pair)
            remarks += more
    if videos is None:
        unused = sorted(set(predictions) - set(partners.values()), key=natural_key)
        remarks += [Remark("unused", name, None, "predicted, but has no ground truth") for name in unused]
    return pairs, remarks


def _some(names: Iterable[str], count: int = 3) -> str:
    names = sorted(names, key=natural_key)
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")


def _partner_videos(truths: dict[str, list[Path]], predictions: dict[str, list[Path]]) -> dict[str, str]:
    """Name of the predicted video for each annotated one that has any."""
    filled = {name for name, paths in predictions.items() if paths}
    if len(truths) == len(filled) == 1:  # two folders of pictures, whatever their names
        return dict(zip(truths, filled, strict=True))
    partners = {name: name for name in truths if name in filled}
    left = filled - set(partners)
    by_last: dict[str, list[str]] = {}
    for name in left:
        by_last.setdefault(name.split("/")[-1], []).append(name)
    last_of_truths = [name.split("/")[-1] for name in truths]
    for name in truths:
        last = name.split("/")[-1]
        if name not in partners and len(by_last.get(last, ())) == 1 and last_of_truths.count(last) == 1:
            partners[name] = by_last[last][0]
    return partners


def _last_number(stem: str) -> int | None:
    numbers = re.findall(r"\d+", stem)
    return int(numbers[-1]) if numbers else None


def _pair_frames(video: str, truths: list[Path], predictions: list[Path]) -> tuple[VideoPair, list[Remark]]:
    remarks = []
    by_name = {path.stem: path for path in predictions}
    matched = {path.stem: by_name.get(path.stem) for path in truths}
    if not any(matched.values()):
        numbers = {number: path for path in predictions if (number := _last_number(path.stem)) is not None}
        wanted = {path.stem: _last_number(path.stem) for path in truths}
        distinct = len(numbers) == len(predictions) and len(set(wanted.values())) == len(truths)
        if distinct and any(number in numbers for number in wanted.values()):
            matched = {stem: numbers.get(number) for stem, number in wanted.items()}
            remarks.append(_renamed(video, truths, matched, "the number in the name"))
        elif len(truths) == len(predictions):
            matched = {path.stem: partner for path, partner in zip(truths, predictions, strict=True)}
            remarks.append(_renamed(video, truths, matched, "order"))
    missing = [stem for stem, path in matched.items() if path is None]
    if len(missing) == len(truths):
        remarks.append(
            Remark(
                "gap",
                video,
                None,
                f"none of its {len(truths)} annotated frames ({truths[0].name}, ...) has a prediction "
                f"({predictions[0].name}, ...)",
            )
        )
    else:
        remarks += [Remark("gap", video, stem, "has no prediction") for stem in missing]
    used = set(matched.values())
    unannotated = tuple(path.stem for path in predictions if path not in used)
    frames = tuple(FramePair(path.stem, path, matched[path.stem]) for path in truths)
    return VideoPair(video, frames, unannotated), remarks


def _renamed(video: str, truths: list[Path], matched: dict[str, Path | None], by: str) -> Remark:
    example = next((truth, matched[truth.stem]) for truth in truths if matched[truth.stem] is not None)
    return Remark("rule", video, None, f"frames matched by {by}, e.g. {example[0].name} and {example[1].name}")
