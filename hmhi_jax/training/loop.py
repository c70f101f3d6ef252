"""The loop: batches in, checkpoints and figures out, and an orderly end whatever happens: after SIGTERM (a scheduler
takes the machine back) or Ctrl-C the step is finished and saved."""

import logging
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import UInt8

from hmhi_jax import process
from hmhi_jax.data.device_batches import DeviceBatch
from hmhi_jax.errors import InputError
from hmhi_jax.progress import TrainingProgress
from hmhi_jax.training.checkpoints import Checkpoints
from hmhi_jax.training.mesh import wait_for_all
from hmhi_jax.training.metrics_log import MetricsLog, as_floats
from hmhi_jax.training.step import Metrics, TrainState


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


_log = logging.getLogger(__name__)

PROFILED_STEPS = range(2, 5)  # of this start of the run: compilation is over, three steps show the rhythm


@runtime_checkable
class Batches(Protocol):
    """Where clips come from: an endless iterator whose place can be written down (`data.device_batches.DeviceBatches`).

    Attributes:
        waited: seconds `next` has waited so far.
    """

    waited: float

    def __next__(self) -> DeviceBatch: ...

    def get_state(self) -> dict[str, Any]: ...

    def set_state(self, state: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


@dataclass
class Evaluation:
    """What an evaluation gives back: figures by name, and pictures of predictions by name."""

    metrics: dict[str, float]
    pictures: dict[str, UInt8[np.ndarray, "H W 3"]] = field(default_factory=dict)


@dataclass(frozen=True)
class Schedule:
    """When things happen, in steps; 0 is never.

    Attributes:
        total: steps of the whole run.
        save_every, evaluate_every, log_every: as they say. The last step is always saved and evaluated.
    """

    total: int
    save_every: int = 1000
    evaluate_every: int = 0
    log_every: int = 1


@dataclass
class TrainingOutcome:
    """How a run ended: the state, the signal that stopped it or "", and the code to exit with."""

    state: TrainState
    signal: str = ""
    exit_code: int = 0


@dataclass
class _Pending:
    """A dispatched step whose metrics have not been fetched."""

    step: int
    metrics: Metrics
    clips: tuple[str, ...]
    waited: float


class Loop:
    """Runs steps from a state to the end of its schedule."""

    def __init__(
        self,
        step_program: Callable[[TrainState, Any], Any],
        batches: Batches,
        schedule: Schedule,
        checkpoints: Checkpoints,
        workdir: Path,
        run: dict[str, Any],
        *,
        evaluate: Callable[[TrainState], Evaluation] | None = None,
        export: Callable[[TrainState, Mapping[str, float]], None] | None = None,
        tensorboard: bool = True,
        profile: bool = False,
    ) -> None:
        """
        Args:
            step_program: compiles the step for a state and a batch's arrays, see `assemble.Parts.step_compiler`.
            run: config and versions, stored in every checkpoint.
            evaluate: called on process 0.
            export: writes the weights for use elsewhere; called on process 0 after an evaluation that was the best so
                far, and at the end where nothing is evaluated. May be called again for a step that was interrupted.
        """
        self.step_program, self.batches, self.schedule = step_program, batches, schedule
        self.checkpoints, self.workdir, self.run_record = checkpoints, workdir, run
        self.evaluate, self.export = evaluate, export
        self.tensorboard, self.profile = tensorboard, profile
        self.is_first = jax.process_index() == 0
        self._programs: dict[tuple[int, ...], Callable] = {}
        self._tracing = False

    def run(self, state: TrainState, interruption: Interruption, notes: Sequence[str] = ()) -> TrainingOutcome:
        """Train to the end or to the signal that `interruption` watches for, saying `notes` first.

        What is being written is finished in any case.
        """
        start = int(state.step)
        self.log = MetricsLog(self.workdir, start, tensorboard=self.tensorboard, active=self.is_first)
        self.progress = TrainingProgress(self.schedule.total, start, active=self.is_first)
        for note in notes:
            self.progress.say(note)
        try:
            outcome = self._steps(state, start, interruption)
            self.checkpoints.close()
            return outcome
        except BaseException:
            try:
                self.checkpoints.close()
            except Exception as error:  # the first error is the one to report
                _log.warning("while stopping: %s", error)
            raise
        finally:
            if self._tracing:
                jax.profiler.stop_trace()
            self.progress.close()
            self.log.close()

    def _steps(self, state: TrainState, start: int, interruption: Interruption) -> TrainingOutcome:
        schedule, pending = self.schedule, None
        if start:
            self._finish(state, start)  # the run may have ended between a checkpoint and what follows from it
        last_end = time.monotonic()
        for step in range(start + 1, schedule.total + 1):
            self._trace(step - start, state)
            waited = self.batches.waited
            batch = next(self.batches)
            waited = self.batches.waited - waited
            data_state = self.batches.get_state()
            state, metrics = self._compiled(state, batch.arrays)(state, batch.arrays)
            # The devices are busy with this step while the figures of the one before are fetched.
            if pending is not None:
                last_end = self._report(pending, last_end)
            pending = _Pending(step, metrics, batch.clips, waited)

            last = step == schedule.total
            stop = interruption.requested(step)
            if stop or last or _due(step, schedule.evaluate_every) or _due(step, schedule.save_every):
                # A state is saved only when its loss is known to be finite.
                last_end = self._report(pending, last_end)
                pending = None
                # Saved before all else: an evaluation takes long, and whatever happens in it costs no step.
                self.checkpoints.save(state, data_state, self.run_record, wait=stop or last)
                if not stop:
                    self._finish(state, step)
                last_end = time.monotonic()
            if stop:
                self.progress.say(f"{interruption.name}: saved step {step}; start the same command again to go on")
                return TrainingOutcome(state, interruption.name, interruption.exit_code)
        return TrainingOutcome(state)

    def _evaluated_at(self, step: int) -> bool:
        every, last = self.schedule.evaluate_every, step == self.schedule.total
        return self.evaluate is not None and (_due(step, every) or (last and every > 0))

    def _finish(self, state: TrainState, step: int) -> None:
        """What a saved step is still owed: its evaluation, and the weights for use elsewhere."""
        export = self.export if self.is_first else None
        if self._evaluated_at(step) and not self.checkpoints.evaluated(step):
            figures = self._evaluate(state, step)
            if self.checkpoints.is_best(figures) and export is not None:
                export(state, figures)
            self.checkpoints.record(step, figures)
        if step == self.schedule.total and export is not None and self.checkpoints.best() is None:
            export(state, {})

    def compile(self, state: TrainState, arrays: Mapping[str, Any]) -> str:
        """Compile the step for a batch's size, for which shapes suffice; what it took, to be said.

        All processes wait for the slowest: collectives are less patient.
        """
        size = arrays["frames"].shape
        began = time.monotonic()
        program = self.step_program(state, arrays)
        process.give_back_freed_memory()
        wait_for_all(f"compiled-{'-'.join(map(str, size))}")
        self._programs[size] = program
        memory = program.memory_analysis()
        text = f"compiled for {size[2]} x {size[3]} in {time.monotonic() - began:.0f} s"
        if memory is not None:
            text += f", temporary memory {memory.temp_size_in_bytes / 1e9:.2f} GB a device"
        return text

    def _compiled(self, state: TrainState, arrays: Mapping[str, jax.Array]) -> Callable:
        size = arrays["frames"].shape
        if size not in self._programs:
            self.progress.say(self.compile(state, arrays))
        return self._programs[size]

    def _report(self, pending: _Pending, last_end: float) -> float:
        """Fetch, check and write a step's figures; the time at which they were there."""
        values = as_floats(pending.metrics.scalars)
        now = time.monotonic()
        if not (np.isfinite(values["loss"]) and np.isfinite(values["gradient_norm"])):
            raise InputError(self._not_finite(pending, values))
        duration = max(now - last_end, 1e-9)
        clips = pending.metrics.clip_losses.shape[0]
        values |= {
            "clips_per_second": clips / duration,
            "seconds_per_step": duration,
            "data_wait_share": min(1.0, pending.waited / duration),
        }
        if _due(pending.step, self.schedule.log_every) or pending.step == self.schedule.total:
            self.log.write(pending.step, values)
        self.progress.update(pending.step, values)
        return now

    def _not_finite(self, pending: _Pending, values: Mapping[str, float]) -> str:
        shards = sorted(pending.metrics.clip_losses.addressable_shards, key=lambda shard: shard.index[0].start or 0)
        by_start = {shard.index[0].start or 0: np.asarray(shard.data) for shard in shards}
        losses = np.concatenate(list(by_start.values()))
        guilty = [name for name, loss in zip(pending.clips, losses, strict=True) if not np.isfinite(loss)]
        what = f"loss {values['loss']}, gradient norm {values['gradient_norm']}"
        clips = f"clips with such a loss: {', '.join(guilty)}" if guilty else f"clips: {', '.join(pending.clips)}"
        kept = self.checkpoints.steps()
        good = f"the last good checkpoint is step {kept[-1]}" if kept else "there is no checkpoint yet"
        return (
            f"step {pending.step} is not finite ({what}); {clips}; {good}; look at these clips, or lower "
            "optimiser.learning_rate or set optimiser.clip_norm, and start again"
        )

    def _evaluate(self, state: TrainState, step: int) -> dict[str, float]:
        """Figures on process 0, nothing on the others, which wait for it."""
        metrics: dict[str, float] = {}
        if self.is_first:
            result = self.evaluate(state)
            metrics = {name: float(value) for name, value in result.metrics.items()}
            self.log.write(step, metrics)
            for name, picture in result.pictures.items():
                self.log.picture(step, name, picture)
            self.progress.say(f"step {step}: " + "  ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
        wait_for_all(f"evaluated-{step}")
        return metrics

    def _trace(self, nth: int, state: TrainState) -> None:
        if not (self.profile and self.is_first):
            return
        if nth - 1 in (PROFILED_STEPS.start, PROFILED_STEPS.stop):
            jax.block_until_ready(state)  # the step before belongs to its own side of the border
        if nth - 1 == PROFILED_STEPS.start:
            jax.profiler.start_trace(str(self.workdir / "profile"))
            self._tracing = True
        elif nth - 1 == PROFILED_STEPS.stop and self._tracing:
            jax.profiler.stop_trace()
            self._tracing = False
            self.progress.say(f"profile of steps {PROFILED_STEPS.start + 1} to {PROFILED_STEPS.stop} written")


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
