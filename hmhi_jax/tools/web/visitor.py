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
from collections.abc import Generator, Iterator
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from hmhi_jax.complete_files import readable
from hmhi_jax.data.open_videos import open_videos
from hmhi_jax.data.video import Video
from hmhi_jax.errors import InputError
from hmhi_jax.inference.clean_up import CleanUp
from hmhi_jax.inference.segmenter import VideoSegmenter, auto_size
from hmhi_jax.inference.writers import draw_overlay, write_png
from hmhi_jax.tools.web.job import Job
from hmhi_jax.tools.web.products import PRODUCTS

_PREVIEW_SIDE = 1280  # pixels; more costs a browser time and shows no more
_SQUARE = 12  # pixels of the checkerboard behind a cut-out
_NETWORK = threading.Lock()  # one video at a time is computed: two would only take turns

SIZES = ("as the weights were trained", "the video's shape", "the video's shape, twice the pixels")
VIEWS = ("Tinted", "Cut out", "Mask")


@dataclasses.dataclass(frozen=True)
class Limits:
    """What the page takes of a visitor.

    megabytes   of an upload; a zip may hold four times as much
    frames      of a video
    """

    megabytes: int = 500
    frames: int = 1500


@dataclasses.dataclass(frozen=True)
class Look:
    """How probabilities become a mask: the threshold, 0 to 1, and what is tidied afterwards."""

    threshold: float = 0.5
    clean_up: CleanUp = CleanUp()  # noqa: RUF009 - frozen

    def mask(self, soft: UInt8[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W"]:
        """Of a frame's 8-bit probabilities."""
        return self.clean_up.frame((soft > self.threshold * 255).astype(np.uint8) * np.uint8(255))


@functools.lru_cache(maxsize=3)
def _segmenter(weights: str, size: tuple[int, int] | None) -> VideoSegmenter:
    return VideoSegmenter.load(weights, size=size)


class Visitor:
    """A visitor's folder and what is in it. Nothing of it can be found by anybody else, as its name is a secret."""

    def __init__(self, home: Path, weights: str, limits: Limits) -> None:
        self.folder = home / secrets.token_urlsafe(24)
        self.job: Job | None = None
        self._video: Video | None = None
        self.known = 0  # frames whose probabilities are there
        self._weights, self._limits = weights, limits
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
            next(self._pictures())
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
        self._soft = self.folder / f"soft-{SIZES.index(size)}"
        self._soft.mkdir(exist_ok=True)
        total = self.video.frame_count or 0
        self.known, self.job = len(list(self._soft.glob("*.png"))), None
        if self.known < total:
            self.known = 0
            self.job = Job(functools.partial(self._compute, size=SIZES.index(size)), total)

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
            with segmenter.stream(self._pictures(), soft=True) as stream:
                for number, soft in enumerate(stream):
                    write_png(self._soft / f"{number:05d}.png", soft, self.folder)
                    job.doing, self.known = "finding the object", number + 1
                    yield
        finally:
            _NETWORK.release()

    def _pictures(self) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """The video's, each of which leaves a small copy for the page."""
        for frame in self.video.frames():
            path = self._preview(frame.index)
            if not path.exists():
                Image.fromarray(_small(frame.picture)).save(path, quality=90)
            yield frame.picture

    def _preview(self, number: int) -> Path:
        return self.folder / "frames" / f"{number:05d}.jpg"

    def soft(self, number: int) -> UInt8[np.ndarray, "H W"]:
        """The probabilities of a frame, 0 to 255."""
        return _read(self._soft / f"{number:05d}.png")

    def show(self, number: int, look: Look, view: str) -> tuple[str, str]:
        """Files with a frame and with what is made of it, one of `VIEWS`."""
        before = self._preview(number)
        if number >= self.known:
            return str(before), str(before)
        picture, mask = _read(before), _small(look.mask(self.soft(number)))
        if view == "Mask":
            drawn = mask
        elif view == "Tinted":
            drawn = draw_overlay(picture, mask)
        else:
            rows, columns = np.indices(mask.shape) // _SQUARE % 2
            board = np.where((rows ^ columns)[..., None], np.uint8(235), np.uint8(255))
            opacity = mask[..., None].astype(np.float32) / np.float32(255)
            drawn = (board + (picture - board.astype(np.float32)) * opacity).astype(np.uint8)
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

        def write(job: Job) -> Generator[None]:
            job.doing = f"writing {path.name}"
            return product.write(self.video, job.total, lambda number: look.mask(self.soft(number)), folder)

        self.job = Job(write, self.known)
        return path

    def stop(self) -> None:
        """Stop what is being computed; what is there stays."""
        if self.job:
            self.job.stop()

    def close(self) -> None:
        """Stop, and delete everything."""
        self.stop()
        self._video, self.known, self.job = None, 0, None
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._uploaded:
            self._uploaded.unlink(missing_ok=True)


def _read(path: Path) -> UInt8[np.ndarray, "H W *channels"]:
    with Image.open(path) as picture:
        return np.asarray(picture)


def _small(picture: UInt8[np.ndarray, "H W *channels"]) -> UInt8[np.ndarray, "h w *channels"]:
    scale = _PREVIEW_SIDE / max(picture.shape[:2])
    if scale >= 1:
        return picture
    size = (round(picture.shape[1] * scale), round(picture.shape[0] * scale))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
