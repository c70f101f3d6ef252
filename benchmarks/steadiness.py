"""What `hmhi segment --steady` does to masks of annotated videos: accuracy against flicker.

    python benchmarks/steadiness.py DAVIS --split train --videos bmx-bumps,car-turn,dog-agility,kite-walk,mallard-water

For each share and video J and F over all frames, and flicker: the share of the picture's pixels whose mask differs from
the mask of the frame before, carried along the optical flow (DIS at the video's size, not the coarser motion that
`--steady` itself follows). The truth flickers too, where things turn, come and go, or the flow is wrong.
"""

import argparse
import itertools
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from rich.progress import track

from hmhi_jax import process
from hmhi_jax.data.flow import FlowRecipe, estimate_flow
from hmhi_jax.data.layouts import open_dataset
from hmhi_jax.data.masks import read_mask
from hmhi_jax.evaluation.measures import boundary_f, jaccard
from hmhi_jax.inference import CleanUp, clean_up
from hmhi_jax.inference.segmenter import VideoSegmenter

RECIPE = FlowRecipe(preset="medium")


def places_before(frames: list[np.ndarray]) -> list[np.ndarray]:
    """Of each frame but the first, where its pixels were in the one before: float32 `[H, W, 2]`, (x, y)."""
    grid = np.indices(frames[0].shape[:2], np.float32)[::-1].transpose(1, 2, 0)
    return [grid + estimate_flow(frame, before, RECIPE) for before, frame in itertools.pairwise(frames)]


def flicker(masks: Iterable[np.ndarray], places: list[np.ndarray]) -> float:
    """Mean over frames; places that were out of view do not count."""
    masks = [np.float32(mask > 127) for mask in masks]
    height, width = masks[0].shape
    values = []
    for (before, mask), where in zip(itertools.pairwise(masks), places, strict=True):
        inside = ((where >= 0) & (where <= (width - 1, height - 1))).all(-1)
        carried = cv2.remap(before, where, None, cv2.INTER_LINEAR)
        values.append(np.abs(mask - carried)[inside].mean())
    return float(np.mean(values))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--split", default="train")
    parser.add_argument("--videos", required=True, help="names separated by commas")
    parser.add_argument("--weights", default="small")
    parser.add_argument("--shares", type=float, nargs="+", default=[0, 0.6, 0.8])
    given = parser.parse_args()
    process.enable_compilation_cache()
    segmenter = VideoSegmenter.load(given.weights)
    dataset = open_dataset(given.dataset, split=given.split).chosen(given.videos.split(","))
    rows: dict[str, list[tuple[float, float, float]]] = {}
    for video in track(dataset.videos):
        frames = [np.asarray(Image.open(path).convert("RGB")) for path in video.frames]
        truths = [np.uint8(255) * (read_mask(path)[..., 0] > 0) for path in video.masks]
        masks, places = list(segmenter.stream(frames)), places_before(frames)
        rows.setdefault("truth", []).append((1, 1, flicker(truths, places)))
        for share in given.shares:
            steady = list(clean_up(masks, CleanUp(steady=share), frames))
            pairs = [(mask > 127, truth > 0) for mask, truth in zip(steady, truths, strict=True)]
            scores = [np.mean([measure(*pair) for pair in pairs]) for measure in (jaccard, boundary_f)]
            rows.setdefault(f"{share:g}", []).append((*scores, flicker(steady, places)))
        for name, row in rows.items():
            print(
                f"{video.name:16} {name:>5}: J {row[-1][0]:.3f}  F {row[-1][1]:.3f}  flicker {row[-1][2]:.3%}",
                flush=True,
            )
    for name, row in rows.items():
        j, f, changed = np.mean(row, 0)
        print(f"{'mean':16} {name:>5}: J {j:.3f}  F {f:.3f}  flicker {changed:.3%}")


if __name__ == "__main__":
    main()
