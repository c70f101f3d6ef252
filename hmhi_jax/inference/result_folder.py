"""What is written of one video, and the folder it goes to: what is in it, whose it is, how far it got.

masks/<frame>.png   0 and 255, at the frames' size
soft/<frame>.png    probabilities in 256 steps, if asked for
objects/, rgba/, exr/   numbers of objects and more pictures of each frame, if asked for
overlay.mp4, matte.mp4, cutout.mov or cutout.webm (which may lie elsewhere), coco.json, youtube_vis.json, sheet.png
summary.json        written last: a folder with it is finished
.unfinished/        the workplace while results are being made: saved memory, parts of the videos
"""

import contextlib
import dataclasses
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from hmhi_jax.errors import InputError
from hmhi_jax.inference.writers import write_file, writing

Status = Literal["new", "unfinished", "finished"]
_KINDS = ("masks", "soft", "objects", "rgba", "exr")  # folders with a picture of every frame
_SUFFIXES = {kind: ".exr" if kind == "exr" else ".png" for kind in _KINDS}


@dataclasses.dataclass(frozen=True)
class Outputs:
    """What is to be written of a video beside its masks, and how its frames are called.

    cutout        a video with alpha, "mov" or "webm"
    file          where that goes, if not into the folder of results
    matte         matte.mp4, black and white
    rgba          rgba/<frame>.png
    exr           exr/<frame>.exr, a channel for each object
    palette       objects/<frame>.png, object ids in DAVIS's colours, also where none are numbered
    coco          coco.json
    youtube_vis   youtube_vis.json
    start_number  of frame 0. Where this, `padding` and `prefix` are None, frames are called as they are
    padding       digits of a number, 5 if numbers are asked for otherwise
    prefix        what stands before it
    """

    cutout: str | None = None
    file: Path | None = None
    matte: bool = False
    rgba: bool = False
    exr: bool = False
    palette: bool = False
    coco: bool = False
    youtube_vis: bool = False
    start_number: int | None = None
    padding: int | None = None
    prefix: str | None = None

    def name(self, index: int, name: str) -> str:
        """What the results of frame `index`, called `name` in its video, are called."""
        if (self.start_number, self.padding, self.prefix) == (None, None, None):
            return name
        return f"{self.prefix or ''}{index + (self.start_number or 0):0{self.padding or 5}d}"

    def pictures(self) -> tuple[str, ...]:
        """Folders with a picture of every frame."""
        asked = {"rgba": self.rgba, "exr": self.exr, "objects": self.palette}
        return tuple(kind for kind, wanted in asked.items() if wanted)

    def settings(self) -> dict[str, Any]:
        """What was asked for, as JSON; nothing by default."""
        fields = dataclasses.asdict(self) | {"file": None}
        return {name: value for name, value in fields.items() if value != getattr(Outputs, name)}


