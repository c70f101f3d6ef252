"""Which prediction belongs to which ground truth, and clear lines about everything that has no partner."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from hmhi_jax.data.layout_rules import folders, recognise
from hmhi_jax.data.layouts import Dataset, open_dataset
from hmhi_jax.data.pictures import Picture, is_picture, last_number, natural_key
from hmhi_jax.data.records import INDEX
from hmhi_jax.errors import InputError, first_of

# Where masks lie below a folder that is no whole data set, and the frames that go with them.
_TRUTH_FOLDERS = ("Annotations/480p", "Annotations", "mask/val", "mask/test", "mask")
_FRAMES_OF_TRUTH = (("Annotations", "JPEGImages"), ("mask", "frame"), ("Annotations", "Images"))


@dataclass(frozen=True)
class Remark:
    """A line for the reader of the scores.

    `kind` is "gap" for an annotated frame that was not scored, "rule" for something scored by a rule worth knowing,
    "unused" for a prediction without ground truth. `frame` is None where the whole video (or the whole run, `video`
    empty) is meant. `broken`: a file is there, but cannot be read.
    """

    kind: Literal["gap", "rule", "unused"]
    video: str
    frame: str | None
    text: str
    broken: bool = False

    def __str__(self) -> str:
        where = "/".join(part for part in (self.video, self.frame) if part)
        return f"{where}: {self.text}" if where else self.text


@dataclass(frozen=True)
class FramePair:
    """An annotated frame: its name, its truth and, where there are, its prediction and its RGB frame."""

    frame: str
    truth: Picture
    prediction: Path | None = None
    picture: Picture | None = None


@dataclass(frozen=True)
class VideoPair:
    """A video's annotated frames in order, its class if known, the names of all its frames where a data set says them,
    and those of predicted frames without annotation."""

    video: str
    frames: tuple[FramePair, ...]
    label: str | None = None
    every_frame: tuple[str, ...] = ()
    unannotated: tuple[str, ...] = ()


def pair_folders(
    pred_dir: Path, truth: Path | Dataset, videos: Sequence[str] | None = None, frames_dir: Path | None = None
) -> tuple[list[VideoPair], list[Remark]]:
    """Find the partner of every annotated frame.

    A video is a folder with pictures, named by its path below the root. Videos are partners if their paths are equal,
    or, where that leaves one without, if their last folders are and no other folder has that name. Frames are partners
    by name, else by the last number in the name, else, where both folders have equally many, by order; the last two
    leave a remark.

    Args:
        pred_dir: folder of a method's predictions, `<video>/<frame>.png`, or of what `hmhi segment` wrote.
        truth: a data set, or its folder (any layout of `hmhi_jax.data`; splits without any prediction are left out), or
            a folder of masks, `<video>/<frame>.png`.
        videos: the videos to score, where not all.
        frames_dir: folder of RGB frames, `<video>/<frame>.jpg`, where they are not beside the masks.

    Returns the videos with ground truth, whether predicted or not, and remarks. Raises `InputError` if a folder
    is missing, or nothing in them fits together.
    """
    if not pred_dir.is_dir():
        raise InputError(
            f"{pred_dir}: there is no such folder; give the folder that holds the predictions of all videos"
        )
    predictions = _videos_below(pred_dir)
    truths = _truths(truth, frames_dir, predictions)
    place = truth.root if isinstance(truth, Dataset) else truth
    remarks: list[Remark] = []
    if videos is not None:
        remarks += [
            Remark("gap", name, None, f"asked for, but not in {place}") for name in videos if name not in truths
        ]
        truths = {name: truths[name] for name in videos if name in truths}
    partners = _partner_videos(list(truths), predictions)
    if not partners and len(truths) == len(predictions) == 1 and (_pictures_in(pred_dir) or _pictures_in(Path(place))):
        partners = dict(zip(truths, predictions, strict=True))  # two folders of pictures, whatever their names
    if not any(annotated.frames for annotated in truths.values()):
        raise InputError(f"{place}: no ground truth found; expected a data set, or <video>/<frame>.png")
    if not partners:
        raise InputError(
            f"{pred_dir}: no video of {place} was found in it; expected folders such as {_some(truths)}, "
            f"found {_some(predictions) or 'no pictures'}; give the folder that holds the videos' folders"
        )
    pairs = []
    for name in sorted(truths, key=natural_key):
        annotated = truths[name]
        if not annotated.frames:
            remarks.append(Remark("gap", name, None, "has no annotated frame"))
        elif name not in partners:
            remarks.append(Remark("gap", name, None, f"has no predictions in {pred_dir}"))
            pairs.append(annotated)
        else:
            pair, more = _pair_frames(annotated, predictions[partners[name]])
            pairs.append(pair)
            remarks += more
    if videos is None:
        unused = sorted(set(predictions) - set(partners.values()), key=natural_key)
        remarks += [Remark("unused", name, None, "predicted, but has no ground truth") for name in unused]
    return pairs, remarks


def _truths(truth: Path | Dataset, frames_dir: Path | None, predictions: dict[str, list[Path]]) -> dict[str, VideoPair]:
    """Annotated videos, without predictions, from a data set or from folders of masks."""
    if isinstance(truth, Dataset):
        return _truths_of(truth)
    if not truth.is_dir():
        raise InputError(f"{truth}: there is no such folder; give the folder that holds the ground truth of all videos")
    if (truth / INDEX).exists():
        return _truths_of(open_dataset(truth))
    layout, names = recognise(truth)
    if layout is not None:
        splits = [_truths_of(open_dataset(truth, layout=layout.name, split=name)) for name in names]
        predicted = [found for found in splits if _partner_videos(list(found), predictions)]
        found = {name: annotated for split in predicted or splits for name, annotated in split.items()}
        if any(annotated.frames for annotated in found.values()):
            return found
    masks = next((truth / name for name in _TRUTH_FOLDERS if (truth / name).is_dir()), truth)
    frames_dir = frames_dir or _frames_beside(masks)
    found = {}
    for video, paths in _videos_below(masks).items():
        pictures = {path.stem: path for path in _pictures_in(frames_dir / video)} if frames_dir else {}
        frames = tuple(FramePair(path.stem, path, picture=pictures.get(path.stem)) for path in paths)
        found[video] = VideoPair(video, frames)
    return found


def _truths_of(dataset: Dataset) -> dict[str, VideoPair]:
    found = {}
    for video in dataset.videos:
        frames = tuple(
            FramePair(video.frame_names[i], mask, picture=video.frames[i])
            for i, mask in enumerate(video.masks)
            if mask is not None
        )
        found[video.name] = VideoPair(video.name, frames, video.label, video.frame_names)
    return found


def _frames_beside(masks: Path) -> Path | None:
    """Where the RGB frames of a folder of masks are, in data sets that keep them side by side."""
    parts = masks.resolve().parts
    for ours, theirs in _FRAMES_OF_TRUTH:
        if ours in parts:
            position = len(parts) - 1 - parts[::-1].index(ours)
            candidate = Path(*parts[:position], theirs, *parts[position + 1 :])
            if candidate.is_dir():
                return candidate
    return None


def _videos_below(root: Path) -> dict[str, list[Path]]:
    """Every folder below `root` that holds pictures, by its relative path; `root` itself under its own name.

    Links to folders are followed. A folder of results of `hmhi segment` is one video, of its masks.
    """
    found = {}

    def look(folder: Path, above: frozenset[Path]) -> None:
        real = folder.resolve()
        if real in above:  # a link to where it came from
            return
        pictures = _result_pictures(folder)
        subfolders = [] if pictures else folders(folder)
        pictures = pictures or _pictures_in(folder)
        if pictures or (not subfolders and folder != root):
            name = folder.relative_to(root).as_posix() if folder != root else real.name
            found[name] = pictures
        for subfolder in subfolders:
            look(subfolder, above | {real})

    look(root, frozenset())
    return found


def _result_pictures(folder: Path) -> list[Path]:
    """What `hmhi segment` segmented, if it wrote the folder: masks, or where these were taken away, probabilities."""
    if not ((folder / "summary.json").is_file() or (folder / ".unfinished").is_dir()):
        return []
    return _pictures_in(folder / "masks") or _pictures_in(folder / "soft")


def _pictures_in(folder: Path) -> list[Path]:
    """The pictures of a folder in order; a PNG stands before its JPEG namesake."""
    pictures: dict[str, Path] = {}
    names = os.listdir(folder) if folder.is_dir() else []
    for name in sorted(names, key=lambda name: name.lower().endswith(".png")):
        if is_picture(name):
            pictures[Path(name).stem] = folder / name
    return [pictures[stem] for stem in sorted(pictures, key=natural_key)]


def _some(names: Iterable[str]) -> str:
    return first_of(sorted(names, key=natural_key))


def _partner_videos(truths: Sequence[str], predictions: dict[str, list[Path]]) -> dict[str, str]:
    """Name of the predicted video for each annotated one that has any."""
    filled = [name for name, paths in predictions.items() if paths]
    partners = {name: name for name in truths if predictions.get(name)}
    # Data sets name a nested video with "_" where a method may have kept the folders; else only the last folder may
    # agree.
    for brief in (lambda name: name.replace("/", "_"), lambda name: name.split("/")[-1]):
        left: dict[str, list[str]] = {}
        for name in filled:
            if name not in partners.values():
                left.setdefault(brief(name), []).append(name)
        wanted = [brief(name) for name in truths]
        for name, short in zip(truths, wanted, strict=True):
            if name not in partners and len(left.get(short, ())) == 1 and wanted.count(short) == 1:
                partners[name] = left[short][0]
    return partners


def _shift(frames: Sequence[str], predictions: Sequence[str]) -> int:
    """By how much the predictions' numbers are all off those of the frames; 0 if they are not, or not all by one."""
    if len(frames) != len(predictions):
        return 0
    shifts = set()
    for frame, name in zip(frames, predictions, strict=True):
        number, other = last_number(frame), last_number(name)
        shifts.add(0 if number is None or other is None else other - number)
    return shifts.pop() if len(shifts) == 1 else 0


