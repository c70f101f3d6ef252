"""Everything that is written of a video's frames while it is segmented."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import av
import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from hmhi_jax.data.ffmpeg import shown_size
from hmhi_jax.data.video import Frame, Video
from hmhi_jax.inference.annotations import coco_json, youtube_vis_json
from hmhi_jax.inference.lanes import Result
from hmhi_jax.inference.outputs import Outputs
from hmhi_jax.inference.pipeline import StageTimes
from hmhi_jax.inference.result_folder import ResultFolder
from hmhi_jax.inference.sound import Span
from hmhi_jax.inference.video_writer import CUTOUTS, MATTE, MATTE_ODD, OVERLAY, VideoWriter, time_base_of
from hmhi_jax.inference.writers import (
    coloured,
    draw_overlay,
    fit_overlay,
    write_exr,
    write_file,
    write_palette,
    write_png,
)


@dataclasses.dataclass(frozen=True)
class Kept:
    """What is needed of a frame once its mask is there.

    small    at its overlay's size
    picture  whole, if it is written
    decoded  as it came from its file, if a video is made of it
    begin    when it is shown, in the video's time bases
    end      until when
    """

    small: UInt8[np.ndarray, "h w 3"]
    picture: UInt8[np.ndarray, "H W 3"] | None
    decoded: av.VideoFrame | None
    begin: int
    end: int


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A frame's pictures that are no files of their own.

    sheet   draws what the contact sheet shows
    videos  by the videos' names, as these are to be encoded
    """

    sheet: Callable[[], UInt8[np.ndarray, "h w 3"]]
    videos: dict[str, av.VideoFrame]


class ResultWriters:
    """Writes pictures, videos and annotations of a video's frames into its folder of results."""

    def __init__(
        self,
        folder: ResultFolder,
        outputs: Outputs,
        video: Video,
        *,
        overlay: bool,
        begin: int,
        objects: int | None = None,
    ) -> None:
        """`begin` is the number of frames that were written before; ids of numbered objects go from 1 to `objects`."""
        self._folder, self._outputs, self._video = folder, outputs, video
        self._ids = range(1, (objects or 0) + 1)
        self._time_base = time_base_of(video)
        matte = MATTE_ODD if video.size[0] % 2 or video.size[1] % 2 else MATTE
        wanted = [("overlay", OVERLAY, folder.overlay)] if overlay else []
        wanted += [("matte", matte, folder.matte)] if outputs.matte else []
        wanted += [("cutout", CUTOUTS[outputs.cutout], folder.cutout)] if outputs.cutout else []
        self._videos = {
            name: VideoWriter(name, path, folder.workplace, codec, video, begin) for name, codec, path in wanted
        }

    def keep(self, frame: Frame) -> Kept:
        """What `write` needs of a frame."""
        outputs, rate = self._outputs, self._video.frame_rate
        whole = outputs.rgba or (outputs.cutout and frame.decoded is None)
        begin = frame.index / rate if frame.time is None else frame.time
        end = begin + (frame.duration or 1 / rate)
        return Kept(
            fit_overlay(frame.picture),
            frame.picture if whole else None,
            frame.decoded if self._videos.keys() & {"overlay", "cutout"} else None,
            round(begin / self._time_base),
            round(end / self._time_base),
        )

    def write(
        self,
        result: Result,
        mask: UInt8[np.ndarray, "H W"],
        labels: UInt8[np.ndarray, "H W"] | None,
        soft: UInt8[np.ndarray, "H W"] | None,
    ) -> Drawn:
        """Write a frame's pictures and draw what its videos show. May be called from several threads.

        `mask` is 255 where there is an object, `labels` has the ids of numbered ones, `soft` probabilities.
        """
        folder, outputs, kept = self._folder, self._outputs, result.kept
        name = outputs.name(result.index, result.name)
        if "masks" in folder.pictures:
            write_png(folder.picture("masks", name), mask, folder.workplace)
        if soft is not None:
            write_png(folder.picture("soft", name), soft, folder.workplace)
        if outputs.rgba:
            write_png(folder.picture("rgba", name), np.dstack([kept.picture, mask]), folder.workplace)
        if "objects" in folder.pictures:
            ids = (mask > 127).view(np.uint8) if labels is None else labels
            write_palette(folder.picture("objects", name), ids, folder.workplace)
        if outputs.exr:
            channels = {f"object{number}.A": np.where(labels == number, mask, 0) for number in self._ids}
            write_exr(folder.picture("exr", name), channels or {"object1.A": mask}, folder.workplace)
        masks = functools.cache(lambda: coloured(mask, labels))  # nobody may ask
        videos = {}
        if overlay := self._videos.get("overlay"):
            same = kept.decoded is not None and shown_size(kept.decoded) == kept.small.shape[:2]
            videos["overlay"] = overlay.draw_marked(kept.decoded if same else kept.small, masks())
        if matte := self._videos.get("matte"):
            videos["matte"] = matte.draw_grey(mask)
        if cutout := self._videos.get("cutout"):
            videos["cutout"] = cutout.draw(kept.picture if kept.decoded is None else kept.decoded, mask)
        return Drawn(lambda: draw_overlay(kept.small, masks()), videos)

    def add(self, drawn: Drawn, time: int, stages: StageTimes) -> None:
        """Encode the next frame of each video."""
        for name, frame in drawn.videos.items():
            with stages.measure(name):
                self._videos[name].add(frame, time)

    def cut(self) -> None:
        """Make sure that what was added survives."""
        for video in self._videos.values():
            video.cut()

    def finish(self, names: Sequence[str], times: Sequence[int], stages: StageTimes) -> None:
        """Give the videos their names, and write annotations.

        Args:
            names: of all frames.
            times: when each is shown, and after the last of them when it ends, in the video's time bases.
            stages: where the seconds are noted.
        """
        video = self._video
        begin = times[0] if video.first else 0  # what does not begin with the file's first frame begins at 0
        to_its_end = not video.live and video.to_its_end and len(names) >= (video.frame_count or 0)
        span = Span(begin * self._time_base, None if to_its_end else times[-1] * self._time_base)
        for name, writer in self._videos.items():
            with stages.measure(name):
                writer.finish([time - begin for time in times], span)
        self._annotate(names)

    def _annotate(self, names: Sequence[str]) -> None:
        outputs, folder, video = self._outputs, self._folder, self._video
        files = dict(zip(video.frame_names() or (), video.frame_files() or (), strict=True))
        shown = [files.get(name, f"{name}.png") for name in names]

        def read_labels(frame: int) -> UInt8[np.ndarray, "H W"]:
            if self._ids:
                return np.asarray(Image.open(folder.picture("objects", names[frame])))
            mask = cv2.imread(str(folder.picture("masks", names[frame])), cv2.IMREAD_GRAYSCALE)
            return (mask > 127).astype(np.uint8)

        for wanted, path, encode in (
            (outputs.coco, folder.coco, coco_json),
            (outputs.youtube_vis, folder.youtube_vis, youtube_vis_json),
        ):
            if wanted:
                write_file(path, encode(shown, video.size, read_labels), folder.workplace)

    def close(self) -> None:
        """Let go of all files, whatever state they are in."""
        for video in self._videos.values():
            video.close()
