"""Time and memory of one frame at steady state, beside the authors' release.

    python benchmarks/inference.py --release CLONE --python PYTHON_WITH_TORCH [--compiled] [--bfloat16]

Every side is a process of its own, with its own peak of resident memory, and waits while another works; they take turns
frame by frame, so that a machine that gets slower gets slower for all. Both sides have the same weights (the release's
own fresh ones) and the same pictures, and the logits are compared. Ratios are of the fastest frames. The peak of each
side is read after the frames and before its parts are timed by themselves. This package's processes get their memory in
large pages, as the `hmhi` command does, the release's as it comes. Without --release only this package is measured.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from hmhi_jax.process import large_pages_environment

HERE = Path(__file__).resolve().parent
RELEASE_SCRIPT = HERE.parent / "hmhi_jax" / "interop" / "release_process.py"


class Side:
    """A process that does on command and says how long it took."""

    def __init__(self, command: list[str], script: str, request: dict, large_pages: bool) -> None:
        self.process = subprocess.Popen(
            [*command, str(HERE / script), json.dumps(request)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=large_pages_environment(os.environ) if large_pages else None,
        )
        self.ready = self._answer()
        self.seconds: dict[str, list[float]] = {}
        self.peak_gib = 0.0

    def _answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"the side ended: {' '.join(map(str, self.process.args[:2]))}")
        return json.loads(line)

    def do(self, part: str) -> None:
        print(part, file=self.process.stdin, flush=True)
        answer = self._answer()
        self.seconds.setdefault(part, []).append(answer["seconds"])
        if part == "frame":
            self.peak_gib = answer["peak_gib"]

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()

    def summary(self) -> dict:
        times = {
            part: {"min_ms": 1e3 * min(taken), "median_ms": 1e3 * float(np.median(taken))}
            for part, taken in self.seconds.items()
        }
        return self.ready | {"times": times, "peak_gib": self.peak_gib}


def measure(arguments: argparse.Namespace, memory_frames: int, folder: Path) -> dict:
    clip = np.random.default_rng(0).integers(0, 256, (2, memory_frames + 2, *arguments.size, 3), dtype=np.uint8)
    np.save(folder / "clip.npy", clip)
    weights = folder / "weights.npz"
    shared = {"memory_frames": memory_frames, "clip": str(folder / "clip.npy"), "weights": str(weights)}
    sides: dict[str, Side] = {}

    def start(name: str, command: list[str], script: str, **more) -> None:
        print(f"memory {memory_frames}: starting {name}", file=sys.stderr, flush=True)
        large_pages = script == ours or arguments.large_pages_for_release
        sides[name] = Side(command, script, {**shared, "logits": str(folder / f"{name}.npy"), **more}, large_pages)

    ours = "inference_our_side.py"
    if arguments.release:
        release = {"clone": str(arguments.release.resolve()), "release_script": str(RELEASE_SCRIPT)}
        script = "inference_release_side.py"
        start("release", [arguments.python], script, **release, compiled=False)
        if arguments.compiled:
            start("release, compiled", [arguments.python], script, **release | {"weights": ""}, compiled=True)
    else:
        _fresh_weights(memory_frames, weights)
    start("ours", [sys.executable], ours, dtype="float32", cache=not arguments.cold)
    if arguments.bfloat16:
        start("ours, bfloat16", [sys.executable], ours, dtype="bfloat16", cache=not arguments.cold)
    for _ in range(arguments.rounds):
        for side in sides.values():
            side.do("frame")
    for side in sides.values():  # every part compiles at its first call
        for part in side.ready["parts"]:
            if part != "frame":
                side.do(part)
                side.seconds[part].clear()
    for _ in range(arguments.rounds):
        for part in sides["ours"].ready["parts"]:
            if part != "frame":
                for side in sides.values():
                    side.do(part)
    for side in sides.values():
        side.close()
    result = {name: side.summary() for name, side in sides.items()}
    reference = np.load(folder / ("release.npy" if arguments.release else "ours.npy"))
    for name in sides:
        logits = np.load(folder / f"{name}.npy")
        result[name]["logits"] = {
            "largest_difference": float(np.abs(logits - reference).max()),
            "same_sign": float(np.mean((logits > 0) == (reference > 0))),
        }
    return result


def _fresh_weights(memory_frames: int, path: Path) -> None:
    import jax

    import hmhi_jax as hmhi

    model = hmhi.build_model("mit_b1", memory_frames=memory_frames)
    clip = jax.ShapeDtypeStruct((1, 2, 64, 64, 3), np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), clip, clip)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda x: rng.normal(0, 0.05, x.shape).astype(np.float32), shapes)
    np.savez(path, **hmhi.interop.to_torch(model, variables))


def show(memory_frames: int, result: dict) -> None:
    baseline = result.get("release", result["ours"])
    print(f"\nmemory {memory_frames}    (ms: min / median; x: of the first side's minimum)")
    parts = list(result["ours"]["times"])
    print(f"{'':26s}" + "".join(f"{name:>28s}" for name in result))
    for part in parts:
        cells = []
        for side in result.values():
            time = side["times"][part]
            ratio = baseline["times"][part]["min_ms"] / time["min_ms"]
            cells.append(f"{time['min_ms']:9.1f} /{time['median_ms']:8.1f} {ratio:5.2f} x")
        print(f"{part:26s}" + "".join(f"{cell:>28s}" for cell in cells))
    rows = {
        "peak resident GiB": lambda side: f"{side['peak_gib']:.2f}",
        "warm-up s": lambda side: f"{side['warm_up_seconds']:.1f}",
        "largest logit difference": lambda side: f"{side['logits']['largest_difference']:.1e}",
        "same sign": lambda side: f"{side['logits']['same_sign']:.4%}",
    }
    for name, text in rows.items():
        print(f"{name:26s}" + "".join(f"{text(side):>28s}" for side in result.values()))
    times = result["ours"]["times"]
    rate = 2 * 2048**3 / times["matmul 2048"]["min_ms"] / 1e6
    for name, gflop in result["ours"]["gflop"].items():
        bound = 1e3 * gflop / rate
        print(
            f"{name}: {gflop:.0f} GFLOP a frame take {bound:.0f} ms at the {rate:.0f} GFLOP/s measured for a matrix "
            f"product, {100 * bound / times['frame']['min_ms']:.0f} % of the time ours takes"
        )


def gflop_per_frame(memory_frames: int, size: tuple[int, int]) -> dict[str, float]:
    """Multiplications and additions (two per product) of convolutions and matrix products, counted in the program as
    traced: by the plain definitions, and in the formulations that run on CPU."""
    import jax

    import hmhi_jax as hmhi

    model = hmhi.build_model("mit_b1", memory_frames=memory_frames)
    clip = jax.ShapeDtypeStruct((1, 1, *size, 3), np.float32)
    two = jax.ShapeDtypeStruct((1, 2, *size, 3), np.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), two, two)
    features = jax.eval_shape(lambda v, x: model.apply(v, x, x, method="encode"), variables, clip)
    features = tuple(jax.ShapeDtypeStruct((1, *x.shape[2:]), x.dtype) for x in features)
    memory, _ = jax.eval_shape(lambda v, f: model.apply(v, f, method="start"), variables, features)
    encode = jax.make_jaxpr(lambda v, x: model.apply(v, x, x, method="encode"))(variables, clip)
    step = jax.make_jaxpr(lambda v, m, f: model.apply(v, m, f, method="step"))(variables, memory, features)
    branches = {"plain definition": -1, "as computed": 0}  # of a choice by platform: the last and the CPU's
    return {
        name: float(_flop(encode.jaxpr, which) + _flop(step.jaxpr, which)) / 1e9 for name, which in branches.items()
    }


def _flop(jaxpr, branch: int) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        name, parameters = equation.primitive.name, equation.params
        if name == "dot_general":
            (contracted, _), _ = parameters["dimension_numbers"]
            inner = np.prod([equation.invars[0].aval.shape[i] for i in contracted])
            total += 2 * inner * np.prod(equation.outvars[0].aval.shape)
        elif name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            outputs = parameters["dimension_numbers"].rhs_spec[0]
            total += 2 * np.prod(kernel) / kernel[outputs] * np.prod(equation.outvars[0].aval.shape)
        elif name == "cond":
            total += _flop(parameters["branches"][branch].jaxpr, branch)
        else:
            times = parameters.get("length", 1) if name == "scan" else 1
            for value in parameters.values():
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns"):
                    total += times * _flop(inner, branch)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--release", type=Path, help="clone of the authors' release")
    parser.add_argument("--python", default=sys.executable, help="a Python with torch")
    parser.add_argument("--compiled", action="store_true", help="also the release under torch.compile, part by part")
    parser.add_argument("--bfloat16", action="store_true", help="also this package computing in bfloat16")
    parser.add_argument("--memory", type=int, nargs="+", default=[5, 3], help="capacities of the memory")
    parser.add_argument("--size", type=int, nargs=2, default=[512, 512], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--large-pages-for-release", action="store_true", help="give the release the memory pages that `hmhi` asks for"
    )
    parser.add_argument("--cold", action="store_true", help="compile anew instead of using the compilation cache")
    parser.add_argument("--json", type=Path, default=Path("inference_benchmark.json"), help="where results go")
    arguments = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if arguments.release and arguments.size[0] != arguments.size[1]:
        sys.exit("the release works on square pictures only")
    results = {}
    for memory_frames in arguments.memory:
        with tempfile.TemporaryDirectory() as folder:
            results[memory_frames] = measure(arguments, memory_frames, Path(folder))
        results[memory_frames]["ours"]["gflop"] = gflop_per_frame(memory_frames, tuple(arguments.size))
        show(memory_frames, results[memory_frames])
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
