"""The two processes of a comparison and what goes between them: one folder, a request, arrays, a report; and weights
that anyone can draw from a seed with NumPy alone, for where no trained ones are at hand.

Both sides are processes of their own, so that time and memory are theirs alone, and the release's side runs in any
Python that has PyTorch.
"""

import json
import subprocess
import sys
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hmhi_jax.errors import InputError
from hmhi_jax.models import build_model
from hmhi_jax.models.backbones import spec


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


RELEASE_SCRIPT = Path(__file__).with_name("release_process.py")
# Encoders that the release's network can be built with; see `release_process`.
RELEASE_BACKBONES = ("mit_b1", "mit_b2", "mit_b3", "mit_b4", "mit_b5", "swin_tiny", "swin_small")


@dataclass(frozen=True)
class Side:
    """What one side left behind.

    folder   `<stage>.npy` for every map `[B, frames, h, w, C]` (inference), `trained.pth` (training)
    report   its `report.json`
    """

    folder: Path
    report: dict[str, Any]

    def maps(self) -> dict[str, np.ndarray]:
        """The maps it recorded, each of all frames, mapped from disk."""
        return {path.stem: np.load(path, mmap_mode="r") for path in self.folder.glob("*.npy")}


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


def peak_mib() -> float:
    """Largest resident memory of this process so far, MiB."""
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no output"
