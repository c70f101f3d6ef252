"""Stages that work at the same time: bounded channels between threads, results in order, errors handed on.

    with Pipeline() as pipeline:
        frames = pipeline.ahead(decode(), depth=2)              # one thread
        pictures = pipeline.map(draw, frames, workers=2)        # a few threads, order kept
        for picture in pipeline.ahead(compute(pictures), depth=1): ...

Each stage runs at most its depth (or twice its workers) ahead of the next, whatever the length of the input. An error
in a stage is raised by whoever reads its results. Leaving the `with` block, for whatever reason, stops and joins all.
"""

import collections
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

from hmhi_jax.process import cores

In = TypeVar("In")
Out = TypeVar("Out")

_PATIENCE = 10.0  # seconds to wait for a stage that does not stop, such as a camera that sends nothing
_LOOK = 0.1  # seconds after which whoever waits looks whether the pipeline is being left
_END = object()  # in the place of an item: there are no more

# Threads for flow, and as many for finishing masks. An accelerator asks for the flow of more frames a second than eight
# cores can estimate of large ones.
WORKERS = min(16, max(2, cores()))


def worker_pool(workers: int) -> ThreadPoolExecutor:
    """Threads for `Pipeline.map`."""
    return ThreadPoolExecutor(workers, thread_name_prefix="hmhi-worker")


class Stopped(Exception):
    """Raised inside a stage's thread when the pipeline is being left."""


class StageTimes:
    """Seconds of work by stage, added up over threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds: dict[str, float] = {}

    def add(self, stage: str, seconds: float) -> None:
        with self._lock:
            self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds

    @contextlib.contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - begin)

    def timed(self, stage: str, items: Iterable[In]) -> Iterator[In]:
        """`items`, with the time it takes to get each one counted."""
        iterator = iter(items)
        while True:
            with self.measure(stage):
                item = next(iterator, _END)
            if item is _END:
                return
            yield item

    def seconds(self) -> dict[str, float]:
        with self._lock:
            return dict(self._seconds)


class Pipeline:
    """Owns the threads of some stages; see the module's text. Use it as a context manager."""

    def __init__(self, pool: ThreadPoolExecutor | None = None) -> None:
        """`pool` is one that several pipelines share for what they `map`; without it each stage has its own."""
        self._shared = pool
        self._running: list[collections.deque[Future]] = []
        self._submitting = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._pools: list[ThreadPoolExecutor] = []
        self._left = False

    def __enter__(self) -> "Pipeline":
        return self

    def __exit__(self, *reason: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop all stages and wait for them. Harmless when called twice."""
        with self._submitting:
            self._left = True
        for pool in self._pools:
            pool.shutdown(wait=True, cancel_futures=True)
        wait([future for running in self._running for future in list(running) if not future.cancel()])
        deadline = time.monotonic() + _PATIENCE
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))

    def ahead(self, items: Iterable[In], depth: int) -> Iterator[In]:
        """`items`, produced in a thread of their own, at most `depth` ahead (and one being made)."""
        channel: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(depth)

        def put(item: Any, error: BaseException | None = None) -> None:
            while not self._left:
                with contextlib.suppress(queue.Full):
                    channel.put((item, error), timeout=_LOOK)
                    return
            raise Stopped

        def produce() -> None:
            error = None
            try:
                for item in items:
                    put(item)
            except BaseException as raised:
                error = raised
            with contextlib.suppress(Stopped):
                put(_END, error)
            if hasattr(items, "close"):
                with contextlib.suppress(Exception):
                    items.close()

        def read() -> Iterator[In]:
            while not self._left:
                try:
                    item, error = channel.get(timeout=_LOOK)
                except queue.Empty:
                    continue
                if error is not None:
                    raise error
                if item is _END:
                    return
                yield item
            raise Stopped

        thread = threading.Thread(target=produce, daemon=True, name="hmhi-stage")
        self._threads.append(thread)
        thread.start()
        return read()

    def map(self, function: Callable[[In], Out], items: Iterable[In], workers: int) -> Iterator[Out]:
        """`function` of every item, in order, on `workers` threads (or those of the shared pool), at most twice as many
        items ahead."""
        pool = self._shared
        if pool is None:
            pool = worker_pool(workers)
            self._pools.append(pool)
        return self._map(pool, function, items, 2 * workers)

    def _map(
        self, pool: ThreadPoolExecutor, function: Callable[[In], Out], items: Iterable[In], most: int
    ) -> Iterator[Out]:
        running: collections.deque[Future[Out]] = collections.deque()
        self._running.append(running)

        def result() -> Out:
            future = running.popleft()
            try:
                return future.result()
            except BaseException:
                for other in running:
                    other.cancel()
                raise

        failure: BaseException | None = None
        iterator = iter(items)
        while failure is None:
            try:
                item = next(iterator)
            except StopIteration:
                break
            except BaseException as error:  # after the results of what came before
                failure = error
                break
            with self._submitting:
                if self._left:
                    raise Stopped
                running.append(pool.submit(function, item))
            while running and (len(running) >= most or running[0].done()):
                yield result()
        while running and not self._left:
            yield result()
        if failure is not None:
            raise failure
