"""One side of `benchmarks/accelerator.py`: this package's frames and training steps.

accelerator_ours.py frames|training|compile|weights|loader REQUEST
"""

import json
import sys
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from accelerator_measuring import setup
from accelerator_trace import read_trace

import hmhi_jax as hmhi
from hmhi_jax.inference.functions import functions_of
from hmhi_jax.inference.network import Network, Programs
from hmhi_jax.interop.shapes import abstract_variables

LANES = 8


def draw_variables(model: Any) -> Any:
    """Weights with about the spread of fresh ones, drawn on the host without compiling anything."""
    rng = np.random.default_rng(0)

    def draw(path: tuple, leaf: Any) -> np.ndarray:
        name = path[-1].key
        if name in ("scale", "var"):
            return np.ones(leaf.shape, np.float32)
        if name in ("bias", "mean"):
            return np.zeros(leaf.shape, np.float32)
        fan_in = max(1, int(np.prod(leaf.shape[:-1])))
        return rng.normal(0, fan_in**-0.5, leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, abstract_variables(model))


def peak_mib() -> float | None:
    """Most memory of the device that was in use, where the platform counts it."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    return round(statistics["peak_bytes_in_use"] / 2**20) if "peak_bytes_in_use" in statistics else None


class FramePrograms:
    """The programs of `hmhi segment` for a chunk of one frame or several, with a full memory each."""

    def __init__(self, request: dict, memories: tuple[int, ...] = (5, 3), lanes=(1, LANES), chunk: int = 8) -> None:
        size = (64, 64) if request["small"] else (512, 512)
        backbone = request.get("backbone", "mit_tiny" if request["small"] else "mit_b1")
        begin = time.perf_counter()
        self.parts: list[str] = []
        self._held: dict[str, list] = {}
        futures: dict[str, Future] = {}
        with ThreadPoolExecutor(16) as pool:
            for capacity in memories:
                model = hmhi.build_model(backbone, memory_frames=capacity, dtype=request["dtype"])
                functions, variables = functions_of(model), draw_variables(model)
                places = {f"memory {capacity}, {'one video' if n == 1 else f'{n} videos'}": (n, 1) for n in lanes}
                if chunk and capacity == memories[0]:
                    places[f"memory {capacity}, one video in chunks of {chunk}"] = (1, chunk)
                for name, (videos, length) in places.items():
                    network = Network(functions, variables, lanes_per_device=videos, whole_chunks=True)
                    arguments = _chunk(network, size, length, capacity)
                    programs = Programs(functions, network.devices, videos)
                    futures[name] = pool.submit(programs.compiled, "chunk", network.variables, *arguments)
                    self._held[name] = [network.variables, *arguments]
                    self.parts.append(name)
            self.programs = {name: future.result() for name, future in futures.items()}
        self.seconds = time.perf_counter() - begin

    def run(self, name: str, count: int) -> Any:
        """So many calls of a program, one after the other; the last one's logits."""
        variables, memory, *inputs = held = self._held[name]
        for _ in range(count):
            memory, logits = self.programs[name](variables, memory, *inputs)
        held[1] = memory
        return logits

    def videos(self, name: str) -> int:
        """Frames that one call does."""
        return int(self._held[name][-1].sum())


def _chunk(network: Network, size: tuple[int, int], length: int, capacity: int) -> list[Any]:
    """A full memory, pictures and flow pictures of so many frames of every lane, and that no lane begins with them."""
    rng, lanes = np.random.default_rng(0), network.lanes
    memory = jax.tree.map(
        lambda x: jnp.asarray(rng.normal(0, 1, x.shape), x.dtype), network.memory_shapes(size, length)
    )
    memory = memory.replace(written=jnp.full(lanes, capacity, jnp.int32))
    pictures = [jax.device_put(rng.integers(0, 256, (lanes, length, *size, 3), np.uint8)) for _ in range(2)]
    return [memory, *pictures, jnp.zeros(lanes, bool), jnp.full(lanes, length, jnp.int32)]


