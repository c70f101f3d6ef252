"""A comparison from its options to its verdict: weights and frames for both sides, both sides, the report."""

import contextlib
import json
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from hmhi_jax.data.flow import FlowRecipe, neighbours_of
from hmhi_jax.data.open_videos import open_videos
from hmhi_jax.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD, resize_picture
from hmhi_jax.errors import InputError
from hmhi_jax.inference.learned_flow import flow_source, picture_from
from hmhi_jax.interop.conversion import variables_of, write_torch_checkpoint
from hmhi_jax.interop.identify import identify
from hmhi_jax.interop.torch_weights import expected_entries, from_torch, to_torch
from hmhi_jax.interop.weight_sources import read_source
from hmhi_jax.models import build_model
from hmhi_jax.tools.compare import sides as compare_sides
from hmhi_jax.tools.compare.report import report_inference, report_training
from hmhi_jax.tools.compare.sides import recipe_state_dict

# What the release's constructor takes; our side takes every argument.
_SWITCHES = ("backbone", "memory_frames", "shallow_memory", "deep_memory", "sgim", "plam")


def compare(
    release: Path,
    video: str,
    *,
    checkpoint: Path | None,
    python: str,
    device: str,
    backbone: str,
    seed: int,
    size: int,
    frames: int,
    memory_frames: int | None,
    train: int,
    clip_frames: int,
    tolerance: float,
    flow: str | None,
    out: Path | None,
    keep: bool,
) -> bool:
    """Do what `hmhi compare` was asked for; the arguments are its options. Returns whether the two sides agree."""
    recipe = FlowRecipe.from_json(flow) if flow is not None else None
    arguments, variables, recipe = _weights(checkpoint, backbone, memory_frames, recipe)
    clone = release.expanduser().absolute()
    compare_sides.check_release(clone, python, device, arguments)
    folder = (out or Path(f"compare-{arguments['backbone']}{'-train' if train else ''}")).expanduser().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {folder}: no folder can be made there ({error.strerror})") from None
    model = build_model(**arguments)
    try:
        with tempfile.TemporaryDirectory(prefix=".arrays-", dir=folder) as work:
            place = folder / "arrays" if keep else Path(work)
            place.mkdir(exist_ok=True)
            weights = _write_weights(model, variables, checkpoint, place, seed)
            pictures = _write_clip(place / "clip.npz", video, size, frames, recipe, clip_frames if train else 0)
            request = {
                "clone": str(clone),
                "model": {name: getattr(model, name) for name in _SWITCHES},
                "device": device,
                "weights": str(weights),
                "clip": str(place / "clip.npz"),
                "mode": "train" if train else "infer",
                "steps": train,
                "learning_rate": 6e-5,
            }
            plain = {name: value for name, value in arguments.items() if isinstance(value, bool | int | str | None)}
            ours = {**request, "model": plain}
            sides = []
            what = f"{train} training steps" if train else f"{len(pictures)} frames"
            for name, command, asked in (
                ("release", compare_sides.release_command(python), request),
                ("ours", compare_sides.our_command(), ours),
            ):
                with Console(stderr=True).status(f"{name}: {what}"):
                    sides.append(compare_sides.run_side(command, name, place, asked, folder / f"{name}.log"))
            facts = {
                "video": Path(video).name,
                "frames": len(pictures),
                "size": size,
                "backbone": arguments["backbone"],
                "memory_frames": model.memory_frames,
                "weights": checkpoint.name if checkpoint else f"recipe, seed {seed}",
                "flow": json.loads(recipe.to_json()),
                "tolerance": tolerance,
            }
            good = (report_training if train else report_inference)(folder, facts, *sides, pictures, weights)
    finally:
        with contextlib.suppress(OSError):
            folder.rmdir()  # if nothing came of it
    print(f"wrote {folder / 'report.json'} and {folder / 'report.html'}")
    return good


def _weights(
    checkpoint: Path | None, backbone: str, memory_frames: int | None, recipe: FlowRecipe | None
) -> tuple[dict[str, Any], Any, FlowRecipe]:
    """Arguments of the network, its variables (None: drawn later), the flow recipe."""
    if checkpoint is None:
        return {"backbone": backbone, "memory_frames": memory_frames or 3}, None, recipe or FlowRecipe()
    found = identify(read_source(checkpoint))
    if not found.whole:
        raise InputError(f"{checkpoint}: an encoder alone, expected weights of a whole network")
    arguments = dict(found.model_arguments)
    if memory_frames is not None:
        arguments["memory_frames"] = memory_frames
    header = found.source.header
    stored = FlowRecipe.from_json(json.dumps(header["flow"])) if "flow" in header else FlowRecipe()
    return arguments, variables_of(found), recipe or stored


def _write_weights(model: Any, variables: Any, checkpoint: Path | None, place: Path, seed: int) -> Path:
    """Weights as both sides read them: the release's own file where there is one, else one written in its layout."""
    if checkpoint is not None and checkpoint.is_file() and read_source(checkpoint).wrapper == "network":
        return checkpoint.absolute()
    if variables is None:
        shapes = {name: entry.shape for name, entry in expected_entries(model).items()}
        variables = from_torch(model, recipe_state_dict(shapes, seed))
    path = place / "weights.pth"
    write_torch_checkpoint(path, {"network": to_torch(model, variables)})
    return path


def _write_clip(
    path: Path, video: str, size: int, count: int, recipe: FlowRecipe, clip_frames: int
) -> list[np.ndarray]:
    """Frames and flow pictures as the network takes them, written for both sides; returns the frames, uint8.

    With `clip_frames` they are cut into clips of that length, with a made-up target for each frame: a disk that moves,
    since a comparison of training steps needs some mask and no particular one.
    """
    opened = open_videos([video])
    if len(opened) > 1:
        names = ", ".join(one.name for one in opened[:3])
        raise InputError(f"--input {video}: holds {len(opened)} videos ({names}, ...); name one of them")
    wanted = max(count, clip_frames)
    taken = [frame.picture for frame in islice(opened[0].frames(), wanted + 1)]
    if len(taken) < 2:
        raise InputError(f"{video}: has {len(taken)} frames, expected at least 2 (flow goes from one to the next)")
    rgb = taken[:wanted]
    flows, source = [], flow_source(recipe, None)
    for t in range(len(rgb)):
        other, opposite = neighbours_of(t, len(taken), recipe)
        flows.append(picture_from(source, taken[t], taken[other], None if opposite is None else taken[opposite]))

    def ready(pictures: list[np.ndarray]) -> np.ndarray:
        small = np.stack([resize_picture(picture, (size, size)) for picture in pictures])
        mean, deviation = (np.array(figures, np.float32) for figures in (IMAGENET_MEAN, IMAGENET_STD))
        return (small.astype(np.float32) / 255 - mean) / deviation

    arrays = {"frames": ready(rgb)[None], "flows": ready(flows)[None]}
    if clip_frames:
        clips = len(rgb) // clip_frames
        if not clips:
            raise InputError(f"{video}: has {len(rgb)} frames, expected {clip_frames} for a clip")
        cut = clips * clip_frames
        arrays = {k: v[0, :cut].reshape(clips, clip_frames, *v.shape[2:]) for k, v in arrays.items()}
        b, t, y, x = np.ogrid[:clips, :clip_frames, :size, :size]
        centre = (size * (0.45 + 0.02 * t), size * (0.4 + 0.03 * t + 0.02 * b))
        disk = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < (size / 4) ** 2
        arrays["masks"] = disk[..., None].astype(np.float32)
    compare_sides.write_clip(path, **arrays)
    return rgb