def _pair_frames(annotated: VideoPair, predictions: list[Path]) -> tuple[VideoPair, list[Remark]]:
    video, remarks = annotated.video, []
    names = [pair.frame for pair in annotated.frames]
    by_name = {path.stem: path for path in predictions}
    matched = {name: by_name.get(name) for name in names}
    if not any(matched.values()):
        numbers = {number: path for path in predictions if (number := last_number(path.stem)) is not None}
        wanted = {name: last_number(name) for name in names}
        distinct = len(numbers) == len(predictions) and len(set(wanted.values())) == len(names)
        by = None
        if distinct and any(number in numbers for number in wanted.values()):
            matched, by = {name: numbers.get(number) for name, number in wanted.items()}, "the number in the name"
        elif len(names) == len(predictions):
            matched, by = dict(zip(names, predictions, strict=True)), "order"
        if by:
            example = next((name, path.name) for name, path in matched.items() if path is not None)
            remarks.append(Remark("rule", video, None, f"frames matched by {by}, e.g. {example[0]} and {example[1]}"))
    elif shift := _shift(annotated.every_frame or names, [path.stem for path in predictions]):
        text = f"the numbers of its predictions ({predictions[0].name}, ...) are those of its frames and {shift:+}: "
        remarks.append(Remark("rule", video, None, text + "names may be shifted; frames were matched by name"))
    missing = [name for name, path in matched.items() if path is None]
    if len(missing) == len(names):
        text = (
            f"none of its {len(names)} annotated frames ({names[0]}, ...) has a prediction ({predictions[0].name}, ...)"
        )
        remarks.append(Remark("gap", video, None, text))
    else:
        remarks += [Remark("gap", video, name, "has no prediction") for name in missing]
    # Where the data set is known, its frames without annotation are expected to be predicted.
    known = {*matched.values(), *annotated.every_frame}
    unannotated = tuple(path.stem for path in predictions if path not in known and path.stem not in known)
    frames = tuple(replace(pair, prediction=matched[pair.frame]) for pair in annotated.frames)
    return replace(annotated, frames=frames, unannotated=unannotated), remarks
