"""Checkpoints that a run can always go on from: written beside the run, the last few and the best kept.

A checkpoint is a folder named by its step with four parts: `state` (a `TrainState`, every array), `data` (the data
iterator's state), `run` (config, versions, checksum), after an evaluation also `metrics`. It is written in the
background, under a temporary name, and renamed when complete; `metrics` come last, when all that follows from the
evaluation is done.

Order of restoring: the run's own checkpoints, newest first; else `init_from`; else fresh weights
(`hmhi_jax.training.initial_weights`).
"""

import errno
import json
import logging
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax import lax
from jaxtyping import Array, UInt32

import hmhi_jax
from hmhi_jax.complete_files import completed
from hmhi_jax.errors import InputError
from hmhi_jax.training.mesh import wait_for_all
from hmhi_jax.training.state import TrainState

FOLDER = "checkpoints"
CHECKSUM = "checksum"  # in a checkpoint's `run`
_METRICS = "metrics"  # Orbax's name for the part, and for the file in it
_OUT_OF_SPACE = ("No space left", "File too large", "Disk quota exceeded")


@dataclass(frozen=True)
class Restored:
    """What a checkpoint gave back."""

    step: int
    state: TrainState
    data: dict[str, Any]
    run: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(
        self,
        workdir: str | Path,
        *,
        keep_last: int = 2,
        keep_best: int = 1,
        best_metric: str | None = None,
        lowest_is_best: bool = False,
    ) -> None:
        """`best_metric` is a key of the figures handed to `record`; without it only the last ones are kept."""
        self.folder = Path(workdir).expanduser().absolute() / FOLDER
        self.warnings: list[str] = []
        sign = -1.0 if lowest_is_best else 1.0
        missing = float("-inf")

        def quality(metrics: Mapping[str, float]) -> float:
            return sign * float(metrics[best_metric]) if best_metric in metrics else missing

        managers = ocp.checkpoint_managers
        policies: list[Any] = [managers.LatestN(keep_last)]
        if best_metric and keep_best:
            policies.append(managers.BestN(get_metric_fn=quality, n=keep_best, keep_checkpoints_without_metrics=False))
        options = ocp.CheckpointManagerOptions(
            preservation_policy=managers.AnyPreservationPolicy(policies),
            best_fn=quality if best_metric else None,
            cleanup_tmp_directories=True,
            enable_async_checkpointing=True,
        )
        self._best_metric, self._sign = best_metric, sign
        self._best_value: float | None = None
        with _explained(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._manager = ocp.CheckpointManager(self.folder, options=options)

    def steps(self) -> list[int]:
        """Steps of all complete checkpoints, ascending."""
        return sorted(self._manager.all_steps())

    def best(self) -> tuple[int, float] | None:
        """Step and value of the best checkpoint so far, None before the first evaluation."""
        scored = [(step, metrics[self._best_metric]) for step in self.steps() if (metrics := self._metrics(step))]
        if self._best_metric is None or not scored:
            return None
        step = self._manager.best_step()
        return next(((s, value) for s, value in scored if s == step), None)

    def is_best(self, figures: Mapping[str, float] | None) -> bool:
        """Whether an evaluation is better than all before it; asked once for each, before it is recorded."""
        if not figures or self._best_metric not in figures:
            return False
        if self._best_value is None and (known := self.best()) is not None:
            self._best_value = known[1]
        value = float(figures[self._best_metric])
        better = self._best_value is None or self._sign * value > self._sign * self._best_value
        if better:
            self._best_value = value
        return better

    def evaluated(self, step: int) -> bool:
        """Whether the checkpoint of this step has an evaluation's figures."""
        return self._manager.metrics(step) is not None

    def _metrics(self, step: int) -> dict[str, float] | None:
        metrics = self._manager.metrics(step)
        return metrics if metrics and self._best_metric in metrics else None

    def save(self, state: TrainState, data: dict[str, Any], run: dict[str, Any], *, wait: bool = False) -> None:
        """Save after `state.step` steps, in the background unless `wait`.

        Does nothing if that step is saved already. An earlier save that failed is reported here, or by `close`.

        Raises:
            InputError: if the disk is full or the folder cannot be written.
        """
        step = int(state.step)
        with _explained(self.folder):
            self._manager.check_for_errors()
            if step not in self.steps():
                parts = ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    data=ocp.args.JsonSave(data),
                    run=ocp.args.JsonSave(run | {CHECKSUM: int(checksum(state))}),
                )
                self._manager.save(step, args=parts, force=True)
            if wait:
                self._manager.wait_until_finished()

    def record(self, step: int, figures: Mapping[str, float]) -> None:
        """Write an evaluation's figures into the checkpoint of `step`, which is waited for; called on every process.

        Raises:
            InputError: as `save`.
        """
        with _explained(self.folder):
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
            if jax.process_index() == 0 and not self.evaluated(step):
                with completed(self.folder / str(step) / _METRICS) as part:
                    part.mkdir()
                    (part / _METRICS).write_text(json.dumps(dict(figures)))
        wait_for_all(f"recorded-{step}")
        self._manager.reload()

    def restore_newest(self, like: TrainState, check: Callable[[dict[str, Any]], None]) -> Restored | None:
        """The newest checkpoint that can be read, placed as `like`; None where there is none at all.

        A checkpoint whose files are damaged is moved aside with a warning that names it, and the one before is taken.

        Args:
            like: `jax.ShapeDtypeStruct`s with shardings, of this run's mesh; a checkpoint fits every mesh.
            check: called with the checkpoint's `run` before its arrays are read; raises `InputError` if it does not
                fit.

        Raises:
            InputError: from `check`, if there are checkpoints, or damaged ones, and none can be read, or if the newest
                one holds other arrays than `like` or cannot be read for a reason that is not its own (memory, rights):
                it stays.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                run = self._manager.restore(step, args=ocp.args.Composite(run=ocp.args.JsonRestore()))["run"]
                check(run)
                self._check_arrays(step, like)
                parts = ocp.args.Composite(state=ocp.args.StandardRestore(like), data=ocp.args.JsonRestore())
                found = self._manager.restore(step, args=parts)
                if run.get(CHECKSUM) not in (None, int(checksum(found["state"]))):
                    raise ValueError("its arrays are not those that were saved: the checksum differs")
            except InputError:
                raise
            except (MemoryError, PermissionError, jax.errors.JaxRuntimeError) as error:
                place = self.folder / str(step)
                raise InputError(f"{place}: cannot be read here ({_reason(error)}); it was left as it is") from error
            except Exception as error:  # whatever a damaged file makes the reader raise
                self._set_aside(step, error)
                continue
            return Restored(step, found["state"], found["data"], run)
        if broken := sorted(path.name for path in self.folder.glob("broken-*")):
            raise InputError(
                f"{self.folder}: none of its checkpoints can be read ({', '.join(broken)}); put a copy of one back, or "
                "start afresh in another --workdir, or here after removing them"
            )
        return None

    def _check_arrays(self, step: int, like: TrainState) -> None:
        """A checkpoint of other arrays is not damaged: nobody should lose it over a setting."""
        stored = {x.name: tuple(x.shape) for x in jax.tree.leaves(_stored_arrays(self.folder / str(step) / "state"))}
        wanted = {_name(path): tuple(x.shape) for path, x in jax.tree_util.tree_flatten_with_path(like)[0]}
        differing = [name for name in {**stored, **wanted} if stored.get(name) != wanted.get(name)]
        if differing:
            name, absent = differing[0], "nothing"
            raise InputError(
                f"{self.folder / str(step)}: {len(differing)} arrays are not those of this config, first {name}: found "
                f"{stored.get(name, absent)}, expected {wanted.get(name, absent)}; go on with the model, optimiser and "
                "averages it was made with, or give another --workdir and this one as init_from"
            )

    def _set_aside(self, step: int, error: Exception) -> None:
        """Rename a damaged checkpoint, so that its step can be saved again and nobody takes it for a good one."""
        broken = self.folder / f"broken-{step}"
        text = f"checkpoint {self.folder / str(step)} cannot be read ({_reason(error)}); it is now {broken.name}"
        text += ", trying the one before"
        self.warnings.append(text)
        if jax.process_index() == 0:
            shutil.rmtree(broken, ignore_errors=True)
            if (self.folder / str(step)).exists():
                (self.folder / str(step)).rename(broken)
        wait_for_all(f"broken-{step}")
        self._manager.reload()

    def close(self) -> None:
        """Wait for what is being written."""
        with _explained(self.folder):
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
        self._manager.close()


class _explained:
    """Turn a failed write into one line that says what to do."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind, error, trace) -> bool:
        if error is None or isinstance(error, InputError) or not isinstance(error, Exception):
            return False
        if out_of_space(error):
            kept = (
                sorted(int(p.name) for p in self._folder.glob("*") if p.name.isdigit()) if self._folder.exists() else []
            )
            raise InputError(
                f"{self._folder}: the disk is full, the checkpoint could not be written "
                f"(complete ones: {', '.join(map(str, kept)) or 'none'}); free space and start the same command again"
            ) from error
        if isinstance(error, OSError):
            raise InputError(f"{self._folder}: cannot be written ({error.strerror or error})") from error
        return False


