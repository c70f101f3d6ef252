"""What a comparison says: deviations map by map and frame by frame, masks, training steps, and the verdict."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hmhi_jax.interop.torch_weights import UNUSED

# In the order a frame goes through them, which makes the first one outside the tolerance the place to look.
STAGES = (
    *("fused1", "fused2", "fused3", "fused4"),
    *("read_shallow", "read_deep", "sgim", "plam"),
    *("coarse_logits", "logits", "mem_shallow", "mem_deep"),
)
# The read-outs keep the highest scores of a query. Two scores closer than rounding can change places, which moves a few
# values a lot; so nearly all values are held to the tolerance and the rare ones to this many times as much.
SHARE = 0.99
RARE = 100.0


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


@dataclass(frozen=True)
class StageRow:
    """One map of one frame; deviations are absolute, `scale` is the root mean square of the release's values.

    Where the two sides have no map to compare, `problem` says why, the deviations are infinite and the scale is not a
    number.
    """

    frame: int
    stage: str
    largest: float
    mean: float
    quantile: float
    scale: float
    within: bool
    problem: str = ""

    def __str__(self) -> str:
        return self.problem or (
            f"99 % of values within {self.quantile:.1e}, largest {self.largest:.1e}, scale {self.scale:.1e}"
        )


@dataclass(frozen=True)
class MaskRow:
    """One frame's masks (logit above 0): share of pixels with the same sign, and J between the two sides' masks."""

    frame: int
    sign_agreement: float
    jaccard: float
    release_area: float
    our_area: float


def compare_maps(release: Side, ours: Side, tolerance: float) -> list[StageRow]:
    """Deviations of every map that either side recorded, in the order of computation.

    A map is within the tolerance if 99 % of its values deviate by at most `tolerance` times its scale (or times 1 for
    smaller maps), and all by at most a hundred times that. One that is missing on a side, or has another shape or
    frames there, is outside: both networks have the same switches, so both have the same maps.
    """
    sides = release.maps(), ours.maps()
    frames = sides[0]["logits"].shape[1]
    rows = []
    for t in range(frames):
        for name in STAGES:
            theirs, mine = (maps.get(name) for maps in sides)
            recorded = next((side.shape[1] for side in (theirs, mine) if side is not None), 0)
            index = t - (frames - recorded)  # read-outs begin with the second frame
            if index < 0:
                continue
            if theirs is None or mine is None:
                problem = f"{'the release' if theirs is None else 'our side'} recorded no such map"
            elif theirs.shape != mine.shape:
                problem = f"shape {theirs.shape} in the release, {mine.shape} in ours"
            else:
                rows.append(_stage_row(t, name, theirs[:, index], mine[:, index], tolerance))
                continue
            rows.append(StageRow(t, name, np.inf, np.inf, np.inf, np.nan, False, problem))
    return rows


def _stage_row(frame: int, name: str, theirs: np.ndarray, mine: np.ndarray, tolerance: float) -> StageRow:
    a, b = (np.asarray(x, np.float32) for x in (theirs, mine))
    with np.errstate(invalid="ignore"):  # infinity on both sides
        error = np.abs(a - b)
        quantile, largest = float(np.quantile(error, SHARE)), float(error.max())
    scale = float(np.sqrt(np.mean(np.square(a, dtype=np.float64))))
    allowed = tolerance * max(scale, 1.0)
    # False for not-a-number; an infinity of the release's would make everything allowed.
    within = np.isfinite(scale) and quantile <= allowed and largest <= RARE * allowed
    return StageRow(frame, name, largest, float(error.mean()), quantile, scale, bool(within))


def compare_masks(release: Side, ours: Side) -> list[MaskRow]:
    """Agreement of the masks of every frame."""
    theirs, mine = (side.maps()["logits"] for side in (release, ours))
    rows = []
    for t in range(theirs.shape[1]):
        a, b = theirs[:, t] > 0, mine[:, t] > 0
        union = int((a | b).sum())
        jaccard = float((a & b).sum() / union) if union else 1.0
        rows.append(MaskRow(t, float((a == b).mean()), jaccard, float(a.mean()), float(b.mean())))
    return rows


def first_outside(rows: list[StageRow]) -> StageRow | None:
    """The first map outside the tolerance."""
    return next((row for row in rows if not row.within), None)


@dataclass(frozen=True)
class StepRow:
    """Loss and gradient of one training step; `gradient` is the largest relative difference of a module's norm.

    It is infinite for a module that one side has no gradient of, and whatever is not finite counts as largest.
    """

    step: int
    release_loss: float
    our_loss: float
    gradient: float
    worst_module: str

    @property
    def difference(self) -> float:
        """Of the losses, relative to the release's."""
        return abs(self.release_loss - self.our_loss) / max(abs(self.release_loss), 1e-12)


