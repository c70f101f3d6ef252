"""Segment many videos on a Ray cluster: as many workers as asked for, each with the network loaded once.

    pip install "ray[data]"
    python examples/ray_segment.py VIDEOS OUT --workers 2 [--weights small] [--gpus 1]

VIDEOS (a folder, or files) and OUT must be places that all machines of the cluster see. Started again it skips what is
finished and goes on with what is not, whichever worker had it before. A video that cannot be segmented costs the others
nothing: its line says why, and the program ends with exit code 1 (2 if no video came out).
"""

import argparse
import sys
from pathlib import Path

import ray

from hmhi_jax.data.open_videos import find_videos, open_videos
from hmhi_jax.errors import InputError
from hmhi_jax.inference.result_folder import ResultFolder
from hmhi_jax.inference.segmenter import VideoSegmenter
from hmhi_jax.inference.video_job import JobOptions, segment_video


class Segmenter:
    """One worker."""

    def __init__(self, weights: str, out: str) -> None:
        self.segmenter, self.weights, self.out = VideoSegmenter.load(weights), weights, Path(out)

    def __call__(self, row: dict) -> dict:
        """One video, opened here, where it is read."""
        try:
            (video,) = open_videos([row["path"]])
            folder = ResultFolder(self.out / row["name"], {"input": video.fingerprint(), "weights": self.weights})
            if folder.status() != "finished":
                folder.check_writable()
                segment_video(self.segmenter, video, folder, JobOptions())
            summary = folder.read_summary()
            return {**row, "frames": summary["frames"], "error": ""}
        except InputError as error:
            return {**row, "frames": 0, "error": str(error)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="+")
    parser.add_argument("out", type=Path)
    parser.add_argument("--weights", default="small")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--gpus", type=float, default=0, help="of each worker; a part of one will do")
    given = parser.parse_args()
    found = find_videos(given.videos)
    rows = [{"name": video.name, "path": str(Path(video.path).resolve())} for video in found.videos]
    done = (
        ray.data.from_items(rows, override_num_blocks=len(rows))
        .map(
            Segmenter,
            fn_constructor_args=(given.weights, str(given.out.resolve())),
            # A worker is handed one video at a time, not several that others could have begun.
            compute=ray.data.ActorPoolStrategy(size=given.workers, max_tasks_in_flight_per_actor=1),
            num_gpus=given.gpus,
        )
        .take_all()
    )
    for row in sorted(done, key=lambda row: row["name"]):
        if not row["error"]:
            print(f"{row['name']}: {row['frames']} frames in {given.out / row['name']}")
    errors = found.failures + [row["error"] for row in done if row["error"]]
    for error in errors:
        print(f"error: {error}", file=sys.stderr)
    sys.exit((1 if len(errors) < len(found.failures) + len(done) else 2) if errors else 0)


if __name__ == "__main__":
    main()
