"""A pool of worker processes that score frames, each holding one frame at a time.

Why not `multiprocessing`: forking a process that runs JAX is unsafe, and its other start methods run the caller's
script a second time, which surprises anyone who calls `evaluate_uvos` outside `if __name__ == "__main__"`. A worker
here is a plain Python process that reads tasks from its standard input and writes results to its standard output, as
pickles.
"""

import contextlib
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass

from hmhi_jax.data.masks import VoidLabel
from hmhi_jax.data.pictures import Picture
from hmhi_jax.evaluation.frame_scores import FrameResult, Measures, score_files

# Frames per task: enough to make the exchange cheap, few enough to keep all cores busy until the end.
_FRAMES_PER_TASK = 8
# Starting processes takes this many seconds of work; less is done in threads, which the Python interpreter hinders but
# does not stop: decoding and morphology run outside of it.
_WORTH_PROCESSES = 2.0
_SECONDS_PER_FRAME = {"uvos": 0.008, "vsod": 0.008, "extra": 0.06}  # of 854 x 480 pixels, roughly


@dataclass(frozen=True)
class Task:
    """Frames to score: indices the caller knows them by, and their (prediction, truth) files."""

    indices: tuple[int, ...]
    files: tuple[tuple[Picture, Picture], ...]
    readings: tuple[str, ...]
    measures: Measures
    void_label: VoidLabel

    def run(self) -> list[FrameResult]:
        return [score_files(*files, self.readings, self.measures, self.void_label) for files in self.files]


def worker_count(workers: int | None) -> int:
    """The number of processes: as given, else the cores this process may use."""
    if workers is not None:
        return max(workers, 1)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def score_all(
    files: Sequence[tuple[Picture, Picture]],
    readings: tuple[str, ...],
    measures: Measures,
    void_label: VoidLabel = "auto",
    workers: int | None = None,
) -> Iterator[tuple[int, FrameResult]]:
    """Score (prediction, truth) pairs on all cores; yields (index, result) in the order they are done."""
    tasks = [
        Task(tuple(range(start, stop)), tuple(files[start:stop]), readings, measures, void_label)
        for start in range(0, len(files), _FRAMES_PER_TASK)
        for stop in [min(start + _FRAMES_PER_TASK, len(files))]
    ]
    count = min(worker_count(workers), len(tasks))
    seconds = sum(cost for name, cost in _SECONDS_PER_FRAME.items() if getattr(measures, name)) * len(readings)
    if count > 1 and seconds * len(files) >= _WORTH_PROCESSES:
        with _Pool(count) as pool:
            yield from pool.run(tasks)
        return
    with ThreadPoolExecutor(max(count, 1)) as threads:
        running = {threads.submit(task.run): task for task in tasks}
        for future in as_completed(running):
            yield from zip(running[future].indices, future.result(), strict=True)


class _Pool:
    """Worker processes, each fed by a thread of its own."""

    def __init__(self, count: int) -> None:
        environment = dict(os.environ, OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
        # The package may be imported from a folder that is on the parent's path only.
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        self._idle: list[subprocess.Popen[bytes]] = []
        self._all: list[subprocess.Popen[bytes]] = []
        self._lock = threading.Lock()
        for _ in range(count):
            process = subprocess.Popen(
                [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
            )
            self._all.append(process)
        self._idle = list(self._all)
        self._threads = ThreadPoolExecutor(count)

    def __enter__(self) -> "_Pool":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._all:
            process.kill()
        self._threads.shutdown(cancel_futures=True)
        for process in self._all:
            process.wait()
            with contextlib.suppress(BrokenPipeError):  # what a dead worker did not read any more
                process.stdin.close()
            process.stdout.close()

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[int, FrameResult]]:
        waiting = {self._threads.submit(self._exchange, task) for task in tasks}
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                yield from future.result()

    def _exchange(self, task: Task) -> list[tuple[int, FrameResult]]:
        with self._lock:
            process = self._idle.pop()
        try:
            pickle.dump(task, process.stdin)
            process.stdin.flush()
            answer = pickle.load(process.stdout)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError) as error:
            raise RuntimeError(
                f"a scoring process ended with code {process.wait()} (out of memory?) at {task.files[0][0]}; "
                "run again with fewer workers"
            ) from error
        finally:
            with self._lock:
                self._idle.append(process)
        if isinstance(answer, BaseException):
            raise answer
        return list(zip(task.indices, answer, strict=True))


def _serve() -> None:
    import signal

    import cv2

    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C belongs to the parent, which ends its workers
    tasks, results = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not end up between the results
    while True:
        try:
            task = pickle.load(tasks)
        except EOFError:
            return
        try:
            answer: object = task.run()
        except Exception as error:  # handed to the parent, which raises it
            answer = error
        pickle.dump(answer, results, protocol=pickle.HIGHEST_PROTOCOL)
        results.flush()


if __name__ == "__main__":
    # Import under the real name: what is pickled must not belong to `__main__`.
    from hmhi_jax.evaluation import worker_pool

    worker_pool._serve()