@dataclass(frozen=True)
class ModuleRow:
    """A module: gradient norms at the first step, and how far the parameters end up apart.

    drift   distance between the two sides' parameters after the last step
    moved   distance of the release's parameters from where they began
    """

    module: str
    release_norm: float
    our_norm: float
    drift: float
    moved: float


def module_of(name: str) -> str:
    """The module that a training table puts an entry under: a stage of the encoder, a part of a bank, ..."""
    parts = name.split(".")
    if parts[0] in ("backbone", "decode_head"):
        head = ".".join(parts[:3] if parts[1] == "layers" else parts[:2])
        return re.sub(r"(patch_embed|norm)(\d)$", r"block\2", head) if parts[0] == "backbone" else parts[0]
    return ".".join(parts[:2]) if parts[0].startswith("Mem") else parts[0]


def compare_steps(release: Side, ours: Side) -> list[StepRow]:
    """Losses and gradient norms of every step."""
    rows = []
    sides = (release.report, ours.report)
    for step, (theirs, mine) in enumerate(zip(*(side["losses"] for side in sides), strict=True)):
        a, b = (_by_module(side["gradient_norms"][step]) for side in sides)
        differences = {
            module: abs(a[module] - b[module]) / max(a[module], 1e-12) if module in a and module in b else np.inf
            for module in {**a, **b}
        }
        worst = max(differences, key=lambda module: (not np.isfinite(differences[module]), differences[module]))
        rows.append(StepRow(step, theirs, mine, float(differences[worst]), worst))
    return rows


def _by_module(norms: Mapping[str, float]) -> dict[str, float]:
    squares: dict[str, float] = {}
    for name, norm in norms.items():
        squares[module_of(name)] = squares.get(module_of(name), 0.0) + norm**2
    return {module: float(np.sqrt(value)) for module, value in squares.items()}


def compare_parameters(
    initial: Mapping[str, np.ndarray], release: Mapping[str, np.ndarray], ours: Mapping[str, np.ndarray], sides: Any
) -> list[ModuleRow]:
    """Drift of every module's parameters after the last step, beside its gradient norms at the first.

    Args:
        initial, release, ours: state dicts before and after.
        sides: (release, ours), for their gradient norms.

    What our side lacks, or has in another shape, is infinitely far away.
    """
    drift: dict[str, float] = {}
    moved: dict[str, float] = {}
    for name, after in release.items():
        if UNUSED.fullmatch(name) or name not in initial or after.dtype.kind != "f":
            continue
        module = module_of(name)
        wide = np.asarray(after, np.float64)
        mine = ours.get(name)
        apart = np.inf if mine is None or mine.shape != wide.shape else float(np.square(wide - mine).sum())
        drift[module] = drift.get(module, 0.0) + apart
        moved[module] = moved.get(module, 0.0) + float(np.square(wide - initial[name]).sum())
    theirs, mine = (_by_module(side.report["gradient_norms"][0]) for side in sides)
    return [ModuleRow(m, theirs.get(m, 0.0), mine.get(m, 0.0), drift[m] ** 0.5, moved[m] ** 0.5) for m in drift]


def steps_outside(rows: list[StepRow], tolerance: float) -> str | None:
    """What leaves the tolerance first in training: a loss, or a module's gradient norm at the first step.

    Later gradients are not judged: Adam divides by gradients' own size, so a parameter whose true gradient is zero
    moves by the sign of its rounding, on both sides differently. They must be there and finite, though.
    """
    for row in rows:
        if not row.difference <= tolerance:
            return f"loss of step {row.step} (relative difference {row.difference:.1e})"
        if not np.isfinite(row.gradient) or (row.step == 0 and row.gradient > 10 * tolerance):
            return f"gradient norm of {row.worst_module} at step {row.step} (relative difference {row.gradient:.1e})"
    return None


def parameters_outside(rows: list[ModuleRow]) -> str | None:
    """The first module whose parameters are not all there, or not all finite, on both sides after the last step."""
    for row in rows:
        if not np.isfinite(row.drift):
            return f"parameters of {row.module} after the last step (drift {row.drift:.1e})"
    return None


def summary(rows: list[StageRow]) -> list[dict[str, Any]]:
    """Each stage over all frames: largest and mean deviation, 99 % quantile (the worst frame's), scale."""
    table = []
    combined = {"largest": np.max, "mean": np.mean, "quantile": np.max, "scale": np.mean}
    for name in STAGES:
        if of_stage := [row for row in rows if row.stage == name]:
            figures = {key: float(over([getattr(row, key) for row in of_stage])) for key, over in combined.items()}
            within = all(row.within for row in of_stage)
            table.append({"stage": name, "frames": len(of_stage), **figures, "within": within})
    return table
