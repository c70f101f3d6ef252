"""The sections of `benchmarks/accelerator.py`, which runs each as a process: `accelerator_sections.py NAME REQUEST`."""

import json
import os
import re
import select
import statistics
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
SAMPLES = 20
# dtype, checkpoint policy, whether frames are written out, clips
FORMS_OF_TRAINING = (
    ("bfloat16", "cheap", False, 8),
    ("bfloat16", "read_outs", False, 8),
    ("tensorfloat32", "cheap", False, 8),
)
WARM_UP = 130.0  # seconds for the sides to get ready
DTYPES = ("float32", "tensorfloat32", "bfloat16")


class Results:
    """A section's figures, on disk after each one."""

    def __init__(self, request: dict, section: str) -> None:
        self.path = Path(request["out"]) / f"{section}.json"
        self.values: dict[str, Any] = {}

    def put(self, *keys: str, value: Any) -> None:
        place = self.values
        for key in keys[:-1]:
            place = place.setdefault(key, {})
        place[keys[-1]] = value
        partial_path = self.path.with_suffix(".partial")
        partial_path.write_text(json.dumps(self.values, indent=1))
        partial_path.replace(self.path)
        print(*keys, json.dumps(value), flush=True)


def setup() -> None:
    """JAX with the benchmark's cache of compiled programs."""
    import jax

    jax.config.update("jax_compilation_cache_dir", os.environ["HMHI_BENCHMARK_CACHE"])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def summary(seconds: list[float], per: float = 1.0) -> dict[str, float]:
    """Milliseconds: the median and the fastest."""
    return {"median_ms": 1e3 * statistics.median(seconds) / per, "min_ms": 1e3 * min(seconds) / per}


def sampled(function: Callable, repeats: int, samples: int = SAMPLES) -> dict[str, float]:
    """Times of `function`, whose results are waited for once a sample of so many calls."""
    import jax

    jax.block_until_ready(function())
    taken = []
    for _ in range(samples):
        begin = time.perf_counter()
        for _ in range(repeats):
            outputs = function()
        jax.block_until_ready(outputs)
        taken.append((time.perf_counter() - begin) / repeats)
    return summary(taken)


def compiled_together(functions: dict[Any, tuple[Callable, tuple]]) -> dict[Any, Any]:
    """Name -> (jitted function, arguments) to name -> program; traced in turn, compiled side by side."""
    with ThreadPoolExecutor(16) as pool:
        futures = {name: pool.submit(f.lower(*arguments).compile) for name, (f, arguments) in functions.items()}
        programs = {}
        for name, future in futures.items():
            try:
                programs[name] = future.result()
            except Exception as error:
                programs[name] = str(error).splitlines()[0][:200]
        return programs


# ------------------------------------------------------------------------------------------------------------- card


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


# ---------------------------------------------------------------------------------------------------------- goldens


def goldens(request: dict) -> None:
    """The tests of the release's outputs on this device, and what lower precision deviates by."""
    results = Results(request, "goldens")
    tests = HERE.parent / "tests"
    environment = os.environ | {"JAX_PLATFORMS": "cpu" if request["small"] else "cuda,cpu", "XLA_FLAGS": ""}
    environment["HMHI_TEST_CACHE"] = os.environ["HMHI_BENCHMARK_CACHE"]
    steps = str(tests / "training" / "test_golden_training.py")
    suites = {
        "maps and logits": [str(tests / "models" / "test_goldens.py")],
        "training step, read-outs recomputed": [steps, "-k", "read_outs"],
        "training step, the cheap recomputed": [steps, "-k", "cheap"],
    }
    if request["small"]:
        suites = {}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-W", "ignore"]
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
        logits = np.asarray(program(*functions[dtype][1]))
        error = np.abs(logits - case.expected["logits"])
        agree = np.mean((logits > 0) == (case.expected["logits"] > 0))
        results.put(
            "deviation", dtype, value={"max": float(error.max()), "mean": float(error.mean()), "sign": float(agree)}
        )
    for name, process in running.items():
        output, _ = process.communicate()
        lines = [line for line in output.splitlines() if re.match(r"(E  |FAILED|.*(passed|failed|error))", line)]
        results.put("tests", name, value=" | ".join(lines[-6:])[:700])


# ----------------------------------------------------------------------------------------------------------- frames


