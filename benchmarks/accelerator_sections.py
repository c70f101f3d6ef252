"""The sections of `benchmarks/accelerator.py`, which runs each as a process: `accelerator_sections.py NAME REQUEST`."""

import json
import os
import re
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from accelerator_measuring import (
    DTYPES,
    HERE,
    SAMPLES,
    Results,
    Side,
    compiled_together,
    our_side,
    release_side,
    sampled,
    setup,
    summary,
)

# dtype, checkpoint policy, whether frames are written out, clips
FORMS_OF_TRAINING = (
    ("bfloat16", "cheap", False, 8),
    ("bfloat16", "read_outs", False, 8),
    ("tensorfloat32", "cheap", False, 8),
)
WARM_UP = 130.0  # seconds for the sides to get ready


def card(request: dict) -> None:
    """Versions, and what the card itself can do: matrix rates by precision, and bandwidth."""
    setup()
    import jax
    import jax.numpy as jnp

    results = Results(request, "card")
    device = jax.devices()[0]
    results.put("device", value=device.device_kind)
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,clocks.max.sm", "--format=csv,noheader"]
    try:
        results.put("driver", value=subprocess.run(query, capture_output=True, text=True, timeout=20).stdout.strip())
    except OSError:
        results.put("driver", value="no nvidia-smi")
    from importlib.metadata import PackageNotFoundError, version

    for name in ("jax", "jaxlib", "flax", "torch"):
        try:
            results.put("versions", name, value=version(name))
        except PackageNotFoundError:
            results.put("versions", name, value="none")
    results.put("versions", "processors", value=os.cpu_count())
    side = 512 if request["small"] else 8192
    key = jax.random.key(0)
    for name, dtype, precision in (
        ("float32", jnp.float32, "highest"), ("tensorfloat32", jnp.float32, "tensorfloat32"),
        ("JAX's default for float32", jnp.float32, "default"), ("bfloat16", jnp.bfloat16, "default"),
    ):  # fmt: skip
        a, b = (jax.random.normal(k, (side, side), dtype) for k in jax.random.split(key))
        product = jax.jit(partial(jnp.matmul, precision=precision))
        times = sampled(partial(product, a, b), 3)
        exact = np.asarray(a[:8].astype(jnp.float32), np.float64) @ np.asarray(b.astype(jnp.float32), np.float64)
        error = np.abs(np.asarray(product(a, b)[:8].astype(jnp.float32)) - exact).max() / np.abs(exact).max()
        tera = 2 * side**3 / times["min_ms"] / 1e9
        results.put("matrix product", name, value={**times, "TFLOP/s": tera, "largest error": float(error)})
    numbers = 2**20 if request["small"] else 2**28
    x = jnp.ones(numbers, jnp.float32)
    times = sampled(partial(jax.jit(lambda x: x + 1), x), 3)
    results.put("copy", value={**times, "GB/s read and written": 8 * numbers / times["min_ms"] / 1e6})