class ResultFolder:
    """Paths of one video's results, and the rules of who may write there.

    `identity` says what makes the results what they are (input, weights, settings), as JSON. Results of another
    identity are never mixed with these: `status` refuses. `pictures` are the folders that have a picture of each frame
    once the results are finished; `cutout` is the video with alpha, None if there is to be none.
    """

    def __init__(
        self,
        path: str | Path,
        identity: dict[str, Any],
        pictures: Sequence[str] = ("masks",),
        cutout: str | Path | None = None,
    ) -> None:
        self.path = Path(path)
        self.identity = json.loads(json.dumps(identity))
        self.pictures = pictures
        self.masks = self.path / "masks"
        self.overlay = self.path / "overlay.mp4"
        self.matte = self.path / "matte.mp4"
        self.cutout = Path(cutout) if cutout else None
        self.coco = self.path / "coco.json"
        self.youtube_vis = self.path / "youtube_vis.json"
        self.sheet = self.path / "sheet.png"
        self.summary = self.path / "summary.json"
        self.workplace = self.path / ".unfinished"
        self.saved_memory = self.workplace / "memory.safetensors"
        self._job = self.workplace / "job.json"
        self._folders = [self.path / kind for kind in _KINDS]
        self._files = [self.summary, self.overlay, self.matte, self.coco, self.youtube_vis, self.sheet]
        self._files += [self.path / "cutout.mov", self.path / "cutout.webm", *([self.cutout] if self.cutout else [])]

    def picture(self, kind: str, name: str) -> Path:
        """The picture of a kind (a folder's name) of the frame called `name`."""
        return self.path / kind / f"{name}{_SUFFIXES[kind]}"

    def to_look_at(self) -> list[Path]:
        """What there is to look at or to hand on, the best first."""
        videos = [path for path in (self.cutout, self.matte, self.overlay) if path and path.exists()]
        annotations = [path for path in (self.coco, self.youtube_vis) if path.exists()]
        return [*videos, *(self.path / kind for kind in self.pictures), *annotations, self.sheet]

    def status(self) -> Status:
        """How far these very results got: finished only while all pictures the summary names are there.

        Raises `InputError` if the folder holds anything else with these names.
        """
        with writing(self.path):
            if self.path.exists() and not self.path.is_dir():
                raise InputError(f"{self.path}: is a file, expected a folder for the results; choose another one")
        record = self._record()
        if record is not None:
            status: Status = "finished" if self.summary.is_file() else "unfinished"
            other = differences(record["identity"], self.identity)
            if other and status == "unfinished" and not _visible(self.masks):
                return "new"  # an attempt that made nothing is in nobody's way
            if other:
                raise InputError(
                    f"{self.path}: holds {status} results made otherwise ({other}); "
                    "choose another folder, or start with --overwrite"
                )
            complete = self.holds(record.get("area", ())) and (self.cutout is None or self.cutout.is_file())
            return status if complete else "unfinished"
        if self.cutout and self.cutout.exists() and self.cutout.parent != self.path:
            raise InputError(
                f"{self.cutout}: is there already, and this command did not write it into {self.path.name}; "
                "choose another name, or move it away"
            )
        taken = [path.name for path in (*self._folders, *self._files) if path.is_file() or _visible(path)]
        if taken:
            raise InputError(
                f"{self.path}: holds {', '.join(taken)} that this command did not write; choose another folder"
            )
        return "new"

    def is_ours(self) -> bool:
        """Whether this command wrote what is there, with whatever settings."""
        return self._record() is not None

    def holds(self, names: Iterable[str]) -> bool:
        """Whether all pictures of the frames of these names are there."""
        there = {kind: {path.name for path in (self.path / kind).glob("*")} for kind in self.pictures}
        return all(self.picture(kind, name).name in there[kind] for name in names for kind in self.pictures)

    def clear(self) -> None:
        """Remove results and workplace, and nothing else. Raises `InputError`, before, for files among the results that
        the command did not write: those the summary does not name.
        """
        record = self._record() or {}
        pictures = [path for folder in self._folders for path in _visible(folder)]
        foreign = [
            f"{path.parent.name}/{path.name}"
            for path in pictures
            if path.suffix != _SUFFIXES[path.parent.name] or path.stem not in record.get("area", {path.stem})
        ]
        if foreign:
            raise InputError(
                f"{self.path}: holds {some(foreign)} that this "
                "command did not write; move that away, or choose another folder"
            )
        with writing(self.path):
            for path in (*self._files, *pictures):
                path.unlink(missing_ok=True)
            for folder in self._folders:
                with contextlib.suppress(OSError):
                    folder.rmdir()
            shutil.rmtree(self.workplace, ignore_errors=True)

    def check_writable(self) -> None:
        """Make the folder and try a file in it. Raises `InputError` if that fails."""
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            trial = self.path / f".trial-{os.getpid()}"
            try:
                trial.write_bytes(b"0" * 4096)
            finally:
                trial.unlink(missing_ok=True)

    @contextlib.contextmanager
    def occupied(self) -> Iterator[None]:
        """Set the workplace up, and keep other processes out while the block runs."""
        with writing(self.path):
            self.workplace.mkdir(parents=True, exist_ok=True)
            lock = open(self.workplace / "lock", "a+")  # noqa: SIM115 - closed below
        with lock:
            _lock_or_refuse(lock, self.path)
            with writing(self.path):
                for kind in self.pictures:
                    (self.path / kind).mkdir(exist_ok=True)
                for leftover in self.workplace.glob("*.partial"):
                    leftover.unlink()
            write_file(self._job, json.dumps(self.identity, indent=1).encode(), self.workplace)
            with writing(self.path):
                self.summary.unlink(missing_ok=True)  # of finished results that have lost pictures
            yield

    def finish(self, summary: dict[str, Any]) -> None:
        """Write the summary, which makes the results finished, and remove the workplace."""
        text = json.dumps({**summary, "identity": self.identity}, indent=1)
        write_file(self.summary, text.encode(), self.workplace)
        shutil.rmtree(self.workplace, ignore_errors=True)

    def read_summary(self) -> dict[str, Any]:
        return read_note(self.summary)

    def _record(self) -> dict[str, Any] | None:
        """What this command, and no other, wrote about the results: the summary, else the unfinished job."""
        if self.summary.is_file():
            content = read_note(self.summary)
            identity, area = content.get("identity"), content.get("area", {})
            ours = isinstance(identity, dict) and "input" in identity and isinstance(area, dict)
            return content if ours else None
        return {"identity": read_note(self._job)} if self._job.is_file() else None


def _visible(folder: Path) -> list[Path]:
    """What is in a folder, if it is one, apart from hidden files, which file managers leave everywhere."""
    return sorted(path for path in folder.iterdir() if path.name[0] != ".") if folder.is_dir() else []


def _lock_or_refuse(lock: Any, folder: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows: two commands on one folder are not kept apart there
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InputError(f"{folder}: another command is writing there right now; wait for it, or stop it") from error
    except OSError:
        pass  # a file system without locks


def read_note(file: Path) -> dict[str, Any]:
    """A note's JSON object. Raises `InputError` for anything else."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("no JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file}: cannot be read ({error}); move it away, or choose another folder") from error
    return content


def differences(noted: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """What differs between two identities, for people; empty if nothing does."""
    names = [name for name in {**wanted, **noted} if wanted.get(name) != noted.get(name)]
    return ", ".join(f"{name}: {_short(noted.get(name))}, now {_short(wanted.get(name))}" for name in names)


def some(names: list[str]) -> str:
    """The first of some names, and how many more there are."""
    return f"{names[0]} and {len(names) - 1} more" if names[1:] else names[0]


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_short(inner)}" for name, inner in value.items())
    text = str(value)
    return text[:12] + "..." if re.fullmatch("[0-9a-f]{64}", text) else text