class TrainingProgram:
    """The compiled step of one form, with a state and a batch on the device."""

    def __init__(self, request: dict, place: bool = True) -> None:
        from hmhi_jax.training.mesh import make_mesh
        from hmhi_jax.training.optimiser import learning_rate_schedule, make_optimiser
        from hmhi_jax.training.step import make_state, make_train_step

        small = request["small"]
        side, length = (64, 2) if small else (512, 5)
        self.clips = 1 if small else request["clips"]
        model = hmhi.build_model(
            "mit_tiny" if small else "mit_b1", memory_frames=length, dtype=request["dtype"]
        )  # fmt: skip
        schedule = learning_rate_schedule("constant", 6e-5, 100)
        optimiser = make_optimiser(schedule, weight_decay=5e-4, decay_mask="all")
        step = make_train_step(
            model, optimiser, schedule, make_mesh(1, 1, jax.devices()[:1]),
            checkpoint=request["checkpoint"], unroll=request["unroll"],
        )  # fmt: skip
        state = make_state(jax.tree.map(jnp.asarray, draw_variables(model)), optimiser, 0)
        rng = np.random.default_rng(0)
        shape = (self.clips, length, side, side)
        batch = {
            "frames": rng.integers(0, 256, (*shape, 3), np.uint8),
            "flows": rng.integers(0, 256, (*shape, 3), np.uint8),
            "masks": (rng.random((*shape, 1)) < 0.3).astype(np.uint8),
            "valid": np.ones(shape[:2], bool),
        }
        begin = time.perf_counter()
        lowered = step.lower(state, batch)
        self.tracing = time.perf_counter() - begin
        self.program = lowered.compile()
        self.seconds = time.perf_counter() - begin
        if place:
            self.state, self.batch = state, jax.device_put(batch, self.program.input_shardings[0][1])

    def run(self) -> Any:
        """One step."""
        self.state, metrics = self.program(self.state, self.batch)
        return metrics


def frames(request: dict) -> None:
    """Get ready, then serve."""
    answers = sys.stdout
    # Every program takes a minute to compile: all of them in one kind of numbers, one of them in the others.
    fewer = {} if request["dtype"] == "bfloat16" else {"memories": (5,), "lanes": (1,), "chunk": 0}
    programs = FramePrograms(request, **fewer)
    told = {"parts": programs.parts, "tracing and compiling s": round(programs.seconds, 1)}
    print(json.dumps(told), file=answers, flush=True)
    for command in sys.stdin:
        name, count = command.rsplit(maxsplit=1)
        if name.startswith("profile "):
            print(json.dumps(_profiled(programs, name.removeprefix("profile "), int(count))), file=answers, flush=True)
            continue
        begin = time.perf_counter()
        jax.block_until_ready(programs.run(name, int(count)))
        seconds = (time.perf_counter() - begin) / int(count)
        told = {"seconds": seconds, "videos": programs.videos(name), "peak MiB": peak_mib()}
        print(json.dumps(told), file=answers, flush=True)


def _profiled(programs: FramePrograms, name: str, count: int) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(programs.run(name, count))
        return read_trace(Path(folder), count)


def training(request: dict) -> None:
    """Get ready, then time one form's step as often as told."""
    step = TrainingProgram(request)
    told = {"tracing s": step.tracing, "tracing and compiling s": step.seconds}
    print(json.dumps(told), flush=True)
    try:
        losses, seconds = [], []
        for _ in range(int(sys.stdin.readline().split()[1])):
            begin = time.perf_counter()
            metrics = jax.block_until_ready(step.run())
            seconds.append(time.perf_counter() - begin)
            losses.append(float(metrics.scalars["loss"]))
    except jax.errors.JaxRuntimeError as error:
        print(json.dumps({"error": str(error).splitlines()[0][:300]}), flush=True)
        return
    best = min(seconds[1:])
    planned = step.program.memory_analysis()
    told = {
        "clips": step.clips, "s": best, "median s": float(np.median(seconds[1:])), "clips/s": step.clips / best,
        "peak MiB": peak_mib(), "planned temporary MiB": round(planned.temp_size_in_bytes / 2**20),
        "MiB a clip": (peak_mib() or 0) / step.clips, "first losses": losses[:2],
    }  # fmt: skip
    print(json.dumps(told), flush=True)


def compile(request: dict) -> None:
    """Leave the training step's program in the cache."""
    print(TrainingProgram(request, place=False).seconds, flush=True)


def weights(request: dict) -> None:
    """Weights of MiT-b1 for 512 x 512, drawn: they say nothing, and take as long as trained ones."""
    from hmhi_jax.data.flow import FlowRecipe
    from hmhi_jax.interop.weights import save_weights

    arguments = {"backbone": "mit_tiny" if request["small"] else "mit_b1", "memory_frames": 3}
    side = 64 if request["small"] else 512
    variables = draw_variables(hmhi.build_model(**arguments))
    recipe = FlowRecipe(size=(160, 288), camera="affine", normalisation="robust")
    save_weights(request["path"], variables, arguments, (side, side), recipe)


def loader(request: dict) -> None:
    """Clips per second of so many workers, from made-up pictures of 480 x 854 packed as they are."""
    from data import make_up, ours

    from hmhi_jax.data.layouts import open_dataset
    from hmhi_jax.data.packing import pack_dataset

    with tempfile.TemporaryDirectory() as scratch:
        folder, packed = Path(scratch, "folder"), Path(scratch, "packed")
        make_up(folder, videos=4, frames=20)
        pack_dataset(open_dataset(folder), packed)
        size, seconds = (64, 2.0) if request["small"] else (512, 10.0)
        ours(str(packed), "fast", "clip", size, 5, 8 if size == 512 else 1, request["workers"], seconds)


if __name__ == "__main__":
    setup()
    globals()[sys.argv[1]](json.loads(sys.argv[2]))
