"""What options of `hmhi segment` stand for: which videos, and what of them; what flow they have; where results go."""

import dataclasses
import importlib.util
import re
import sys
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from hmhi_jax.data.flow import FlowRecipe
from hmhi_jax.data.flow_folder import FlowFolder, flow_folder_of
from hmhi_jax.data.live_sources import RawPictures
from hmhi_jax.data.open_videos import VIDEO_SUFFIXES, Found, find_videos
from hmhi_jax.data.video import Part, Video, read_cuts
from hmhi_jax.errors import InputError
from hmhi_jax.inference.result_folder import Outputs, some

if TYPE_CHECKING:
    from hmhi_jax.inference.learned_flow import LearnedFlow

ESTIMATORS = ("dis", "raft")  # what `--flow` may be besides a folder
# A video file may hold fewer frames than it promises; what is missing among the first is told when it is reached.
_ENOUGH_FLOW = 0.95
_CUTOUT_SUFFIXES = {".mov": "mov", ".webm": "webm"}
_PACKAGES = {"exr": ("OpenEXR", "exr"), "coco": ("pycocotools", "coco"), "youtube_vis": ("pycocotools", "coco")}


@dataclasses.dataclass(frozen=True)
class Sources:
    """Options of `hmhi segment`.

    start, end  of every video: a frame's number or name, seconds, a time or a time code; the end is left out
    cuts        "auto": changes of shot are looked for; "off": there are none; or a file that says where they are
    shard       "I/N": of N machines, this is number I, from 0
    raw_size    "WIDTHxHEIGHT" of pictures without a header on standard input
    raw_rate    so many of them are a second; None where there is a header
    timeout     seconds to wait for cameras, pipes and URLs; None as long as is usual
    """

    start: str | None = None
    end: str | None = None
    cuts: str = "auto"
    shard: str | None = None
    raw_size: str | None = None
    raw_rate: float | None = None
    timeout: float | None = None

    @property
    def detect_cuts(self) -> bool:
        return self.cuts == "auto"

    def settings(self) -> dict[str, str]:
        """What says how results were made, apart from the parts of the videos, which are part of what they are."""
        return {"cuts": self.cuts if self.cuts in ("auto", "off") else "told"}

    def find(self, inputs: list[str], frame_rate: float | None) -> tuple[Found, list[Video]]:
        """All videos of the command; and of these every N-th, from the I-th on, with the part that is wanted of each.

        Who takes what follows from the names alone, so machines need not know of each other. What was passed over or
        could not be opened is the first one's to tell. A video without the part is a failure of its own. Raises
        `InputError`.
        """
        number, machines = self._shard()
        rate = Fraction(frame_rate).limit_denominator(1001) if frame_rate else None
        found = find_videos(inputs, frame_rate=rate, raw=self._raw(inputs), timeout=self.timeout)
        if number:
            found.notes.clear()
            found.failures.clear()
        part = Part(self.start, self.end, self._cuts(found.videos))
        parts, failures = [], []
        for video in found.videos[number::machines]:
            try:
                parts.append(part.of(video))
            except InputError as error:
                failures.append(str(error))
        if failures and not parts and len(found.videos) == len(failures):
            raise InputError(failures[0])
        found.failures += failures
        return found, parts

    def _shard(self) -> tuple[int, int]:
        match = re.fullmatch(r"(\d+)/(\d+)", self.shard or "0/1")
        number, machines = map(int, match.groups()) if match else (0, 0)
        if number >= machines:
            raise InputError(
                f"--shard {self.shard}: expected I/N, number I of N machines counted from 0, such as 0/4 to 3/4"
            )
        return number, machines

    def _raw(self, inputs: list[str]) -> RawPictures | None:
        if self.raw_rate is None:
            return None
        if "-" not in inputs:
            raise InputError(f"--rate {self.raw_rate:g}: is of raw pictures on standard input, but no input is '-'")
        match = re.fullmatch(r"(\d+)x(\d+)", self.raw_size or "")
        if not match:
            given = f"--size {self.raw_size}" if self.raw_size else "no --size"
            raise InputError(
                f"{given}: raw pictures on standard input need their size, WIDTHxHEIGHT, such as --size 1280x720; "
                "the network's is --network-size"
            )
        return RawPictures((int(match[2]), int(match[1])), Fraction(self.raw_rate).limit_denominator(1001))

    def _cuts(self, videos: list[Video]) -> tuple[str, ...] | None:
        if self.cuts in ("auto", "off"):
            return None
        if not Path(self.cuts).is_file():
            raise InputError(f"--cuts {self.cuts}: is no file, expected auto, off, or a file with a cut a line")
        if len(videos) > 1:
            raise InputError(
                f"--cuts {self.cuts}: says where one video has its cuts, but there are {len(videos)}; "
                "segment them one by one"
            )
        return read_cuts(self.cuts)