@jax.jit
def checksum(tree: Any) -> UInt32[Array, ""]:
    """Sum of all bits of a tree's arrays, taken as whole numbers: the same on every mesh."""

    def one(x: Array) -> Array:
        bits = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize]
        return lax.bitcast_convert_type(x, bits).astype(jnp.uint32).sum(dtype=jnp.uint32)

    return sum((one(x) for x in jax.tree.leaves(tree)), start=jnp.uint32(0))


def _name(path: tuple) -> str:
    """As Orbax calls an array of a tree: "params.encoder.stage0.kernel"."""
    return ".".join(str(getattr(key, "name", getattr(key, "key", getattr(key, "idx", "")))) for key in path)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _stored_arrays(folder: Path) -> Any:
    """The tree of a stored `state`: names and shapes of its arrays."""
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        found = reader.metadata(folder).item_metadata
    if found is None:
        raise FileNotFoundError(f"{folder}: its list of arrays is missing")
    return found.tree


def silence_closed_writers() -> None:
    """For a program that trains: keep Orbax and Python's hooks for lost errors quiet about what is reported anyway.

    A failed save is reported once, by `Checkpoints.save`, and a damaged checkpoint by `restore_newest`. Orbax, and the
    readers and writers it leaves behind when one of them failed (their event loop is closed by then), would add pages
    of tracebacks.
    """
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    # Of one damaged file several of the reader's tasks fail; asyncio would report each.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", message=r"coroutine '.*' was never awaited", category=RuntimeWarning)

    def closed_loop(error: BaseException | None) -> bool:
        return isinstance(error, RuntimeError) and "Event loop is closed" in str(error)

    if not getattr(sys.excepthook, "silences_closed_writers", False):
        uncaught = sys.excepthook

        def hook(kind, error, trace) -> None:
            if not closed_loop(error):
                uncaught(kind, error, trace)

        hook.silences_closed_writers = True
        sys.excepthook = hook
    if not getattr(sys.unraisablehook, "silences_closed_writers", False):
        lost = sys.unraisablehook

        def lost_hook(lost_error) -> None:
            code = getattr(lost_error.object, "cr_code", None)
            left_behind = code is not None and "orbax" in code.co_filename
            if not (left_behind or closed_loop(lost_error.exc_value)):
                lost(lost_error)

        lost_hook.silences_closed_writers = True
        sys.unraisablehook = lost_hook


