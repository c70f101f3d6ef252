"""Learned optical flow, ours and torchvision's, in turns: frames per second, time to compile, memory.

    python benchmarks/flow.py --torch-python /path/to/python        # both, on this machine's CPU
    python benchmarks/flow.py                                       # ours alone; on a GPU where JAX has one
    python benchmarks/flow.py --torch-python python --device cuda   # both on the GPU

Each side runs in a process of its own, which waits while the other one works: the same drawn pictures, fresh weights,
one pair at a time, 12 iterations; both may have large memory pages (`process.py`). Ours is also timed as a video is
done, where every frame is encoded once. torchvision runs eagerly and, with `--compiled`, through `torch.compile`.
Printed is the best and the median of the rounds: run it on a quiet machine.

torchvision's RAFT needs none of its compiled operators, and so runs beside a build of PyTorch that cannot load them.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

SIZES = ((480, 854), (720, 1280))
NETWORKS = ("raft_large", "raft_small")


def pictures(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Two uint8 pictures [1, H, W, 3], a texture and itself moved by 3 and 5 pixels."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (1, size[0] // 8 + 2, size[1] // 8 + 2, 3), np.uint8)
    large = coarse.repeat(8, 1).repeat(8, 2)
    return large[:, : size[0], : size[1]].copy(), large[:, 3 : size[0] + 3, 5 : size[1] + 5].copy()


class Ours:
    """This package, on JAX's default device."""

    def __init__(self, device: str) -> None:
        import jax

        if device == "cpu":
            jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_enable_compilation_cache", False)  # compiling is timed
        self._jax = jax

    def prepare(self, network: str, size: tuple[int, int], way: str, iterations: int) -> tuple[Callable[[], Any], dict]:
        """What does one pair, and how long it took to compile and what memory it needs."""
        import jax.numpy as jnp

        from hmhi_jax.data.flow import FlowRecipe
        from hmhi_jax.flow_models import build_flow_model
        from hmhi_jax.flow_models.estimation import _estimate
        from hmhi_jax.inference.learned_flow import LearnedFlow

        jax = self._jax
        model = build_flow_model(network, dtype=way.split()[0])
        small = jnp.zeros((1, 128, 128, 3))
        variables = jax.jit(model.init)(jax.random.key(0), small, small)
        first, second = (jax.device_put(x) for x in pictures(size))
        if "video" in way:
            recipe = FlowRecipe(estimator="raft", network=network, iterations=iterations, weights="0" * 64)
            flow = LearnedFlow(model, variables, recipe)
            frames = [np.asarray(second[0]), np.asarray(first[0])]
            begin = time.perf_counter()
            flow.picture(frames[1], frames[0])

            def next_frame() -> np.ndarray:
                frames.append(frames.pop(0).copy())
                return flow.picture(frames[0], frames[1])

            return next_frame, {"compile": time.perf_counter() - begin}
        begin = time.perf_counter()
        program = _estimate.lower(model, variables, first, second, iterations).compile()
        compiled = time.perf_counter() - begin
        memory = program.memory_analysis()
        notes = {"compile": compiled, "memory": getattr(memory, "temp_size_in_bytes", None)}
        return lambda: jax.block_until_ready(program(variables, first, second)), notes