def goldens(request: dict) -> None:
    """The tests of the release's outputs on this device, and what lower precision deviates by."""
    results = Results(request, "goldens")
    tests = HERE.parent / "tests"
    # The tests' own flags are for compiling quickly on a CPU; those given here win.
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=3"
    environment = os.environ | {"JAX_PLATFORMS": "cpu" if request["small"] else "cuda,cpu", "XLA_FLAGS": flags}
    environment["HMHI_TEST_CACHE"] = os.environ["HMHI_BENCHMARK_CACHE"]
    steps = str(tests / "training" / "test_golden_training.py")
    suites = {
        "maps and logits": [str(tests / "models" / "test_goldens.py")],
        "training step, read-outs recomputed": [steps, "-k", "losses_and_every"],
        "training step, the cheap recomputed": [steps, "-k", "costly"],
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-W", "ignore"]
    if request["small"]:
        command.append("--collect-only")
    running = {
        name: subprocess.Popen(
            [*command, *chosen], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        for name, chosen in suites.items()
    }
    sys.path.insert(0, str(tests))
    setup()
    import jax
    from goldens import cases

    from hmhi_jax.kernels.top_k_attention import READS
    from hmhi_jax.models import segment_clip

    rng = np.random.default_rng(0)
    q, k, v = (jax.numpy.asarray(rng.normal(0, 1, (1, n, 128)).astype(np.float32)) for n in (256, 5000, 5000))
    limit = jax.numpy.int32(4800)
    own = "cuda" if jax.default_backend() == "gpu" else jax.default_backend()
    with jax.default_matmul_precision("highest"):
        exact, ours = (jax.jit(partial(READS[form], 50))(q, k, v, limit) for form in ("accelerator", own))
    results.put("selection", "against the sorted form", value=float(abs(exact - ours).max()))
    case = cases.load("mit_b1_128")
    functions = {}
    for dtype in DTYPES:
        model, variables = cases.model_and_variables(case, dtype=dtype)
        functions[dtype] = jax.jit(partial(segment_clip, model)), (variables, *case.clip())
    programs = compiled_together(functions)
    for dtype, program in programs.items():
        if isinstance(program, str):
            results.put("deviation", dtype, value={"error": program})
            continue
        logits = np.asarray(program(*functions[dtype][1]))
        error = np.abs(logits - case.expected["logits"])
        agree = np.mean((logits > 0) == (case.expected["logits"] > 0))
        results.put(
            "deviation", dtype, value={"max": float(error.max()), "mean": float(error.mean()), "sign": float(agree)}
        )
    for name, process in running.items():
        output, _ = process.communicate()
        lines = [
            line for line in output.splitlines() if re.match(r"(E  |FAILED|.*(passed|failed|error|tests? ))", line)
        ]
        results.put("tests", name, value=f"exit code {process.returncode}: " + " | ".join(lines[-6:])[:700])


def frames(request: dict) -> None:
    """A frame at steady state, in turns with the release."""
    results = Results(request, "frames")
    sides = [Side(request, dtype, our_side(request, "frames", {"dtype": dtype})) for dtype in DTYPES]
    if request["release"]:
        for name, compiled in (("release", False), ("release compiled", True)):
            sides.append(Side(request, name, release_side(request, "frames", {"compiled": compiled})))
    begin = time.perf_counter()
    ready: dict[Side, list[str]] = {}
    for side in sides:
        told = side.answer(request["patience"] * WARM_UP - (time.perf_counter() - begin))
        results.put("ready", side.name, value={"seconds": time.perf_counter() - begin, **told})
        ready[side] = told.get("parts", [])
    parts = list(dict.fromkeys(part for names in ready.values() for part in names))
    for part in parts:
        able = [side for side in sides if part in ready[side]]
        taken: dict[str, list[float]] = defaultdict(list)
        last: dict[str, dict] = {}
        for index in range(3 if request["small"] else SAMPLES + 1):
            for side in able:
                told = side.do(part, 2 if request["small"] else 5)
                last[side.name] = told
                if index and "seconds" in told:  # the first one warms up
                    taken[side.name].append(told["seconds"])
        for name, told in last.items():
            times = summary(taken[name], told["videos"]) if taken[name] else {}
            rest = {key: value for key, value in told.items() if key not in ("seconds", "videos")}
            results.put(part, name, value={**times, **rest})
    for side in sides:
        if side.name == "bfloat16" and ready[side]:
            for part in ready[side]:
                results.put("profile", part, value=side.do(f"profile {part}", 3))
        side.close()


def prepare(request: dict) -> None:
    """Compile the training steps into the cache, each in a process of its own, all at once."""
    running = [
        subprocess.Popen(our_side(request, "compile", _training_settings(form)))
        for form in (FORMS_OF_TRAINING[:1] if request["small"] else FORMS_OF_TRAINING)
    ]
    for process in running:
        process.wait()


def training(request: dict) -> None:
    """A training step, one side after the other, since each fills the card."""
    results = Results(request, "training")
    chosen = FORMS_OF_TRAINING[:1] if request["small"] else FORMS_OF_TRAINING
    sides = {
        form: Side(request, f"training {form[0]} {form[1]}", our_side(request, "training", _training_settings(form)))
        for form in chosen
    }  # they trace while the release trains
    if request["release"]:
        side = Side(request, "release training", release_side(request, "training", {}))
        while "error" not in (told := side.answer()):
            results.put("release as it trains", f"{told['clips']} clips", value=told)
            if told.get("last"):
                break
        side.close()
    for (dtype, policy, unroll, _), side in sides.items():
        ready = side.answer(request["patience"] * 120.0)
        told = side.do("steps", 2 if request["small"] else 8) if "error" not in ready else {}
        results.put(f"{dtype}, {policy}, {'written out' if unroll else 'scanned'}", value=ready | told)
        side.close()


def _training_settings(form: tuple) -> dict:
    dtype, policy, unroll, clips = form
    return {"dtype": dtype, "checkpoint": policy, "unroll": unroll, "clips": clips}


def profile(request: dict) -> None:
    """The dearest kernels of a frame and of a training step, and time by part of the network."""
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_gpu_enable_command_buffer="
    setup()
    import accelerator_ours as ours
    import jax
    from accelerator_trace import read_trace

    results = Results(request, "profile")
    runs: dict[str, Callable[[], Any]] = {}
    programs = ours.FramePrograms(request | {"dtype": "bfloat16"}, memories=(5,), chunk=0)
    for name in programs.parts:
        runs[f"bfloat16, {name}"] = partial(programs.run, name, 1)
    dtype, policy, unroll, clips = FORMS_OF_TRAINING[0]
    settings = {"dtype": dtype, "checkpoint": policy, "unroll": unroll, "clips": clips}
    step = ours.TrainingProgram(request | settings)
    runs[f"training step, {dtype}, {policy}, {step.clips} clips"] = step.run
    for name, run in runs.items():
        folder = Path(request["out"]).parent / "traces" / re.sub(r"\W+", "_", name)
        jax.block_until_ready(run())
        repeats = 1 if "training" in name else 5
        with jax.profiler.trace(str(folder)):
            for _ in range(repeats):
                jax.block_until_ready(run())
        for key, value in read_trace(folder, repeats).items():
            results.put(name, key, value=value)


def segment(request: dict) -> None:
    """`hmhi segment` of a 720p clip repeated to 500 frames, as a user runs it."""
    results = Results(request, "segment")
    if not request["clip"]:
        results.put("left out", value="no --clip")
        return
    folder = Path(request["out"]).parent / "segment"
    folder.mkdir(exist_ok=True)
    clip = folder / "long.mp4"
    count = _repeat(Path(request["clip"]), clip, 12 if request["small"] else 500)
    large = folder / "mit_b1.safetensors"
    subprocess.run(our_side(request, "weights", {"path": str(large)}), check=True)
    command = [sys.executable, "-c", "from hmhi_jax.cli import command; command()", "segment", str(clip)]
    commands: dict[str, list[str]] = {}
    for name, weights, dtype in (
        ("small", "small", "tensorfloat32"), ("small", "small", "bfloat16"), ("tiny", "tiny", "tensorfloat32"),
        ("MiT-b1 512", str(large), "bfloat16"),
    ):  # fmt: skip
        out = folder / f"{name} {dtype}".replace(" ", "_")
        commands[f"{name}, {dtype}"] = [
            *command, "--out", str(out), "--overwrite", "--weights", weights, "--dtype", dtype
        ]  # fmt: skip
    # Their programs, all at once; they are kept, and read back by what is timed.
    begin, share = time.perf_counter(), {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.1"}
    first = [
        subprocess.Popen(
            [*each, "--max-frames", "9"], env=os.environ | share, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for each in commands.values()
    ]  # fmt: skip
    for process in first:
        process.wait()
    results.put("programs of all, side by side", value={"s": time.perf_counter() - begin})
    for name, chosen in commands.items():
        begin = time.perf_counter()
        done = subprocess.run(chosen, capture_output=True, text=True)
        wall = time.perf_counter() - begin
        if done.returncode:
            results.put(name, value={"error": (done.stdout + done.stderr)[-400:]})
            continue
        (path,) = Path(chosen[chosen.index("--out") + 1]).rglob("summary.json")
        said = json.loads(path.read_text())
        stages = said["seconds"]
        steady = stages["in all, by the clock"] - stages.get("first chunk, with compilation", 0.0)
        results.put(
            name,
            value={
                "frames": count, "wall s": wall, "frames/s in all": said["frames_per_second"],
                "frames/s after the first chunk": count / steady, **{f"s of {k}": v for k, v in stages.items()},
            },
        )  # fmt: skip


def _repeat(clip: Path, path: Path, frames: int) -> int:
    import av

    written = 0
    with av.open(str(path), "w") as output:
        stream = None
        while written < frames:
            with av.open(str(clip)) as source:
                for frame in source.decode(video=0):
                    if stream is None:
                        stream = output.add_stream("libx264", rate=25, options={"preset": "ultrafast", "crf": "20"})
                        stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, "yuv420p"
                    if written == frames:
                        break
                    frame.pts, frame.time_base, frame.pict_type = written, Fraction(1, 25), 0
                    output.mux(stream.encode(frame))
                    written += 1
        output.mux(stream.encode(None))
    return written


def loader(request: dict) -> None:
    """Clips per second that the processor's cores prepare, at the training step's size."""
    results = Results(request, "loader")
    workers = 1 if request["small"] else max(1, (os.cpu_count() or 2) - 2)
    command = [sys.executable, str(HERE / "accelerator_ours.py"), "loader", json.dumps(request | {"workers": workers})]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    line = done.stdout.strip().splitlines()[-1:] or [json.dumps({"error": done.stderr[-400:]})]
    results.put(f"{workers} workers", value=json.loads(line[0]))


SECTIONS = {
    section.__name__: section for section in (card, goldens, frames, prepare, training, profile, segment, loader)
}

if __name__ == "__main__":
    SECTIONS[sys.argv[1]](json.loads(sys.argv[2]))
