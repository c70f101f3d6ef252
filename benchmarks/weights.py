"""Scores of a set of weights on annotated videos, and what each part of the memory is worth to them.

    python benchmarks/weights.py DAVIS
    python benchmarks/weights.py DAVIS --videos blackswan,dog --weights runs/mine --variants all
    python benchmarks/weights.py --clips runs/val --variants all

The first takes a data set in any layout `hmhi inspect` knows and prints J and F of every video by the official protocol
(each frame stretched between its least and largest probability, then cut at one half) and with a plain threshold of
one half. `--clips` takes a folder of `hmhi synthesise` instead and prints J with the plain threshold. A variant is
the same network with the same weights, with a part switched off.
"""

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from rich.progress import track

from hmhi_jax import process
from hmhi_jax.data.layouts import Dataset, open_dataset
from hmhi_jax.evaluation import evaluate_uvos
from hmhi_jax.evaluation.measures import jaccard
from hmhi_jax.inference.segmenter import VideoSegmenter
from hmhi_jax.interop.weights import load_weights
from hmhi_jax.models import build_model

OFF = {
    "full": {},
    "no SGIM": {"sgim": False},
    "no PLAM": {"plam": False},
    "no SGIM, no PLAM": {"sgim": False, "plam": False},
    "no shallow bank": {"shallow_memory": False, "sgim": False, "plam": False},
    "no deep bank": {"deep_memory": False, "sgim": False, "plam": False},
    "no memory": {"shallow_memory": False, "deep_memory": False, "sgim": False, "plam": False},
}
PARTS = {
    "shallow_memory": "shallow_bank", "deep_memory": "deep_bank", "sgim": "sgim_module", "plam": "plam_module",
}  # fmt: skip


def variants(weights: str, wanted: str) -> Iterator[tuple[str, VideoSegmenter]]:
    """The network as it is, or also with parts off; what the weights have not cannot be switched off."""
    loaded = load_weights(weights)
    have = build_model(**loaded.model_arguments)
    for name, off in OFF.items():
        if name != "full" and (wanted == "full" or not any(getattr(have, switch) for switch in off)):
            continue
        model = build_model(**{**loaded.model_arguments, **off})
        gone = {PARTS[switch] for switch in PARTS if not getattr(model, switch)}
        params = {part: tree for part, tree in loaded.variables["params"].items() if part not in gone}
        yield (
            name,
            VideoSegmenter(
                model, {**loaded.variables, "params": params}, size=loaded.input_size, flow_recipe=loaded.flow_recipe
            ),
        )


def score_videos(segmenter: VideoSegmenter, dataset: Dataset, videos: list[str], name: str) -> dict:
    """J and F of every video and their means, by reading; and frames per second, flow and pictures included."""
    chosen = [video for video in dataset.videos if not videos or video.name in videos]
    frames, started = 0, time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for video in track(chosen, description=f"{name:18}", transient=True):
            (Path(folder) / video.name).mkdir()
            pictures = (np.asarray(Image.open(path).convert("RGB")) for path in video.frames)
            masks = segmenter.stream(pictures, soft=True)
            for frame_name, mask in zip(video.frame_names, masks, strict=True):
                Image.fromarray(mask).save(Path(folder) / video.name / f"{frame_name}.png", compress_level=1)
                frames += 1
        rate = frames / (time.perf_counter() - started)
        result: dict = {"frames/s": rate}
        for label, reading in (("official", "release"), ("plain", "plain")):
            scores = evaluate_uvos(folder, dataset, reading=reading, videos=[video.name for video in chosen])
            result[label] = {
                video: {figure: float(values[figure]) for figure in ("J_mean", "F_mean")}
                for video, values in {**scores.videos, "mean": scores}.items()
            }
    return result


def score_clips(segmenter: VideoSegmenter, folder: Path, count: int, name: str, sheet: Path | None) -> float:
    """Mean J over all frames of the first `count` clips. `sheet` gets a picture of the six with the lowest J: two rows
    each, frames with the outline of the truth and flow pictures, then the same with the outline of what was found."""
    from hmhi_jax.data.records import PackedDataset
    from hmhi_jax.tools.synthetic.datasets import contact_sheet, read_clip

    scored, frames = [], []
    for video in track(list(PackedDataset(folder))[:count], description=f"{name:18}", transient=True):
        clip = read_clip(video)
        masks = np.stack(list(segmenter.stream(iter(clip.frames), flows=iter(clip.flows))))
        values = [jaccard(mask > 0, truth > 0) for mask, truth in zip(masks, clip.masks, strict=True)]
        frames += values
        scored.append((float(np.mean(values)), clip, dataclasses.replace(clip, masks=np.uint8(masks > 0))))
    if sheet is not None:
        worst = sorted(scored, key=lambda one: one[0])[:6]
        Image.fromarray(contact_sheet(clip for _, *pair in worst for clip in pair)).save(sheet)
        print(f"{sheet}: J {', '.join(f'{value:.2f}' for value, *_ in worst)} from top to bottom")
    return float(np.mean(frames))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", nargs="?", type=Path, help="folder of annotated videos, such as DAVIS")
    parser.add_argument("--split", default="val")
    parser.add_argument("--videos", default="", help="names separated by commas; all if not given")
    parser.add_argument("--clips", type=Path, help="folder of `hmhi synthesise`")
    parser.add_argument("--count", type=int, default=100, help="clips of it to take")
    parser.add_argument("--weights", default="tiny")
    parser.add_argument("--variants", choices=("full", "all"), default="full")
    parser.add_argument("--sheet", type=Path, help="a picture of the six clips with the lowest J goes there")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    arguments = parser.parse_args()
    process.enable_compilation_cache()
    if (arguments.dataset is None) == (arguments.clips is None):
        parser.error("give a data set or --clips")
    found: dict = {}
    for name, segmenter in variants(arguments.weights, arguments.variants):
        if arguments.clips:
            sheet = arguments.sheet if name == "full" else None
            found[name] = score_clips(segmenter, arguments.clips, arguments.count, name, sheet)
            print(f"{name:18} J {found[name]:.3f}", flush=True)
            continue
        dataset = open_dataset(arguments.dataset, split=arguments.split)
        videos = [video for video in arguments.videos.split(",") if video]
        found[name] = score_videos(segmenter, dataset, videos, name)
        print(f"{name}: {found[name]['frames/s']:.1f} frames/s")
        for label in ("official", "plain"):
            for video, values in found[name][label].items():
                print(f"  {label:9} {video:16} J {values['J_mean']:.3f}  F {values['F_mean']:.3f}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
