"""A comparison from its options to its verdict: weights and frames for both sides, both sides, the report.

Both sides are processes of their own, so that time and memory are theirs alone, and the release's side runs in any
Python that has PyTorch. What goes between them is one folder: a request, arrays, a report; and weights that anyone can
draw from a seed with NumPy alone, for where no trained ones are at hand.
"""

import contextlib
import json
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Mapping
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
from hmhi_jax.models.backbones import spec
from hmhi_jax.tools.compare.comparison import Side
from hmhi_jax.tools.compare.report import report_inference, report_training

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
    check_release(clone, python, device, arguments)
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
                ("release", release_command(python), request),
                ("ours", our_command(), ours),
            ):
                with Console(stderr=True).status(f"{name}: {what}"):
                    sides.append(run_side(command, name, place, asked, folder / f"{name}.log"))
            facts = {
                "video": Path(video).name,
                "frames": len(pictures),
                "size": size,
                "backbone": arguments["backbone"],
                "memory_frames": model.memory_frames,
                "weights": checkpoint.name if checkpoint else f"recipe, seed {seed}",
                "flow": recipe.fields(),
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
    stored = FlowRecipe.from_fields(header["flow"]) if "flow" in header else FlowRecipe()
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
    write_clip(path, **arrays)
    return rgb


def recipe_weight(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """The value of state-dict entry `name` (PyTorch's layout), float32; each entry has its own stream of numbers.

    Matrices have the variance 2 / fan in that keeps signals alive through ReLU, norms stay near the identity, and
    position tables and layer scales are large enough to matter.
    """
    stream = np.random.PCG64(zlib.crc32(f"{seed}:{name}".encode()))
    x = np.random.Generator(stream).standard_normal(shape).astype(np.float32)
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if leaf == "running_var":
        return 1 + 0.1 * np.abs(x)
    if leaf in ("running_mean", "bias"):
        return 0.1 * x
    if leaf == "relative_position_bias_table":
        return 0.5 * x
    if leaf == "gamma":
        return 0.5 + 0.1 * x
    if len(shape) == 1:  # the scales of norms
        return 1 + 0.1 * x
    return x * np.float32(np.sqrt(2.0 / np.prod(shape[1:])))


def recipe_state_dict(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    """A state dict with every entry drawn from the seed."""
    return {name: recipe_weight(name, tuple(shape), seed) for name, shape in shapes.items()}


# --- the two processes -----------------------------------------------------------------------------------------------

RELEASE_SCRIPT = Path(__file__).with_name("release_process.py")
# Encoders that the release's network can be built with; see `release_process`.
RELEASE_BACKBONES = ("mit_b1", "mit_b2", "mit_b3", "mit_b4", "mit_b5", "swin_tiny", "swin_small")


def check_release(clone: Path, python: str, device: str, arguments: Mapping[str, Any]) -> None:
    """Raises `InputError` if the clone, its Python or device cannot do, or cannot build what was asked for."""
    backbone = arguments["backbone"]
    if not (clone / "lib" / "HMHI_Net.py").is_file():
        raise InputError(
            f"--release {clone}: no clone of the authors' release (lib/HMHI_Net.py is missing); "
            "git clone https://github.com/ZhengxyFlow/HMHI-Net"
        )
    if backbone not in RELEASE_BACKBONES:
        raise InputError(
            f"backbone {backbone}: the release's network can be built with {', '.join(RELEASE_BACKBONES)} only"
        )
    for name, theirs in _built_in(backbone).items():
        ours = theirs if arguments.get(name) is None else arguments[name]
        if ours != theirs:
            raise InputError(
                f"{name} {ours}: the release's network has {theirs} built in; compare weights that have it"
            )
    try:
        subprocess.run([python, "-c", "import torch, numpy"], check=True, capture_output=True, text=True, timeout=300)
    except FileNotFoundError:
        raise InputError(f"--python {python}: no such program; name a Python that has torch and numpy") from None
    except (subprocess.SubprocessError, OSError) as error:
        reason = _last_line(getattr(error, "stderr", "") or str(error))
        raise InputError(f"--python {python}: cannot import torch and numpy ({reason})") from None
    probe = [python, "-c", "import sys, torch; torch.zeros(1, device=sys.argv[1])", device]
    answer = subprocess.run(probe, capture_output=True, text=True, timeout=300)
    if answer.returncode:
        reason = _last_line(answer.stderr)
        raise InputError(f"--device {device}: PyTorch cannot use it ({reason}); expected cpu or cuda")


def _built_in(backbone: str) -> dict[str, Any]:
    """Arguments of `build_model` that the release's constructor does not take: our defaults are its values."""
    entry, model = spec(backbone), build_model(backbone)
    of_backbone = {"decoder_width": entry.decoder_width, "flow_adapters": entry.flow_adapters}
    return of_backbone | {name: getattr(model, name) for name in ("feedforward", "top_k", "subpixels")}


def run_side(command: list[str], name: str, folder: Path, request: Mapping[str, Any], log: Path) -> Side:
    """Run one side to its end.

    Args:
        command: a program that takes the path of the request as last argument.
        name: of the side, in errors and file names.
        folder: where it works; made here.
        request: see `release_process`; `output` is set here.
        log: what it prints; stays if it fails.

    Raises `InputError` if it fails, with the last line it printed and where the rest is.
    """
    output = folder / name
    output.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps({**request, "output": str(output)}))
    with log.open("w") as file:
        process = subprocess.run([*command, str(path)], stdout=file, stderr=subprocess.STDOUT, check=False)
    report = output / "report.json"
    if process.returncode or not report.is_file():
        text = log.read_text(errors="replace")
        raise InputError(
            f"the process of {name} failed (exit code {process.returncode}): {_last_line(text)}; see {log}"
        )
    log.unlink()
    return Side(output, json.loads(report.read_text()))


def release_command(python: str) -> list[str]:
    """How the release's side is started."""
    return [python, str(RELEASE_SCRIPT)]


def our_command() -> list[str]:
    """How our side is started: by this Python, wherever the user stands."""
    return [sys.executable, "-m", "hmhi_jax.tools.compare.our_process"]


def write_clip(path: Path, **arrays: np.ndarray) -> None:
    """Normalised frames and flow pictures `[B, T, H, W, 3]` and masks `[B, T, H, W, 1]`, all float32."""
    np.savez(path, allow_pickle=False, **{name: np.asarray(array, np.float32) for name, array in arrays.items()})


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no output"
