"""What the sections of `benchmarks/accelerator.py` measure with: figures on disk, times, processes that take turns."""

import json
import os
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SAMPLES = 20
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
        futures: dict[Any, Any] = {}
        for name, (function, arguments) in functions.items():
            try:  # a form that a card or a version of JAX lacks must not end the others
                futures[name] = pool.submit(function.lower(*arguments).compile)
            except (TypeError, ValueError, RuntimeError) as error:
                futures[name] = error
        programs = {}
        for name, future in futures.items():
            error = future.exception() if isinstance(future, Future) else future
            programs[name] = future.result() if error is None else str(error).splitlines()[0][:200]
        return programs


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
