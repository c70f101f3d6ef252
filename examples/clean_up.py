"""Tidy the masks of a finished `hmhi segment` again and again, without the network, and draw what each step does.

    hmhi segment clip.mp4 -o out
    python examples/clean_up.py clip.mp4 out --frame 38 --to docs/images

Writes one picture a step, `clean_up_<step>.jpg`: before on the left, after on the right, of the part of the frame where
they differ most. For `steady` the frame's mask is emptied first, as if the network had failed for a moment.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np

from hmhi_jax.data.open_videos import open_videos
from hmhi_jax.data.pictures import read_picture
from hmhi_jax.inference import CleanUp, clean_up

PANEL = (220, 320)  # height and width of the part that is shown, and of a panel


def cut_out(frame: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The frame with everything but the object pale and grey."""
    share = mask[..., None].astype(np.float32) / 255
    pale = 255 - (255 - cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)[..., None].repeat(3, 2)) * 0.25
    return np.rint(frame * share + pale * (1 - share)).astype(np.uint8)


def side_by_side(frame: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Both cut-outs, of the window in which the masks differ most."""
    height, width = (min(panel, side) for panel, side in zip(PANEL, frame.shape[:2], strict=True))
    change = cv2.absdiff(before, after).astype(np.float32)
    centres = cv2.GaussianBlur(change, (0, 0), 40)
    row, column = np.unravel_index(centres.argmax(), centres.shape)
    top = int(np.clip(row - height // 2, 0, frame.shape[0] - height))
    left = int(np.clip(column - width // 2, 0, frame.shape[1] - width))
    window = np.s_[top : top + height, left : left + width]
    panels = [cut_out(frame[window], mask[window]) for mask in (before, after)]
    return np.hstack([panels[0], np.full((height, 6, 3), 255, np.uint8), panels[1]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video")
    parser.add_argument("results", type=Path)
    parser.add_argument("--frame", type=int, default=38)
    parser.add_argument("--to", type=Path, default=Path("."))
    options = parser.parse_args()
    masks = [read_picture(path)[..., 0] for path in sorted((options.results / "masks").glob("*.png"))]
    frames = [frame.picture for frame, _ in zip(open_videos([options.video])[0].frames(), masks, strict=False)]

    mask, frame = masks[options.frame], frames[options.frame]
    failing = [*masks[: options.frame], np.zeros_like(mask)]
    *_, steady = clean_up(failing, CleanUp(steady=0.6), frames[: options.frame + 1])
    small = [cv2.resize(x, None, fx=0.4, fy=0.4, interpolation=cv2.INTER_AREA) for x in (frame, failing[-1], steady)]
    shown = {"steady": side_by_side(*small)}
    for step, change in {
        "min_area": CleanUp(min_area=2000),
        "fill_holes": CleanUp(fill_holes=2000),
        "grow": CleanUp(grow=-4),
        "feather": CleanUp(feather=8),
    }.items():
        shown[step] = side_by_side(frame, mask, change.frame(mask))
    for step, picture in shown.items():
        path = options.to / f"clean_up_{step}.jpg"
        cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85])
        print(path)


if __name__ == "__main__":
    main()
