"""What one visitor of the page has: a video, what the network said of it, what is made of that; all in one folder."""

import dataclasses
import functools
import os
import re
import secrets
import shutil
import threading
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from hmhi_jax.complete_files import readable
from hmhi_jax.data.open_videos import open_videos
from hmhi_jax.data.video import Frame, Video
from hmhi_jax.errors import InputError
from hmhi_jax.inference.confidence import Calibration, read_calibration
from hmhi_jax.inference.lanes import Result
from hmhi_jax.inference.masks import Postprocessing, Postprocessor, Read, read_result
from hmhi_jax.inference.pipeline import WORKERS, Pipeline
from hmhi_jax.inference.segmenter import VideoSegmenter, auto_size
from hmhi_jax.inference.writers import write_png
from hmhi_jax.tools.web.work import PRODUCTS, Job, Look, Masks, drawn_as, preview, read_pixels, seen_before

_NETWORK = threading.Lock()  # one video at a time is computed: two would only take turns

SIZES = ("as the weights were trained", "the video's shape", "the video's shape, twice the pixels")


@dataclasses.dataclass(frozen=True)
class Limits:
    """What the page takes of a visitor.

    megabytes   of an upload; a zip may hold four times as much
    frames      of a video
    """

    megabytes: int = 500
    frames: int = 1500


class Seen(NamedTuple):
    """What else is known of a frame once the network saw it: log-odds of something that moves by itself, None where the
    weights are not calibrated for it; whether nothing has lately; whether it begins a shot."""

    log_odds: float | None
    nothing: bool
    begins_shot: bool


@functools.lru_cache(maxsize=3)
def _segmenter(weights: str, size: tuple[int, int] | None) -> VideoSegmenter:
    return VideoSegmenter.load(weights, size=size)


@functools.lru_cache(maxsize=1)
def calibration_of(weights: str) -> Calibration | None:
    """What tells frames in which nothing moves by itself, if the weights are calibrated for it."""
    return read_calibration(Path(weights))