def flow_weights_file(flow: str, weights: str | None, iterations: int | None) -> Path | None:
    """Which file of weights `--flow raft` takes; None for other flow, with which its options are refused."""
    if flow != "raft":
        for option, value in (("--flow-weights", weights), ("--flow-iterations", iterations)):
            if value is not None:
                raise InputError(f"{option} {value}: is for '--flow raft', but flow is {flow!r}")
        return None
    from hmhi_jax.interop.flow_weights import find_flow_weights

    return find_flow_weights(weights or "raft_large")


def read_flow_network(path: Path, iterations: int | None, recipe: FlowRecipe, weights: str) -> "LearnedFlow":
    """The flow network of `--flow raft`. Warns where the weights were trained with other flow."""
    from hmhi_jax.inference.learned_flow import LearnedFlow

    network = LearnedFlow.load(path, recipe, iterations=iterations)
    if recipe.estimator != "raft":
        print(
            f"warning: {weights} wants flow pictures of the estimator {recipe.estimator}, not raft; masks may be worse",
            file=sys.stderr,
        )
    return network


def flow_folders(
    flow: str, videos: list[Video], alone: bool, recipe: FlowRecipe, weights: str, max_frames: int | None
) -> dict[str, FlowFolder]:
    """Flow of each video. Warns of pictures that are known to be made otherwise than the weights want them."""
    folders = {
        video.name: _flow_folder(flow_folder_of(flow, video.name, alone), video, recipe, max_frames) for video in videos
    }
    for difference in dict.fromkeys(folder.difference for folder in folders.values() if folder.difference):
        alike = [str(folder.folder) for folder in folders.values() if folder.difference == difference]
        print(
            f"warning: {some(alike)}: flow pictures made otherwise than {weights} wants them ({difference}), so masks "
            f"may be far off; make them again with 'hmhi flow DATASET --recipe {weights} --overwrite', or take "
            "'--flow dis'",
            file=sys.stderr,
        )
    return folders


def _flow_folder(path: Path, video: Video, recipe: FlowRecipe, max_frames: int | None) -> FlowFolder:
    """Flow of one video, refused if it is known that there is too little of it."""
    if (names := video.frame_names()) is not None:
        return FlowFolder(path, recipe, names[:max_frames])
    folder = FlowFolder(path, recipe)
    wanted = min((number for number in (video.frame_count, max_frames) if number), default=0)
    if len(folder) < _ENOUGH_FLOW * wanted - 1:
        raise InputError(
            f"{path}: holds {len(folder)} flow pictures, expected one for each of about {wanted} frames of "
            f"{video.path}; make the others, or stop before with --max-frames"
        )
    return folder


def place_outputs(out: Path, outputs: Outputs, videos: int) -> tuple[Path, Outputs]:
    """The folder for the results, and what to write, where `out` may also be a file for the cut-out of a single video;
    its other results then go into a folder beside it that is named after it.

    Raises `InputError` for a file that cannot hold one, or a package that is missing.
    """
    for field, (package, extra) in _PACKAGES.items():
        if getattr(outputs, field) and importlib.util.find_spec(package) is None:
            option = field.replace("_", "-")
            raise InputError(f"--{option}: needs the package {package}; pip install 'hmhi-jax[{extra}]'")
    suffix = out.suffix.lower()
    if suffix not in VIDEO_SUFFIXES or out.is_dir():
        return out, outputs
    if suffix not in _CUTOUT_SUFFIXES:
        raise InputError(
            f"--out {out}: a {suffix} file cannot hold a cut-out, for want of transparency; name a .mov or .webm file, "
            "or a folder, where an overlay is written as .mp4, and a black and white video with --matte"
        )
    kind = _CUTOUT_SUFFIXES[suffix]
    if outputs.cutout not in (None, kind):
        raise InputError(f"--out {out} --cutout {outputs.cutout}: expected one kind; name a folder to choose it")
    if videos != 1:
        raise InputError(
            f"--out {out}: is one file, but there are {videos} videos; "
            f"name a folder, and --cutout {kind} to get one each"
        )
    return Path(f"{out}.results"), dataclasses.replace(outputs, cutout=kind, file=out)
