"""Masks as annotations for labelling and evaluation tools: COCO and YouTube-VIS, masks as COCO's run lengths."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

ReadLabels = Callable[[int], UInt8[np.ndarray, "H W"]]
_CATEGORIES = [{"id": 1, "name": "object", "supercategory": "object"}]


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
        for number, segment in _objects(read_labels(frame)):
            rle, area, box = segment
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
