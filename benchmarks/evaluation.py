"""Time of scoring, ours and the authors' release's, on the same files in one run.

    python benchmarks/evaluation.py
    python benchmarks/evaluation.py --release HMHI-Net --python RELEASE_PYTHON

The second also runs the release's code and gives the ratios. `--release` is a clone of the release, `--python` a
Python with torch, opencv-python-headless, scikit-image, joblib and tqdm. Without `--pred` and `--gt` made-up videos
of 854 x 480 are scored. Both sides read the files, both may use all cores (the release: joblib with ten jobs for J
and F, torch's threads for the rest). Starting Python and importing is not counted for either, starting worker
processes is.
"""

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from hmhi_jax.evaluation import evaluate_uvos, evaluate_vsod

_RELEASE_RUN = Path(__file__).with_name("release_scoring.py")


def make_videos(folder: Path, videos: int, frames: int) -> None:
    """Write soft predictions and exact masks of drifting blobs, 854 x 480."""
    y, x = np.mgrid[:480, :854].astype(np.float32)
    generator = np.random.default_rng(0)
    for video in range(videos):
        for kind in ("pred", "gt"):
            (folder / kind / f"video{video}").mkdir(parents=True)
        for frame in range(frames):
            centre = 240 + 60 * np.sin(frame / 5 + video), 250 + 30 * frame % 400
            radius = 70 + 15 * np.sin(np.arctan2(y - centre[0], x - centre[1]) * 5 + video)
            inside = radius - np.hypot(y - centre[0], x - centre[1])
            noise = cv2.resize(generator.normal(size=(60, 107)).astype(np.float32), (854, 480)) * 12
            soft = 255 / (1 + np.exp(-(inside + noise) / 6))
            name = f"{frame:05}.png"
            Image.fromarray(soft.astype(np.uint8)).save(folder / "pred" / f"video{video}" / name)
            Image.fromarray(((inside > 0) * np.uint8(255)).astype(np.uint8)).save(
                folder / "gt" / f"video{video}" / name
            )


def timed(function, *args, **kwargs):
    start = time.perf_counter()
    result = function(*args, **kwargs)
    return time.perf_counter() - start, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pred", type=Path, help="predictions, <video>/<frame>.png")
    parser.add_argument("--gt", type=Path, help="ground truth, <video>/<frame>.png")
    parser.add_argument("--videos", type=int, default=3, help="made-up videos")
    parser.add_argument("--frames", type=int, default=16, help="frames of each")
    parser.add_argument("--release", type=Path, help="a clone of the authors' release")
    parser.add_argument("--python", type=Path, help="a Python with torch, for the release")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        pred, gt = arguments.pred, arguments.gt
        if pred is None or gt is None:
            make_videos(Path(temporary), arguments.videos, arguments.frames)
            pred, gt = Path(temporary) / "pred", Path(temporary) / "gt"
        evaluate_vsod(pred, gt)  # reads the files into the system's cache and imports what is imported late
        seconds, ours = {}, {}
        seconds["J, F"], uvos = timed(evaluate_uvos, pred, gt)
        seconds["MAE, F, E, S"], vsod = timed(evaluate_vsod, pred, gt, extra=False)
        seconds["MAE, F, E, S and sod_*"], _ = timed(evaluate_vsod, pred, gt)
        frames = sum(len(video.frames) for video in uvos.videos.values())
        counted = vsod.frame_count
        print(f"{frames} frames of {len(uvos.videos)} videos; VSOD counts {counted} of them")
        for name, value in seconds.items():
            print(f"ours     {name:24s} {value:7.2f} s  {1e3 * value / frames:8.1f} ms per frame")
        if arguments.release is None:
            return
        command = [arguments.python or "python", _RELEASE_RUN, arguments.release, pred, gt]
        done = subprocess.run(
            [str(command[0]), *(str(Path(part).resolve()) for part in command[1:])],
            check=True,
            capture_output=True,
            text=True,
        )
        theirs = json.loads(done.stdout.splitlines()[-1])
        ours = {"J": uvos["J_mean"], "F": uvos["F_mean"]} | {
            name: vsod[name] for name in ("MAE", "max_F", "max_E", "S")
        }
        for name, key, count in (("J, F", "uvos", frames), ("MAE, F, E, S", "vsod", counted)):
            print(f"release  {name:24s} {theirs[key]:7.2f} s  {1e3 * theirs[key] / count:8.1f} ms per frame")
        # Ours reads the first and last frame too; the release's time is over fewer frames. Ratios are per frame.
        for name, key, count in (("J, F", "uvos", frames), ("MAE, F, E, S", "vsod", counted)):
            print(f"ratio    {name:24s} {theirs[key] / count / (seconds[name] / frames):7.1f}")
        worst = {name: abs(ours[name] - theirs[name]) for name in ours}
        print("differences (the release rounds J and F to 3 digits):", {k: f"{v:.1e}" for k, v in worst.items()})


if __name__ == "__main__":
    main()