def out_of_space(error: BaseException | None) -> bool:
    """Whether an error, or one that caused it, says that a disk or quota is full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return True
        if any(words in str(error) for words in _OUT_OF_SPACE):
            return True
        error = error.__cause__ or error.__context__
    return False


def load_other_run(workdir: str | Path, newest: bool = False) -> tuple[dict[str, Any], Any]:
    """Variables and optimiser state of another run's checkpoint, as numpy arrays: its newest, or (the averaged
    parameters, where it kept them) of its best, where it has one."""
    folder = Path(workdir).expanduser().absolute() / FOLDER
    with ocp.CheckpointManager(folder, options=ocp.CheckpointManagerOptions(read_only=True)) as manager:
        scored = [step for step in manager.all_steps() if manager.metrics(step)]
        steps = sorted(manager.all_steps())
        if not steps:
            raise InputError(f"{folder}: holds no checkpoint")
        step = steps[-1]
        if scored and not newest:
            run = manager.restore(step, args=ocp.args.Composite(run=ocp.args.JsonRestore()))["run"]
            name, sign = run["best_metric"], -1 if run["lowest_is_best"] else 1
            step = max(scored, key=lambda s: sign * manager.metrics(s).get(name, -sign * np.inf))
    place = folder / str(step) / "state"
    try:
        numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), _stored_arrays(place))
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            tree = reader.restore(place, args=ocp.args.PyTreeRestore(restore_args=numpy))
    except Exception as error:  # whatever a damaged file makes the reader raise
        raise InputError(
            f"{place}: cannot be read ({_reason(error)}); remove this checkpoint so that another is taken, or give a "
            "weights file instead of the run's folder"
        ) from error
    params = tree["params"] if newest or tree.get("ema") is None else tree["ema"]
    variables = {"params": params, **({"batch_stats": tree["batch_stats"]} if tree.get("batch_stats") else {})}
    return variables, tree["opt_state"]


def code_version() -> dict[str, str]:
    """Versions of what a run is made by; the commit where the package lies in a git checkout."""
    import flax
    import optax

    versions = {"hmhi_jax": hmhi_jax.__version__, "jax": jax.__version__, "flax": flax.__version__}
    versions["optax"] = optax.__version__
    here = Path(hmhi_jax.__file__).parent
    try:
        commit = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
        versions["commit"] = commit.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        pass  # an installed package, or no git
    return versions


def abstract(tree: Any, sharding: jax.sharding.Sharding) -> Any:
    """Shapes and types of a tree (arrays or shapes), all to be placed by one sharding."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)