class Side:
    """A process that gets its programs ready and then does what it is told, saying how long it took."""

    def __init__(self, request: dict, name: str, command: list[str]) -> None:
        self.name = name
        self.log = (Path(request["out"]) / f"side {name}.log").open("w")
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True
        )  # fmt: skip

    def answer(self, patience: float = 60.0) -> dict:
        if not select.select([self.process.stdout], [], [], max(0.0, patience))[0]:
            return {"error": "not ready in time"}
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"error": f"ended, see {self.log.name}"}

    def do(self, part: str, count: int) -> dict:
        """Of a part, so many calls; what the side says of them."""
        try:
            print(part, count, file=self.process.stdin, flush=True)
        except OSError:
            return {"error": "ended"}
        return self.answer()

    def close(self) -> None:
        try:
            self.process.stdin.close()
            self.process.wait(5)
        except (OSError, subprocess.TimeoutExpired):
            self.process.kill()


def our_side(request: dict, kind: str, settings: dict) -> list[str]:
    """The command of a side of this package's."""
    return [sys.executable, str(HERE / "accelerator_ours.py"), kind, json.dumps(request | settings)]


def release_side(request: dict, kind: str, settings: dict) -> list[str]:
    """The command of a side of the release's."""
    script = HERE.parent / "hmhi_jax" / "tools" / "compare" / "release_process.py"
    settings = settings | {"script": str(script)}
    return [request["python"], str(HERE / "accelerator_release.py"), kind, json.dumps(request | settings)]


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
        told = side.answer(WARM_UP - (time.perf_counter() - begin))
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


# --------------------------------------------------------------------------------------------------------- training


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
        ready = side.answer(120.0)
        told = side.do("steps", 2 if request["small"] else 8) if "error" not in ready else {}
        results.put(f"{dtype}, {policy}, {'written out' if unroll else 'scanned'}", value=ready | told)
        side.close()


def _training_settings(form: tuple) -> dict:
    dtype, policy, unroll, clips = form
    return {"dtype": dtype, "checkpoint": policy, "unroll": unroll, "clips": clips}


# ------------------------------------------------------------------------------------------------------------ forms


