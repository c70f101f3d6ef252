"""A training step beside the authors' release: seconds, memory, and what the compiler plans to use.

    python benchmarks/training.py --release PATH/HMHI-Net --python PYTHON-WITH-TORCH
    python benchmarks/training.py --forms none:unrolled,step:scanned      # this project's side alone

Both sides train MiT-b1 with the same weights on the same clip (batch 1, T = 5, 512 x 512 by default) with the release's
losses and AdamW, dropout and drop path off, each in a process of its own, one after the other; their losses must agree.
A form is a checkpoint policy (none, read_outs, cheap, step) and what becomes of the frames (unrolled, scanned). Every
form is compiled in a process of its own first (`--prepare` stops there), so that the measured process finds it in the
compilation cache and its resident memory is that of training. Figures: seconds and processor seconds of the fastest
step but the first, largest resident memory, and for this project temporary memory of the compiled step.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import joblib
import numpy as np


def ours(request_path: str) -> None:
    """This project's side: reads a request, leaves `report.json`."""
    import jax

    from hmhi_jax import process
    from hmhi_jax.interop.weights import load_weights
    from hmhi_jax.models import build_model
    from hmhi_jax.tools.compare.our_process import peak_mib
    from hmhi_jax.training.mesh import make_mesh
    from hmhi_jax.training.optimiser import learning_rate_schedule, make_optimiser
    from hmhi_jax.training.step import make_state, make_train_step

    request = json.loads(Path(request_path).read_text())
    process.enable_compilation_cache()
    weights = load_weights(request["weights"])
    model = build_model(**weights.model_arguments | {"dtype": request["dtype"]})
    schedule = learning_rate_schedule("constant", 6e-5, 100)
    optimiser = make_optimiser(schedule)
    mesh = make_mesh(1, 1, jax.devices()[:1])
    step = make_train_step(
        model, optimiser, schedule, mesh,
        dropout=False, checkpoint=request["checkpoint"], unroll=request["unroll"],
    )  # fmt: skip
    state = make_state(jax.tree.map(jax.numpy.asarray, weights.variables), optimiser, 0)
    clip = dict(np.load(request["clip"]))
    begin = time.perf_counter(), time.process_time()
    program = step.lower(state, clip).compile()
    process.give_back_freed_memory()  # as the trainer does
    report = {
        "compilation": time.perf_counter() - begin[0],
        "cpu_compilation": time.process_time() - begin[1],
        "temporary_gb": program.memory_analysis().temp_size_in_bytes / 1e9,
        "software": f"jax {jax.__version__}",
    }
    seconds, busy, losses = [], [], []
    for _ in range(request["steps"]):
        begin = time.perf_counter(), time.process_time()
        state, metrics = program(state, clip)
        losses.append(float(metrics.scalars["loss"]))
        jax.block_until_ready(state)
        seconds.append(time.perf_counter() - begin[0])
        busy.append(time.process_time() - begin[1])
        print(f"step {len(seconds)}: {seconds[-1]:.1f} s, loss {losses[-1]:.5f}", flush=True)
    if seconds:
        report |= {"seconds_per_step": min(seconds[1:] or seconds), "cpu_seconds_per_step": min(busy[1:] or busy)}
    report |= {"losses": losses, "seconds": seconds, "peak_mib": peak_mib()}
    (Path(request["output"]) / "report.json").write_text(json.dumps(report))