class Visitor:
    """A visitor's folder and what is in it. Nothing of it can be found by anybody else, as its name is a secret."""

    def __init__(self, home: Path, weights: str, limits: Limits) -> None:
        self.folder = home / secrets.token_urlsafe(24)
        self.job: Job | None = None
        self._video: Video | None = None
        self._size = 0  # one of `SIZES`, by its number
        self._seen: dict[int, list[Seen]] = {}  # of the frames whose probabilities are there, by size
        self._look, self.followed = Look(), 0  # for which look frames were followed, and how many
        self.found = ""  # what the page said when the network was done
        self.objects: list[dict[str, Any]] = []  # that were numbered then
        self._weights, self._limits = weights, limits
        self._calibration = calibration_of(weights)
        self._starting = threading.Lock()
        self._uploaded: Path | None = None
        self._shown = 0

    @property
    def video(self) -> Video:
        """Raises `InputError` where there is none."""
        if self._video is None:
            raise InputError("the video is no longer here, as the page was away for a while; drop it again")
        return self._video

    def open(self, upload: str) -> Video:
        """Take an uploaded video, or a zip of its frames, in place of the one before. Raises `InputError`, and then
        there is none."""
        self.close()
        self._uploaded = Path(upload)
        try:
            self._video = self._opened(self._uploaded)
            (self.folder / "frames").mkdir()
            next(self._frames())
        except InputError as error:
            self.close()
            raise InputError(self.shorter(str(error))) from error
        return self._video

    def _opened(self, upload: Path) -> Video:
        path = self.folder / "video" / upload.name
        path.parent.mkdir(parents=True)
        with readable(path.name):
            os.link(upload, path)  # the other name is for the browser, which plays a recording
        if zipfile.is_zipfile(path):
            path = self._unpack(path)
        video, *others = open_videos([path])
        if others:
            raise InputError(f"{path.name}: holds {1 + len(others)} videos, expected one; upload one at a time")
        if video.frame_count is None or video.frame_count > self._limits.frames:
            raise InputError(
                f"{path.name}: has {video.frame_count} frames, this page takes at most {self._limits.frames}; cut it, "
                "start the page with a larger --max-frames, or use `hmhi segment`"
            )
        return video

    def _unpack(self, path: Path) -> Path:
        folder, most = self.folder / "unpacked" / path.stem, 4 * self._limits.megabytes
        folder.mkdir(parents=True)
        try:
            with zipfile.ZipFile(path) as archive:
                size = sum(entry.file_size for entry in archive.infolist()) / 1e6
                if size > most:
                    raise InputError(f"{path.name}: holds {size:.0f} MB, this page takes at most {most} MB unpacked")
                archive.extractall(folder)  # names that lead out of the folder are made to stay inside
        # RuntimeError: a password, or a kind of compression that is not known.
        except (zipfile.BadZipFile, zlib.error, RuntimeError, OSError, EOFError) as error:
            raise InputError(f"{path.name}: cannot be unpacked ({error})") from error
        path.unlink()
        return folder

    def shorter(self, message: str) -> str:
        """A message with names as the visitor knows them."""
        return re.sub(rf"{re.escape(str(self.folder))}/(?:(?:video|unpacked)/)?", "", message)

    def segment(self, size: str) -> None:
        """Begin to compute the frames' probabilities at one of `SIZES`, unless those of all frames are there."""
        self.stop()
        self._size, self.followed, self.job = SIZES.index(size), 0, None
        self._soft = self.folder / f"soft-{self._size}"
        self._soft.mkdir(exist_ok=True)
        total = self.video.frame_count or 0
        if self.known < total:
            self._seen[self._size] = []
            self._start(functools.partial(self._compute, size=self._size), total)

    @property
    def seen(self) -> list[Seen]:
        """Of the frames whose probabilities are there, at the size that was last wanted."""
        return self._seen.get(self._size, [])

    @property
    def known(self) -> int:
        """How many frames these are."""
        return len(self.seen)

    def _compute(self, job: Job, size: int) -> Generator[None]:
        job.doing = "waiting for another video to be done"
        while not _NETWORK.acquire(timeout=0.5):
            if job.stopped:
                return
        try:
            job.doing = "reading weights"
            segmenter = _segmenter(self._weights, None)
            if size:
                height, width = segmenter.network_size(self.video.size)
                scale = 1 if size == 1 else 2**0.5
                wanted = auto_size(self.video.size, (round(height * scale), round(width * scale)))
                segmenter = _segmenter(self._weights, wanted)
            height, width = segmenter.network_size(self.video.size)
            job.doing = f"preparing the network for {width} x {height} (longer the first time)"
            calibration = self._calibration if self.video.frame_count != 1 else None  # one frame shows no motion
            postprocessor = Postprocessor(Postprocessing(calibration=calibration), 0.5)

            def read(result: Result) -> Read:
                write_png(self._soft / f"{result.index:05d}.png", read_result(result, "plain"), self.folder)
                odds = calibration.log_odds(np.asarray(result.logits), result.flow) if calibration else None
                return Read(result, result.flow, np.zeros((1, 1), np.uint8), odds)

            with Pipeline() as pipeline:
                frames = pipeline.ahead(self._frames(), 1)
                results = segmenter.results(frames, pipeline=pipeline, detect_cuts=True, refine=None)
                for each in pipeline.map(read, results, WORKERS):
                    seen = Seen(each.log_odds, postprocessor.follow(each).nothing, each.result.begins_shot)
                    self._seen[size].append(seen)
                    job.doing = "finding the object"
                    yield
        finally:
            _NETWORK.release()

    def _frames(self) -> Iterator[Frame]:
        """The video's, each of which leaves a small copy for the page."""
        for frame in self.video.frames():
            path = self._preview(frame.index)
            if not path.exists():
                Image.fromarray(preview(frame.picture)).save(path, quality=90)
            yield frame

    def has(self, number: int, look: Look) -> bool:
        """Whether the mask of a frame is there, or can be made at once."""
        return number < (self.followed if self._look == look else 0) if look.follows else number < self.known

    def follow(self, look: Look) -> None:
        """Begin to follow the frames for a look that asks for it, unless that is being done."""
        if not (self._look == look and self.job and self.job.running):
            self._start(functools.partial(self._follow, look=look), self.known)

    def _follow(self, job: Job, look: Look) -> Generator[None]:
        """Make the masks, and with numbered objects their labels, of all frames in order."""
        job.doing = "following what was found"
        self._look, self.followed = look, 0
        (self.folder / "followed").mkdir(exist_ok=True)
        calibration = self._calibration if look.nothing else None
        postprocessor = Postprocessor(Postprocessing(look.clean_up, look.objects or None, calibration), look.threshold)
        names = [f"{number:05d}" for number in range(self.known)]
        for number, seen in enumerate(self.seen):
            result = dataclasses.replace(seen_before(number, names[number], self.video), begins_shot=seen.begins_shot)
            picture, mask = read_pixels(self._preview(number)), look.mask(self.soft(number))
            finished = postprocessor.follow(Read(result, picture, mask, seen.log_odds))
            for kind, pixels in (("masks", finished.mask), ("labels", finished.labels)):
                if pixels is not None:
                    write_png(self._followed_file(kind, number), pixels, self.folder)
            self.followed, self.objects = number + 1, postprocessor.objects(names)
            yield

    def _followed_file(self, kind: str, number: int) -> Path:
        return self.folder / "followed" / f"{kind}-{number:05d}.png"

    def masks(self, number: int, look: Look) -> Masks:
        """A frame's mask and, where objects are numbered, their labels."""
        if look.follows:
            labels = read_pixels(self._followed_file("labels", number)) if look.objects else None
            return read_pixels(self._followed_file("masks", number)), labels
        mask = look.mask(self.soft(number))
        return (np.zeros_like(mask) if look.nothing and self.seen[number].nothing else mask), None

    def _preview(self, number: int) -> Path:
        return self.folder / "frames" / f"{number:05d}.jpg"

    def soft(self, number: int) -> UInt8[np.ndarray, "H W"]:
        """The probabilities of a frame, 0 to 255."""
        return read_pixels(self._soft / f"{number:05d}.png")

    def show(self, number: int, look: Look, view: str) -> tuple[str, str]:
        """Files with a frame and with what is made of it, one of `VIEWS`."""
        before = self._preview(number)
        if not self.has(number, look):
            return str(before), str(before)
        drawn = drawn_as(view, read_pixels(before), *self.masks(number, look))
        folder = self.folder / "shown"
        folder.mkdir(exist_ok=True)
        self._shown += 1
        after = folder / f"{self._shown}.jpg"
        (folder / f"{self._shown - 8}.jpg").unlink(missing_ok=True)  # no browser still waits for it
        Image.fromarray(drawn).save(after, quality=90)
        return str(before), str(after)

    def make(self, kind: str, look: Look) -> Path:
        """Begin to write one of `PRODUCTS` of all frames whose probabilities are there; where it will be."""
        self.stop()
        folder, product = self.folder / "made", PRODUCTS[kind]
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        path = folder / product.file_name(Path(self.video.name).name)
        follow_first = not self.has(self.known - 1, look)

        def write(job: Job) -> Generator[None]:
            if follow_first:
                yield from self._follow(job, look)
            job.doing = f"writing {path.name}"
            masks = functools.partial(self.masks, look=look)
            yield from product.write(self.video, self.known, masks, folder, look.objects)

        self._start(write, self.known * (1 + follow_first))
        return path

    def _start(self, work: Callable[[Job], Generator[object]], total: int) -> None:
        """One job at a time, however fast controls are moved."""
        with self._starting:
            self.stop()
            self.job = Job(work, total)

    def stop(self) -> None:
        """Stop what is being computed; what is there stays."""
        if self.job:
            self.job.stop()

    def close(self) -> None:
        """Stop, and delete everything."""
        self.stop()
        self._video, self._seen, self.followed, self.job = None, {}, 0, None
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._uploaded:
            self._uploaded.unlink(missing_ok=True)