def forms(request: dict) -> None:
    """Formulations of the same operation side by side: which one is the platform's."""
    setup()
    import jax
    import jax.numpy as jnp
    from jax import lax

    from hmhi_jax.kernels import attention, convolution, top_k_attention

    results = Results(request, "forms")
    scale = 4 if request["small"] else 1
    rng = np.random.default_rng(0)

    def draw(*shape: int, dtype: Any = jnp.bfloat16) -> Any:
        return jnp.asarray(rng.normal(0, 1, shape).astype(np.float32), dtype)

    def plain_top_k(stable: bool, q: Any, k: Any, v: Any, limit: Any) -> Any:
        scores = jnp.einsum("bnc,bmc->bnm", q, k, preferred_element_type=jnp.float32)
        scores = jnp.where((jnp.arange(k.shape[1]) < limit)[None, None], scores, -jnp.inf)
        best, index = lax.top_k(scores, 50, **({} if stable else {"is_stable": False}))
        weights = jax.nn.softmax(best, -1)
        return jnp.einsum("bnk,bnkd->bnd", weights.astype(v.dtype), top_k_attention._gather(v, index))

    def dense(q: Any, k: Any, v: Any, limit: Any) -> Any:
        """No selection at all: what reading everything would take."""
        return attention.attend_whole(0.0, q[:, :, None], k[:, :, None], v[:, :, None], limit, None)

    queries, keys = 4096 // scale**2, 20480 // scale**2
    cuda = jax.default_backend() == "gpu"
    functions: dict[tuple[str, str], tuple[Callable, tuple]] = {}
    for batch in (1, 8):
        q, k, v = draw(batch, queries, 128), draw(batch, keys, 128), draw(batch, keys, 128)
        read = {
            "laid out, sorted": partial(top_k_attention.READS["accelerator"], 50),
            "lax.top_k": partial(plain_top_k, True),
            "lax.top_k, not stable": partial(plain_top_k, False),
            "all keys, no selection": dense,
        }
        if cuda:
            read["bisection in registers"] = partial(top_k_attention.READS["cuda"], 50)
        for name, form in read.items():
            functions[f"shallow read of {batch}", name] = jax.jit(form), (q, k, v, jnp.int32(keys))
    for name, heads, n, m, d, rows in (
        ("self-attention of the shallow bank", 1, queries, queries, 128, 1),
        ("SGIM", 1, queries, queries // 16, 128, 1),
        ("MiT stage 1", 1, 4 * queries, queries // 16, 64, 2),
        ("MiT stage 3", 5, queries // 4, queries // 16, 64, 2),
    ):
        q, k, v = draw(rows, n, heads, d), draw(rows, m, heads, d), draw(rows, m, heads, d)
        attends = {
            "whole": lambda q, k, v: attention.attend_whole(0.0, q, k, v, None, None),
            "pieces of 2^20 scores": lambda q, k, v: attention.attend_batched(2**20, 0.0, q, k, v, None, None),
        }
        if cuda:
            attends["cuDNN"] = partial(jax.nn.dot_product_attention, implementation="cudnn")
        for form_name, form in attends.items():
            functions[name, form_name] = jax.jit(form), (q, k, v)
            gradient = jax.grad(lambda q, k, v, form=form: form(q, k, v).astype(jnp.float32).sum(), (0, 1, 2))
            functions[f"{name}, gradient", form_name] = jax.jit(gradient), (q, k, v)
    for dtype in (jnp.bfloat16, jnp.float32):
        text = jnp.dtype(dtype).name
        for name, shape, size in (
            ("depthwise 3x3, MiT stage 1", (2, 128, 128, 256), 3), ("depthwise 3x3, MiT stage 3", (2, 32, 32, 1280), 3),
            ("depthwise 7x7, shallow", (1, 64, 64, 128), 7),
        ):  # fmt: skip
            shape = (shape[0], shape[1] // scale, shape[2] // scale, shape[3])
            x, kernel = draw(*shape, dtype=dtype), draw(size, size, 1, shape[-1], dtype=dtype)
            for form_name, form, gradient in (
                ("native", convolution._grouped_native, convolution._kernel_gradient_native),
                ("shifted", convolution._depthwise_shifted, convolution._kernel_gradient_shifted),
            ):
                functions[f"{name}, {text}", form_name] = jax.jit(form), (x, kernel)
                functions[f"{name}, {text}, kernel's gradient", form_name] = jax.jit(gradient), (x, kernel, x)
        x, kernel = draw(1, 64 // scale, 64 // scale, 128, dtype=dtype), draw(7, 7, 1, 512, dtype=dtype)
        for form_name, form in (
            ("native", convolution._grouped_native), ("patches", convolution._grouped_patches),
            ("shifted", convolution._grouped_shifted),
        ):  # fmt: skip
            functions[f"PLAM's channelwise 7x7, {text}", form_name] = jax.jit(partial(form, stride=4)), (x, kernel)
        x, kernel = draw(1, 128 // scale, 128 // scale, 512, dtype=dtype), draw(3, 3, 512, 256, dtype=dtype)
        for precision in ("highest", "tensorfloat32") if dtype == jnp.float32 else ("default",):
            with jax.default_matmul_precision(precision):
                functions[f"decoder's 3x3, {text}", precision] = jax.jit(convolution._native), (x, kernel)
                compiled_early = functions[f"decoder's 3x3, {text}", precision][0].lower(x, kernel)
                functions[f"decoder's 3x3, {text}", precision] = _Lowered(compiled_early), (x, kernel)
    programs = compiled_together(functions)
    for (name, form), program in programs.items():
        if isinstance(program, str):
            results.put(name, form, value={"error": program})
            continue
        try:
            results.put(name, form, value=sampled(partial(program, *functions[name, form][1]), 10))
        except Exception as error:
            results.put(name, form, value={"error": str(error).splitlines()[0][:200]})


class _Lowered:
    """What was lowered under another precision, in the place of a jitted function."""

    def __init__(self, lowered: Any) -> None:
        self.lowered = lowered

    def lower(self, *_: Any) -> Any:
        return self.lowered


# ---------------------------------------------------------------------------------------------------------- profile


def profile(request: dict) -> None:
    """The dearest kernels of a frame and of a training step, and time by part of the network."""
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_gpu_enable_command_buffer="
    setup()
    import accelerator_ours as ours
    import jax

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


def read_trace(folder: Path, repeats: int) -> dict[str, Any]:
    from jax.profiler import ProfileData

    (file,) = sorted(folder.rglob("*.xplane.pb"))[-1:]
    kernels: dict[str, list[float]] = defaultdict(list)
    parts: Counter = Counter()
    count = 0
    for plane in ProfileData.from_file(str(file)).planes:
        if "GPU" not in plane.name and "TPU" not in plane.name:
            continue
        for line in plane.lines:
            if not line.name.startswith("Stream"):
                continue
            for event in line.events:
                stats = dict(event.stats)
                where = str(stats.get("name") or stats.get("tf_op") or stats.get("hlo_op") or "")
                kernels[event.name].append(event.duration_ns / 1e6)
                parts[_part_of(where)] += event.duration_ns / 1e6
                count += 1
    dearest = sorted(kernels.items(), key=lambda item: -sum(item[1]))[:20]
    return {
        "kernels": count / repeats,
        "busy ms": sum(parts.values()) / repeats,
        "by part, ms": {name: round(value / repeats, 4) for name, value in parts.most_common(16)},
        "dearest": {name[:90]: f"{sum(taken) / repeats:.4f} ms in {len(taken) / repeats:g}" for name, taken in dearest},
    }


def _part_of(where: str) -> str:
    """The module that an operation's name ("jit(f)/HMHINet.step/.../shallow_bank.read/...") lies in."""
    known = ("sgim_module", "plam_module", "decoder", "encoder")
    for bank in ("shallow_bank", "deep_bank"):
        if bank in where:
            return f"{bank}, {'read' if '.read' in where else 'write and encode'}"
    for name in known:
        if f"{name}" in where:
            stage = re.search(r"stage\d", where)
            return f"{name} {stage[0]}" if stage and name == "encoder" else name
    return "the rest" if where else "without a name"


# ---------------------------------------------------------------------------------------------------------- segment


def segment(request: dict) -> None:
    """`hmhi segment` of a 720p clip repeated to 500 frames, as a user runs it."""
    results = Results(request, "segment")
    if not request["clip"]:
        results.put("left out", value="no --clip")
        return
    os.environ["JAX_COMPILATION_CACHE_DIR"] = os.environ["HMHI_BENCHMARK_CACHE"]
    folder = Path(request["out"]).parent / "segment"
    folder.mkdir(exist_ok=True)
    clip = folder / "long.mp4"
    count = _repeat(Path(request["clip"]), clip, 12 if request["small"] else 500)
    large = folder / "mit_b1.safetensors"
    subprocess.run(our_side(request, "weights", {"path": str(large)}), check=True)
    command = [sys.executable, "-c", "from hmhi_jax.cli import command; command()", "segment", str(clip)]
    for name, weights, dtype in (
        ("tiny, default", "tiny", None), ("tiny, bfloat16", "tiny", "bfloat16"),
        ("MiT-b1 512, bfloat16", str(large), "bfloat16"),
    ):  # fmt: skip
        out = folder / re.sub(r"\W+", "_", name)
        chosen = [*command, "--out", str(out), "--weights", weights, *(["--dtype", dtype] if dtype else [])]
        begin = time.perf_counter()
        done = subprocess.run(chosen, capture_output=True, text=True)
        wall = time.perf_counter() - begin
        if done.returncode:
            results.put(name, value={"error": (done.stdout + done.stderr)[-400:]})
            continue
        (path,) = out.rglob("summary.json")
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
                    frame.pts, frame.time_base, frame.pict_type = written, stream.codec_context.time_base, 0
                    output.mux(stream.encode(frame))
                    written += 1
        output.mux(stream.encode(None))
    return written


# ----------------------------------------------------------------------------------------------------------- loader


def loader(request: dict) -> None:
    """Clips per second that the processor's cores prepare, at the training step's size."""
    results = Results(request, "loader")
    workers = 1 if request["small"] else max(1, (os.cpu_count() or 2) - 2)
    command = [sys.executable, str(HERE / "accelerator_ours.py"), "loader", json.dumps(request | {"workers": workers})]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    line = done.stdout.strip().splitlines()[-1:] or [json.dumps({"error": done.stderr[-400:]})]
    results.put(f"{workers} workers", value=json.loads(line[0]))


if __name__ == "__main__":
    globals()[sys.argv[1]](json.loads(sys.argv[2]))