def main() -> None:
    """Run the sides and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--release", type=Path, help="clone of the authors' release")
    parser.add_argument("--python", default=sys.executable, help="a Python that has torch, for the release")
    parser.add_argument("--backbone", default="mit_b1")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--frames", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--forms", default="none:unrolled,read_outs:unrolled,cheap:unrolled,cheap:scanned,step:scanned")
    parser.add_argument("--prepare", action="store_true", help="only compile, into the cache")
    parser.add_argument("--prepared", action="store_true", help="all forms are in the cache: do not look first")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    parser.add_argument("--ours", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.ours:
        ours(arguments.ours)
        return
    forms = [tuple(form.split(":")) for form in arguments.forms.split(",") if form]
    with tempfile.TemporaryDirectory() as place:
        rows = _measure(arguments, forms, Path(place))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))
    print(
        f"\n{arguments.backbone}, batch 1, T = {arguments.frames}, {arguments.size} px, {arguments.dtype}, "
        f"{joblib.cpu_count()} cores"
    )
    base = rows.get("release", {}).get("seconds_per_step")
    print(f"{'':28}{'s':>8}{'ratio':>8}{'CPU s':>8}{'resident GiB':>14}{'temporary GB':>14}   first loss")
    for name, row in rows.items():
        ratio = f"{base / row['seconds_per_step']:.2f}" if base else ""
        planned = f"{row['temporary_gb']:.2f}" if "temporary_gb" in row else ""
        print(
            f"{name:28}{row['seconds_per_step']:>8.1f}{ratio:>8}{row['cpu_seconds_per_step']:>8.1f}"
            f"{row['peak_mib'] / 1024:>14.1f}{planned:>14}   {row['losses'][0]:.5f}"
        )


def _measure(arguments: argparse.Namespace, forms: list[tuple[str, str]], folder: Path) -> dict[str, dict]:
    """Name of a side -> its report."""
    import jax

    from hmhi_jax import process
    from hmhi_jax.data.flow import FlowRecipe
    from hmhi_jax.interop.weights import save_weights
    from hmhi_jax.models import build_model
    from hmhi_jax.tools.compare.compare import run_side
    from hmhi_jax.training.initial_weights import init_variables

    process.enable_compilation_cache()
    generator = np.random.default_rng(0)
    shape = (1, arguments.frames, arguments.size, arguments.size)
    clip = {
        "frames": generator.integers(0, 256, (*shape, 3), np.uint8),
        "flows": generator.integers(0, 256, (*shape, 3), np.uint8),
        "masks": (generator.random((*shape, 1)) < 0.3).astype(np.uint8),
        "valid": np.ones(shape[:2], bool),
    }
    np.savez(folder / "clip.npz", **clip)
    model = {"backbone": arguments.backbone, "memory_frames": arguments.frames}
    draw = jax.jit(
        lambda: init_variables(build_model(**model), 0), compiler_options={"xla_backend_optimization_level": 0}
    )
    variables = jax.device_get(draw())
    weights = folder / "weights.safetensors"
    save_weights(weights, variables, model, shape[2:], FlowRecipe())

    def our_side(name: str, policy: str, frames: str, steps: int) -> dict:
        request = {
            "weights": str(weights), "clip": str(folder / "clip.npz"), "steps": steps, "dtype": arguments.dtype,
            "checkpoint": policy, "unroll": frames == "unrolled",
        }  # fmt: skip
        command = [sys.executable, os.path.abspath(__file__), "--ours"]
        print(f"{name} ...", file=sys.stderr, flush=True)
        return run_side(command, name.replace(" ", "-"), folder, request, folder / "log").report

    rows = {}
    for policy, frames in () if arguments.prepared else forms:
        report = our_side(f"compiling {policy} {frames}", policy, frames, 0)
        print(
            f"{policy}, {frames}: temporary memory {report['temporary_gb']:.2f} GB, compiled in "
            f"{report['cpu_compilation']:.0f} s of processor time ({report['peak_mib'] / 1024:.1f} GiB)",
            file=sys.stderr, flush=True,
        )  # fmt: skip
    if arguments.prepare:
        sys.exit()
    if arguments.release:
        rows["release"] = _release(arguments, folder, clip, model, variables)
    for policy, frames in forms:
        name = f"recompute {policy}, {frames}"
        rows[name] = our_side(name.replace(",", ""), policy, frames, arguments.steps)
    return rows


def _release(arguments: argparse.Namespace, folder: Path, clip: dict, model: dict, variables) -> dict:
    """The release's side, with weights of this project's own initialisation."""
    from hmhi_jax.data.preprocessing import normalise
    from hmhi_jax.interop import to_torch
    from hmhi_jax.interop.conversion import write_torch_checkpoint
    from hmhi_jax.models import build_model
    from hmhi_jax.tools.compare.compare import release_command, run_side, write_clip

    write_torch_checkpoint(folder / "weights.pth", {"network": to_torch(build_model(**model), variables)})
    pictures = {name: np.asarray(normalise(clip[name])) for name in ("frames", "flows")}
    write_clip(folder / "release.npz", **pictures, masks=clip["masks"])
    switches = {"shallow_memory": True, "deep_memory": True, "sgim": True, "plam": True}
    request = {
        "mode": "train", "model": {**model, **switches}, "weights": str(folder / "weights.pth"),
        "clip": str(folder / "release.npz"), "clone": str(arguments.release.absolute()), "device": "cpu",
        "steps": arguments.steps, "learning_rate": 6e-5,
    }  # fmt: skip
    print("release ...", file=sys.stderr, flush=True)
    return run_side(release_command(arguments.python), "release", folder, request, folder / "log").report


if __name__ == "__main__":
    main()
