"""Processes that work together end together: when one fails, dies or hangs, the others say which, and stop.

Without this they would wait for it, in a collective of the devices or in JAX's barrier at the end, for minutes, and end
with a stack trace. Every process writes a beat into the key-value store of JAX's coordinator (process 0) and looks at
those of the others. The coordinator runs in a process of its own (`coordinator`), so that the death of process 0 is
like any other's; only where that process is killed too JAX ends the others at once, in its own words.
"""

import contextlib
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator

import jax
from jax._src import distributed  # the only way to the key-value store

from hmhi_jax.errors import InputError, reason_of
from hmhi_jax.training.coordinator import apart
from hmhi_jax.training.mesh import join_processes

SILENCE = 40.0  # seconds without a beat after which a process is lost; JAX's own limit, 100, must not come first
PATIENCE = 10.0  # seconds process 0 waits for the others to read why it leaves
_EVERY = 2.0
_BEATS, _FAILED, _LEFT = "hmhi/beats", "hmhi/failed", "hmhi/left"


@contextlib.contextmanager
def joined(
    coordinator: str | None = None,
    process_count: int | None = None,
    process_index: int | None = None,
    *,
    silence: float = SILENCE,
) -> Iterator[None]:
    """Join the other processes of this run as `join_processes` does, and end with them.

    An exception inside, in a run of several processes, is printed and told to the others, and the process ends with 2
    (`InputError`), 130 (Ctrl-C) or 1; those that are told, or have not heard of one for `silence` seconds, with 2.
    """
    with apart():
        join_processes(coordinator, process_count, process_index)
    if distributed.global_state.client is None:
        yield
        return
    watch = _Watch(silence)
    watch.start()
    try:
        yield
    except InputError as error:
        watch.fail(str(error), 2)
    except KeyboardInterrupt:
        watch.fail("stopped by Ctrl-C", 130)
    except Exception as error:
        if isinstance(error, jax.errors.JaxRuntimeError):
            # A collective that breaks off may only mean that another process did: then the watch ends this one here.
            time.sleep(silence + 2 * _EVERY)
        traceback.print_exc()
        watch.fail(f"{type(error).__name__}: {reason_of(error)}", 1)


class _Watch(threading.Thread):
    def __init__(self, silence: float) -> None:
        super().__init__(name="companions", daemon=True)
        state = distributed.global_state
        self.client, self.index, self.count, self.silence = state.client, state.process_id, state.num_processes, silence
        self._answered = time.monotonic()
        self._leaving = threading.Lock()

    def start(self) -> None:
        super().start()
        threading.Thread(target=self._watch_coordinator, name="coordinator", daemon=True).start()

    def run(self) -> None:
        heard = {index: ("", time.monotonic()) for index in range(self.count)}
        beat = 0
        why = f"nothing was heard of it for {self.silence:g} seconds: it died, hangs or cannot be reached"
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # all have ended, or the coordinator has: see above
            while True:
                beat += 1
                self.client.key_value_set(f"{_BEATS}/{self.index}", str(beat), allow_overwrite=True)
                if failed := self._read(_FAILED):
                    self._leave(*failed.popitem())
                beats, now = self._read(_BEATS), time.monotonic()
                self._answered = now
                for index, (last, since) in heard.items():
                    if (found := beats.get(index, "")) != last:
                        heard[index] = (found, now)
                    elif now - since > self.silence:
                        self.client.key_value_set(f"{_FAILED}/{index}", why, allow_overwrite=True)
                        self._leave(index, why)
                time.sleep(min(_EVERY, self.silence / 4))
        self._answered = float("inf")

    def _watch_coordinator(self) -> None:
        """A machine that is gone does not answer, and does not refuse either."""
        while time.monotonic() - self._answered < self.silence:
            time.sleep(min(_EVERY, self.silence / 4))
        with self._leaving:
            self._say_lost(0, f"its machine does not answer for {self.silence:g} seconds")
            os._exit(2)

    def fail(self, why: str, code: int) -> None:
        """Tell the others why this process ends, and end it."""
        with self._leaving:
            print(f"error: {why}", file=sys.stderr)
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                self.client.key_value_set(f"{_FAILED}/{self.index}", why, allow_overwrite=True)
                self._end(code)
            os._exit(code)

    def _leave(self, index: int, why: str) -> None:
        with self._leaving:
            self._say_lost(index, why)
            self._end(2)

    def _say_lost(self, index: int, why: str) -> None:
        print(
            f"error: process {index} of {self.count} is lost ({why}), so process {self.index} stops too; start all "
            "of them again to go on",
            file=sys.stderr,
            flush=True,
        )

    def _end(self, code: int) -> None:
        """Without JAX's barrier at the end, in which the others would be waited for. Process 0 is the last to go: JAX
        ends the others when it sees that its coordinator does."""
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            self.client.key_value_set(f"{_LEFT}/{self.index}", "", allow_overwrite=True)
            deadline = time.monotonic() + PATIENCE
            while self.index == 0 and time.monotonic() < deadline:
                if len({*self._read(_LEFT), *self._read(_FAILED)}) >= self.count:
                    distributed.global_state.service.leave()
                    break
                time.sleep(0.2)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    def _read(self, folder: str) -> dict[int, str]:
        return {int(key.rpartition("/")[2]): value for key, value in self.client.key_value_dir_get(folder)}
