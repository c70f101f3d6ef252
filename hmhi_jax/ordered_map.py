"""Work spread over threads or processes: results in order, a bounded number of them in hand."""

import collections
import itertools
import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from typing import TypeVar

import cv2

In = TypeVar("In")
Out = TypeVar("Out")


def ordered_map(
    function: Callable[[In], Out], items: Iterable[In], *, workers: int, processes: bool = False
) -> Iterator[Out]:
    """`function` of every item, in order, at most two items a worker ahead of who takes the results.

    An error of `function` or of `items` is raised in its place. When the iterator is closed, by an error or by
    `close`, what has not begun is not done.

    Args:
        workers: threads or processes; 0 does the work where the results are taken.
        processes: whether they are processes. These start fresh, since one that runs JAX must not be forked, and keep
            OpenCV to one thread; function, items and results are pickled.
    """
    if not workers:
        yield from map(function, items)
        return
    if processes:
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(workers, mp_context=context, initializer=cv2.setNumThreads, initargs=(1,))
    else:
        pool = ThreadPoolExecutor(workers)
    waiting: collections.deque[Future[Out]] = collections.deque()
    remaining = iter(items)
    try:
        while True:
            waiting.extend(
                pool.submit(function, item) for item in itertools.islice(remaining, 2 * workers - len(waiting))
            )
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
