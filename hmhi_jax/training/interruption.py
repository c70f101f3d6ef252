"""SIGTERM (a scheduler takes the machine back) and Ctrl-C: finish the step, save, stop."""

import os
import signal

import jax
from jax.experimental import multihost_utils


class Interruption:
    """Watches for a wish to stop; a context manager that puts the old signal handlers back.

    With several processes JAX's preemption service takes SIGTERM instead and lets all of them agree on one step, also
    where only one was told; Ctrl-C is passed on to it.
    """

    def __init__(self) -> None:
        self._signal: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "Interruption":
        watched = (signal.SIGINT,) if jax.process_count() > 1 else (signal.SIGTERM, signal.SIGINT)
        for number in watched:
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame) -> None:
        self._signal = number
        signal.signal(number, signal.SIG_DFL)  # the second one stops at once
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)

    def requested(self, step: int) -> bool:
        """Whether to save and stop after `step`. Every process must ask at every step."""
        if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step):
            self._signal = self._signal or signal.SIGTERM
            return True
        return self._signal is not None and jax.process_count() == 1

    @property
    def name(self) -> str:
        """Of the signal, for the message."""
        return signal.Signals(self._signal).name if self._signal is not None else ""

    @property
    def exit_code(self) -> int:
        """0 for SIGTERM (the run can simply be started again), 130 for Ctrl-C."""
        return 130 if self._signal == signal.SIGINT else 0
