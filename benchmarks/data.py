"""Training clips per second: this pipeline beside the release's loader, on the same pictures.

    python benchmarks/data.py --dataset DAVIS --flows FLOWS --release CLONE --python PY

PY is a Python with torch, torchvision and OpenCV. Without --release only this pipeline is measured, without --dataset
on made-up pictures. Runs alternate, each in a process of its own; the best of each is printed, since others may be
using the machine. "per core" is clips per second of CPU time of one process without workers; "1 worker" is wall-clock
time with one worker process, which is what a training step waits for.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


def make_up(root: Path, videos: int = 6, frames: int = 30) -> None:
    """Pictures with about the detail of photographs, as a data set in the release's layout."""
    import cv2
    import numpy as np

    rng = np.random.default_rng(0)
    for video in range(videos):
        levels = [rng.normal(0, 90 / (level + 1), (480 >> level, 854 >> level, 3)) for level in range(7)]
        scene = sum(cv2.resize(level, (854, 480)) for level in levels)
        scene = np.clip(128 + scene, 0, 255).astype(np.uint8)
        for kind in ("frame", "flow", "mask"):
            (root / kind / "train" / f"video{video}").mkdir(parents=True)
        for frame in range(frames):
            name = f"train/video{video}/{frame:05d}"
            moved = np.roll(scene, 3 * frame, axis=1)
            cv2.imwrite(f"{root}/frame/{name}.jpg", moved)
            cv2.imwrite(f"{root}/flow/{name}.jpg", cv2.GaussianBlur(moved, (0, 0), 15))
            mask = cv2.ellipse(np.zeros((480, 854), np.uint8), (200 + 3 * frame, 240), (90, 150), 0, 0, 360, 255, -1)
            cv2.imwrite(f"{root}/mask/{name}.png", mask)


def link(dataset, root: Path) -> None:
    """A data set of any layout in the release's, by symbolic links."""
    for video in dataset.videos:
        for kind, pictures in (("frame", video.frames), ("flow", video.flows), ("mask", video.masks)):
            folder = root / kind / "train" / video.name
            folder.mkdir(parents=True)
            for picture in pictures:
                suffix = picture.suffix
                (folder / f"{picture.stem}{suffix}").symlink_to(picture.resolve())


def ours(folder: str, reading: str, per: str, size: int, frames: int, batch: int, workers: int, seconds: float) -> None:
    """Measure this pipeline in this process; prints one line of JSON."""
    import cv2

    from hmhi_jax.data.augmentation import Augmentation
    from hmhi_jax.data.clips import ClipSampling
    from hmhi_jax.data.layouts import entries_of, open_dataset
    from hmhi_jax.data.pipeline import BatchLoader, ClipPipeline, PipelineConfig

    cv2.setNumThreads(1)
    config = PipelineConfig(
        batch_size=batch,
        sizes=((size, size),),
        sampling=ClipSampling(frames=frames),
        augmentation=Augmentation(per=per),
        reading=reading,
        on_corrupt="fatal",
        workers=workers,
    )
    entries = entries_of([(open_dataset(folder), 1)])
    pipeline = ClipPipeline(entries, config) if workers else map(BatchLoader(entries, config), range(10**9))
    next(pipeline)
    clips, wall, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - wall < seconds:
        made = next(pipeline)
        clips += len(made["frames"])
    shape = list(made["frames"].shape)
    print(
        json.dumps(
            {"clips": clips, "wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "shape": shape}
        )
    )
    if workers:
        pipeline.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, help="a data set with flow pictures, in any layout")
    parser.add_argument("--flows", type=Path, help="its flow pictures, when elsewhere")
    parser.add_argument("--release", type=Path, help="a clone of the authors' release")
    parser.add_argument("--python", default=sys.executable, help="a Python with torch and torchvision")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--frames", type=int, default=5)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=6, help="of each run")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()

    from hmhi_jax.data.layouts import open_dataset
    from hmhi_jax.data.packing import PackedForm, pack_dataset

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "folder")
        if arguments.dataset:
            link(open_dataset(arguments.dataset, flows=arguments.flows), folder)
        else:
            make_up(folder)
        dataset = open_dataset(folder)
        packed, small = Path(scratch, "packed"), Path(scratch, "small")
        pack_dataset(dataset, packed)
        pack_dataset(dataset, small, PackedForm(size=(arguments.size, arguments.size)))
        tail = [arguments.size, arguments.frames, arguments.batch]
        runs = {
            "folder, exact": (folder, "exact", "clip"),
            "folder, exact, drawn per frame": (folder, "exact", "frame"),
            "folder, fast": (folder, "fast", "clip"),
            "packed as it is, exact": (packed, "exact", "clip"),
            "packed as it is, fast": (packed, "fast", "clip"),
            f"packed at {arguments.size}, quality 95": (small, "exact", "clip"),
        }
        commands = {}
        for workers in (0, 1):
            if arguments.release:
                script = Path(__file__).with_name("release_loader.py")
                commands["release", workers] = [arguments.python, script, arguments.release, folder, *tail, workers]
            for name, (source, reading, per) in runs.items():
                commands[name, workers] = [sys.executable, __file__, "--ours", source, reading, per, *tail, workers]
        best: dict[tuple[str, int], float] = {}
        for _ in range(arguments.rounds):
            for (name, workers), command in commands.items():
                words = [str(word) for word in [*command, arguments.seconds]]
                done = subprocess.run(words, capture_output=True, text=True, env=os.environ | ONE_THREAD)
                if done.returncode:
                    sys.exit(f"{name}: {done.stderr.strip().splitlines()[-1] if done.stderr else done.returncode}")
                found = json.loads(done.stdout.splitlines()[-1])
                rate = found["clips"] / (found["wall"] if workers else found["cpu"])
                best[name, workers] = max(best.get((name, workers), 0), rate)
        frames = sum(len(video) for video in dataset.videos)
        print(
            f"{len(dataset)} videos, {frames} frames; "
            f"clips of {arguments.frames} at {arguments.size} x {arguments.size}"
        )
        print(f"{'':34}{'per core':>10}{'ratio':>8}{'1 worker':>12}{'ratio':>8}   (clips/s)")
        for name in dict.fromkeys(name for name, _ in commands):
            cells = ""
            for workers in (0, 1):
                base = best.get(("release", workers))
                ratio = f"{best[name, workers] / base:.1f}x" if base else "-"
                cells += f"{best[name, workers]:>{12 if workers else 10}.1f}{ratio:>8}"
            print(f"{name:34}{cells}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--ours"]:
        source, reading, per, size, frames, batch, workers, seconds = sys.argv[2:]
        ours(source, reading, per, int(size), int(frames), int(batch), int(workers), float(seconds))
    else:
        main()
