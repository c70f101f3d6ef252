"""Everything that is written of a video's frames while it is segmented, and of all of them in the end: annotations for
labelling and evaluation tools, COCO and YouTube-VIS, with masks as COCO's run lengths."""

import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from typing import Any

import av
import cv2
import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from hmhi_jax.data.ffmpeg import shown_size
from hmhi_jax.data.video import Frame, Video
from hmhi_jax.inference.lanes import Result
from hmhi_jax.inference.pipeline import StageTimes
from hmhi_jax.inference.result_folder import Outputs, ResultFolder
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

ReadLabels = Callable[[int], UInt8[np.ndarray, "H W"]]
_CATEGORIES = [{"id": 1, "name": "object", "supercategory": "object"}]


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


def coco_json(files: Sequence[str], size: tuple[int, int], read_labels: ReadLabels) -> bytes:
    """COCO's instances of a video: an image a frame, an annotation for each object in it.

    Args:
        files: names of the frames' pictures.
        size: (height, width) of the frames.
        read_labels: gives the object ids of a frame by its number, 0 where there is none.
    """
    images, annotations = [], []
    for frame, file in enumerate(files):
        images.append({"id": frame + 1, "file_name": file, "height": size[0], "width": size[1]})
        for number, (rle, area, box) in _objects(read_labels(frame)):
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": frame + 1, "category_id": 1, "segmentation": rle,
                    "area": area, "bbox": box, "iscrowd": 0, "attributes": {"track_id": number},
                }
            )  # fmt: skip
    return json.dumps({"images": images, "annotations": annotations, "categories": _CATEGORIES}).encode()


def youtube_vis_json(files: Sequence[str], size: tuple[int, int], read_labels: ReadLabels) -> bytes:
    """The same as YouTube-VIS has it: a video, and an annotation for each object with its masks of all frames, None
    where it is not seen."""
    tracks: dict[int, list[tuple[Any, Any, Any]]] = {}
    for frame in range(len(files)):
        for number, segment in _objects(read_labels(frame)):
            tracks.setdefault(number, [(None, None, None)] * len(files))[frame] = segment
    height, width = size
    annotations = []
    for number, track in sorted(tracks.items()):
        segmentations, areas, boxes = zip(*track, strict=True)
        annotations.append(
            {
                "id": number, "video_id": 1, "category_id": 1, "segmentations": segmentations, "areas": areas,
                "bboxes": boxes, "iscrowd": 0, "height": height, "width": width, "length": len(files),
            }
        )  # fmt: skip
    video = {"id": 1, "height": height, "width": width, "length": len(files), "file_names": list(files)}
    return json.dumps({"videos": [video], "annotations": annotations, "categories": _CATEGORIES}).encode()


def _objects(labels: UInt8[np.ndarray, "H W"]) -> list[tuple[int, tuple[dict[str, Any], int, list[int]]]]:
    """Of each object its id and (mask, area, box [x, y, width, height])."""
    return [(int(number), _segment(labels == number)) for number in np.unique(labels) if number]


def _segment(mask: Bool[np.ndarray, "H W"]) -> tuple[dict[str, Any], int, list[int]]:
    from pycocotools import mask as coco

    rle = coco.encode(np.asfortranarray(mask.view(np.uint8)))  # columns first
    rle["counts"] = rle["counts"].decode("ascii")
    return rle, int(coco.area(rle)), [int(side) for side in coco.toBbox(rle)]
