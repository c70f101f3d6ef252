"""A training step beside the authors' release: seconds, memory, and what the compiler plans to use.

    python benchmarks/training.py --release PATH/HMHI-Net --python PYTHON-WITH-TORCH
    python benchmarks/training.py                       # this project's side alone

Both sides train MiT-b1 with the same weights on the same clip (batch 1, T = 5, 512 x 512 by default) with the release's
losses and AdamW, dropout and drop path off, each in a process of its own, one after the other. Figures: seconds of the
fastest step but the first, largest resident memory of the process, and for this project temporary memory of the
compiled step and seconds of compilation.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np


def ours(request_path: str) -> None:
    """This project's side: reads a request, leaves `report.json`."""
    import jax

    from hmhi_jax import compilation_cache
    from hmhi_jax.interop.compare_sides import peak_mib
    from hmhi_jax.models import build_model
    from hmhi_jax.training.initialisation import init_variables
    from hmhi_jax.training.mesh import make_mesh
    from hmhi_jax.training.optimiser import learning_rate_schedule, make_optimiser
    from hmhi_jax.training.state import make_state
    from hmhi_jax.training.step import make_train_step

    request = json.loads(Path(request_path).read_text())
    compilation_cache.enable()
    model = build_model(**request["model"], dtype=request["dtype"])
    schedule = learning_rate_schedule("constant", 6e-5, 100)
    optimiser = make_optimiser(schedule)
    mesh = make_mesh(1, 1, jax.devices()[:1])
    step = make_train_step(
        model, optimiser, schedule, mesh,
        dropout=False, checkpoint=request["checkpoint"], unroll=request["unroll"],
    )  # fmt: skip
    state = jax.jit(lambda: make_state(init_variables(model, 0), optimiser, 0))()
    clip = dict(np.load(request["clip"]))
    begin = time.perf_counter()
    program = step.lower(state, clip).compile()
    compilation = time.perf_counter() - begin
    seconds, losses = [], []
    for _ in range(request["steps"]):
        begin = time.perf_counter()
        state, metrics = program(state, clip)
        losses.append(float(metrics.scalars["loss"]))
        jax.block_until_ready(state)
        seconds.append(time.perf_counter() - begin)
    memory = program.memory_analysis()
    report = {
        "losses": losses,
        "seconds_per_step": min(seconds[1:] or seconds),
        "first_step": seconds[0],
        "compilation": compilation,
        "temporary_gb": memory.temp_size_in_bytes / 1e9,
        "peak_mib": peak_mib(),
        "software": f"jax {jax.__version__}",
    }
    (Path(request["output"]) / "report.json").write_text(json.dumps(report))


def main() -> None:
    """Run the sides and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--release", type=Path, help="clone of the authors' release")
    parser.add_argument("--python", default=sys.executable, help="a Python that has torch, for the release")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--frames", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--checkpoint", default="none,read_outs,step", help="policies, by commas")
    parser.add_argument("--scan", action="store_true", help="scan frames instead of writing them out")
    parser.add_argument("--ours", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.ours:
        ours(arguments.ours)
        return

    from hmhi_jax.interop.compare_sides import cores, run_side

    generator = np.random.default_rng(0)
    shape = (1, arguments.frames, arguments.size, arguments.size)
    clip = {
        "frames": generator.integers(0, 256, (*shape, 3), np.uint8),
        "flows": generator.integers(0, 256, (*shape, 3), np.uint8),
        "masks": (generator.random((*shape, 1)) < 0.3).astype(np.uint8),
        "valid": np.ones(shape[:2], bool),
    }
    model = {"backbone": "mit_b1", "memory_frames": arguments.frames}
    rows = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        np.savez(folder / "clip.npz", **clip)
        for policy in arguments.checkpoint.split(","):
            request = {
                "model": model, "clip": str(folder / "clip.npz"), "steps": arguments.steps, "dtype": arguments.dtype,
                "checkpoint": policy, "unroll": not arguments.scan,
            }  # fmt: skip
            side = run_side([sys.executable, os.path.abspath(__file__), "--ours"], policy, folder, request)
            rows.append((f"this project, recompute {policy}", side.report))
        if arguments.release:
            rows.append(("release", _release(arguments, folder, clip, model).report))
            rows[-1][1]["release"] = True
    slowest = rows[-1][1]["seconds_per_step"] if arguments.release else None
    print(f"MiT-b1, batch 1, T = {arguments.frames}, {arguments.size} px, {arguments.dtype}, {cores()} cores")
    for name, report in rows:
        extra = (
            f", temporary {report['temporary_gb']:.2f} GB, compilation {report['compilation']:.0f} s"
            if "compilation" in report
            else ""
        )
        ratio = f", {slowest / report['seconds_per_step']:.2f} x the release" if slowest else ""
        print(f"{name}: {report['seconds_per_step']:.1f} s, resident {report['peak_mib'] / 1024:.1f} GiB{extra}{ratio}")


def _release(arguments: argparse.Namespace, folder: Path, clip: dict[str, np.ndarray], model: dict):
    """The release's side, with weights of this project's own initialisation."""
    from hmhi_jax.data.preprocessing import normalise
    from hmhi_jax.interop import to_torch
    from hmhi_jax.interop.compare_sides import release_command, run_side, write_clip
    from hmhi_jax.interop.torch_checkpoint_writer import write_torch_checkpoint
    from hmhi_jax.models import build_model
    from hmhi_jax.training.initialisation import init_variables

    network = build_model(**model)
    write_torch_checkpoint(folder / "weights.pth", {"network": to_torch(network, init_variables(network, 0))})
    pictures = {name: np.asarray(normalise(clip[name])) for name in ("frames", "flows")}
    write_clip(folder / "release.npz", **pictures, masks=clip["masks"])
    switches = {"shallow_memory": True, "deep_memory": True, "sgim": True, "plam": True}
    request = {
        "mode": "train", "model": {**model, **switches}, "weights": str(folder / "weights.pth"),
        "clip": str(folder / "release.npz"), "clone": str(arguments.release.absolute()), "device": "cpu",
        "batch": 1, "steps": arguments.steps, "learning_rate": 6e-5,
    }  # fmt: skip
    return run_side(release_command(arguments.python), "release", folder, request)


if __name__ == "__main__":
    main()
