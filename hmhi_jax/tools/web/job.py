"""Work that goes on in a thread while a page shows how far it got."""

import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator
from contextlib import closing

from hmhi_jax.errors import InputError


class Job:
    """Something of many parts, done in a thread of its own.

    doing    what is being done, for people; the work sets it
    done     parts that are done
    total    parts there will be
    failure  why it could not be done, in one line; empty while it can
    stopped  whether it was asked to stop
    """

    def __init__(self, work: Callable[["Job"], Generator[object]], total: int) -> None:
        """Starts at once. `work` gives anything after each part; between two parts it can be stopped."""
        self.doing, self.done, self.total, self.failure = "", 0, total, ""
        self._work, self._stop = work, threading.Event()
        self._begin = self._last = 0.0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    @property
    def rate(self) -> float:
        """Parts per second, without what came before the first one; 0 while nobody knows."""
        return (self.done - 1) / (self._last - self._begin) if self.done > 1 and self._last > self._begin else 0.0

    def stop(self) -> None:
        """Stop after the part that is being done, and wait for it."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            with closing(self._work(self)) as parts:
                for _ in parts:
                    self.done, self._last = self.done + 1, time.monotonic()
                    self._begin = self._begin or self._last
                    if self.stopped:
                        return
        except InputError as error:
            self.failure = str(error)
        except Exception as error:  # a visitor's video must not end the others' page
            traceback.print_exc(file=sys.stderr)
            self.failure = f"this could not be computed ({type(error).__name__}: {error})"