class Theirs:
    """torchvision, on "cpu" or "cuda"."""

    def __init__(self, device: str) -> None:
        import torch

        register = torch.library.register_fake

        def register_what_is_there(name: Any, *arguments: Any, **options: Any) -> Any:
            if isinstance(name, str) and name.startswith("torchvision::"):
                return lambda function: function
            return register(name, *arguments, **options)

        torch.library.register_fake = register_what_is_there
        from torchvision.models import optical_flow

        torch.library.register_fake = register
        self._torch, self._models, self._device = torch, optical_flow, device

    def prepare(self, network: str, size: tuple[int, int], way: str, iterations: int) -> tuple[Callable[[], Any], dict]:
        """As `Ours.prepare`. Sides are made multiples of 8 beforehand, which torchvision leaves to its callers."""
        torch = self._torch
        torch.manual_seed(0)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        model = getattr(self._models, network)().eval().to(self._device)
        pair = []
        for x in pictures(size):
            floats = torch.from_numpy(x).permute(0, 3, 1, 2).float() / 127.5 - 1
            padding = (0, -size[1] % 8, 0, -size[0] % 8)
            pair.append(torch.nn.functional.pad(floats, padding, mode="replicate").to(self._device))
        if way == "compiled":
            model = torch.compile(model)

        def run() -> Any:
            with torch.no_grad():
                flow = model(*pair, num_flow_updates=iterations)[-1]
            if self._device == "cuda":
                torch.cuda.synchronize()
            return flow

        begin = time.perf_counter()
        run()
        return run, {"compile": time.perf_counter() - begin}


def serve(side: Any) -> None:
    """Answer lines of JSON on standard input: prepare a case, or run it once."""
    run: Callable[[], Any] = lambda: None  # noqa: E731 - a place to fill
    for line in sys.stdin:
        order = json.loads(line)
        if order["do"] == "prepare":
            run, answer = side.prepare(order["network"], tuple(order["size"]), order["way"], order["iterations"])
            run()
        else:
            begin = time.perf_counter()
            run()
            answer = {"seconds": time.perf_counter() - begin}
        print("answer " + json.dumps(answer), flush=True)


class Side:
    """A process that serves one side."""

    def __init__(self, python: str, side: str, device: str) -> None:
        from hmhi_jax.process import large_pages_environment

        command = [python, __file__, "--serve", side, "--device", device]
        pipe, environment = subprocess.PIPE, large_pages_environment(os.environ)  # as this package's commands have it
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)

    def __call__(self, **order: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("answer "):
                return json.loads(line.removeprefix("answer "))
        raise SystemExit("a side has ended; see above")

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch-python", help="a Python with PyTorch and torchvision; ours alone if not given")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--sizes", nargs="+", default=["x".join(map(str, size)) for size in SIZES])
    parser.add_argument("--iterations", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compiled", action="store_true", help="also torchvision through torch.compile")
    parser.add_argument("--bfloat16", action="store_true", help="also ours in bfloat16")
    parser.add_argument("--serve", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve((Ours if options.serve == "ours" else Theirs)(options.device))
        return
    ways = [("ours", "float32"), ("ours", "float32 video")]
    ways += [("ours", "bfloat16"), ("ours", "bfloat16 video")] if options.bfloat16 else []
    ways += [("torchvision", "eager")] if options.torch_python else []
    ways += [("torchvision", "compiled")] if options.torch_python and options.compiled else []
    pythons = {"ours": (sys.executable, "ours"), "torchvision": (options.torch_python, "theirs")}
    for network in options.networks:
        for text in options.sizes:
            size = [int(side) for side in text.split("x")]
            sides = {way: Side(*pythons[way[0]], options.device) for way in ways}
            case = {"network": network, "size": size, "iterations": options.iterations}
            notes = {way: side(do="prepare", way=way[1], **case) for way, side in sides.items()}
            times: dict[tuple[str, str], list[float]] = {way: [] for way in ways}
            for _ in range(options.rounds):
                for way, side in sides.items():
                    times[way].append(side(do="run")["seconds"])
            for way in ways:
                best, middle = min(times[way]), statistics.median(times[way])
                memory = notes[way].get("memory")
                extra = f", {memory / 2**20:.0f} MiB temporary" if memory else ""
                print(
                    f"{network} {text} {' '.join(way):22} best {1 / best:7.3f} frames/s, median {1 / middle:7.3f} "
                    f"({middle:.3f} s), first call {notes[way]['compile']:.1f} s{extra}",
                    flush=True,
                )
            for side in sides.values():
                side.close()


if __name__ == "__main__":
    main()
