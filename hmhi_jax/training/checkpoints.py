"""Checkpoints that a run can always go on from: written beside the run, the last few and the best kept.

A checkpoint is a folder named by its step with four parts: `state` (a `TrainState`, every array), `data` (the data
iterator's state), `run` (config, versions, checksum), after an evaluation also `metrics`. It is written in the
background, under a temporary name, sealed (see `interop.checkpoint_folders`) and renamed when complete; `metrics` come
last, when all that follows from the evaluation is done.

Only a checkpoint whose damage is known (a file missing, cut short or changed, arrays that are not those that were
saved) is set aside. One that cannot be read for any other reason stops the run and stays as it is.

Order of restoring: the run's own checkpoints, newest first; else `init_from`; else fresh weights
(`hmhi_jax.training.initial_weights`).
"""

import contextlib
import errno
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

import hmhi_jax
from hmhi_jax.complete_files import completed
from hmhi_jax.errors import InputError, reason_of
from hmhi_jax.interop.checkpoint_folders import DATA, damage, seal, stored_tree
from hmhi_jax.interop.shapes import fit, leaves_by_path
from hmhi_jax.interop.weight_places import CHECKPOINTS, METRICS, RUN, STATE, read_json
from hmhi_jax.training.mesh import wait_for_all
from hmhi_jax.training.step import TrainState

CHECKSUM = "checksum"  # in a checkpoint's `run`
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
        self.folder = Path(workdir).expanduser().absolute() / CHECKPOINTS
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
            cleanup_tmp_directories=True,
            enable_async_checkpointing=True,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
        )
        self._best_metric, self._sign = best_metric, sign
        self._best_value: float | None = None
        self._saving = -1
        with _explained(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._manager = ocp.CheckpointManager(self.folder, options=options)

    def steps(self) -> list[int]:
        """Steps of all complete checkpoints, ascending."""
        return sorted(self._manager.all_steps())

    def best(self) -> tuple[int, float] | None:
        """Step and value of the best checkpoint so far, None before the first evaluation; of equal ones the later."""
        evaluations = {step: self._manager.metrics(step) or {} for step in self.steps()}
        values = {step: found[self._best_metric] for step, found in evaluations.items() if self._best_metric in found}
        return max(values.items(), key=lambda entry: (self._sign * entry[1], entry[0]), default=None)

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

    def save(self, state: TrainState, data: dict[str, Any], run: dict[str, Any], *, wait: bool = False) -> None:
        """Save after `state.step` steps, in the background unless `wait`.

        Does nothing if that step is saved already. An earlier save that failed is reported here, or by `close`. Raises
        `InputError` if the disk is full or the folder cannot be written.
        """
        step = int(state.step)
        with _explained(self.folder):
            self._manager.check_for_errors()
            if step not in self.steps():
                parts = ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    data=ocp.args.JsonSave(data),
                    run=ocp.args.JsonSave(run | {CHECKSUM: checksum(state)}),
                )
                self._manager.wait_until_finished()  # the one before is sealed under its own step
                _ask_for_room(self.folder, sum(x.nbytes for x in jax.tree.leaves(state)))
                self._saving = step
                self._manager.save(step, args=parts, force=True)
            if wait:
                self._manager.wait_until_finished()

    def _seal(self) -> None:
        """Called in the background when all is written, before or after the folder gets its name."""
        if jax.process_index() == 0:
            for folder in self.folder.glob(f"{self._saving}*"):
                if folder.name.split(".")[0] == str(self._saving):
                    seal(folder)

    def record(self, step: int, figures: Mapping[str, float]) -> None:
        """Write an evaluation's figures into the checkpoint of `step`, which is waited for; called on every process.
        Raises `InputError` as `save`."""
        with _explained(self.folder):
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
            if jax.process_index() == 0 and not self.evaluated(step):
                with completed(self.folder / str(step) / METRICS) as part:
                    part.mkdir()
                    (part / METRICS).write_text(json.dumps(dict(figures)))
        wait_for_all(f"recorded-{step}")
        self._manager.reload()

    def restore_newest(self, like: TrainState, check: Callable[[dict[str, Any]], None]) -> Restored | None:
        """The newest checkpoint that can be read, placed as `like`; None where there is none at all.

        A checkpoint whose files are damaged is moved aside with a warning that names it, and the one before is taken.

        Args:
            like: `jax.ShapeDtypeStruct`s with shardings, of this run's mesh; a checkpoint fits every mesh.
            check: called with the checkpoint's `run` before its arrays are read; raises `InputError` if it does not
                fit.

        Raises `InputError` from `check`, if there are damaged checkpoints and none that can be read, or if the newest
        one holds other arrays than `like` or cannot be read though nothing is known to be wrong with it: it stays.
        """
        for step in reversed(self.steps()):
            place = self.folder / str(step)
            run, state = read_json(place / RUN / "metadata"), None
            if run:
                check(run)
            try:
                wrong = damage(place)
                if wrong is None:
                    self._check_arrays(place, like)
                    state = self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(like)))
                    state = state[STATE]
            except InputError:
                raise
            except Exception as error:  # memory, rights, another Orbax, a mistake of ours: none of it is its fault
                raise InputError(
                    f"{place}: cannot be read here ({type(error).__name__}: {reason_of(error)}), though nothing is "
                    f"known to be wrong with its files; it was left as it is. It was written by {_versions(run)}, read "
                    f"by {_versions()}"
                ) from error
            if wrong is None and run.get(CHECKSUM) not in (None, checksum(state)):
                wrong = "its arrays are not those that were saved: the checksum differs"
            if wrong is None:
                return Restored(step, state, read_json(place / DATA / "metadata"), run)
            self._set_aside(step, wrong)
        if broken := sorted(path.name for path in self.folder.glob("broken-*")):
            raise InputError(
                f"{self.folder}: none of its checkpoints can be read ({', '.join(broken)}); put a copy of one back, or "
                "start afresh in another --workdir, or here after removing them"
            )
        return None

    def _check_arrays(self, place: Path, like: TrainState) -> None:
        """A checkpoint of other arrays is not damaged: nobody should lose it over a setting."""
        stored = {x.name: tuple(x.shape) for x in jax.tree.leaves(stored_tree(place / STATE))}  # named as Orbax does
        wanted = {name: tuple(x.shape) for name, x in leaves_by_path(like, ".").items()}
        if found := fit(wanted, stored):
            return
        differing = [*found.unused, *found.missing, *found.differing]
        name, absent = differing[0], "nothing"
        raise InputError(
            f"{place}: {len(differing)} arrays are not those of this config, first {name}: found "
            f"{stored.get(name, absent)}, expected {wanted.get(name, absent)}; go on with the model, optimiser and "
            "averages it was made with, or give another --workdir and this one as init_from"
        )

    def _set_aside(self, step: int, wrong: str) -> None:
        """Rename a damaged checkpoint, so that its step can be saved again and nobody takes it for a good one."""
        broken = self.folder / f"broken-{step}"
        text = f"checkpoint {self.folder / str(step)} cannot be read ({wrong}); it is now {broken.name}"
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


@contextlib.contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Turn a failed write into one line that says what to do."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if out_of_space(error):
            kept = sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit())
            raise InputError(
                f"{folder}: the disk is full, the checkpoint could not be written "
                f"(complete ones: {', '.join(map(str, kept)) or 'none'}); free space and start the same command again"
            ) from error
        if isinstance(error, OSError):
            raise InputError(f"{folder}: cannot be written ({error.strerror or error})") from error
        raise


def _ask_for_room(folder: Path, size: int) -> None:
    """Have the disk set a checkpoint's bytes aside and give them back: a full one is known before anything is written,
    and Orbax, whose writers do not stop quietly where one of them fails, does not begin. Raises `OSError`."""
    if jax.process_index() == 0 and hasattr(os, "posix_fallocate"):
        with tempfile.TemporaryFile(dir=folder) as file:
            try:
                os.posix_fallocate(file.fileno(), 0, size)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):  # a file system that cannot
                    raise


def checksum(tree: Any) -> int:
    """Sum of all bits of a tree's arrays, taken as whole numbers, modulo 2**32: the same on every mesh.

    Taken on the host, where they are about to be: a program of a thousand small sums takes long to compile.
    """

    def one(x: Any) -> int:
        flat = np.asarray(x).reshape(-1)
        bits = {1: np.uint8, 2: np.uint16}.get(flat.itemsize, np.uint32)  # eight bytes are two of four
        return int(flat.view(bits).sum(dtype=np.uint32))

    return sum(map(one, jax.tree.leaves(tree))) % 2**32


def out_of_space(error: BaseException | None) -> bool:
    """Whether an error, or one that caused it, says that a disk or quota is full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return True
        if any(words in str(error) for words in _OUT_OF_SPACE):
            return True
        error = error.__cause__ or error.__context__
    return False


def _versions(run: Mapping[str, Any] | None = None) -> str:
    """Versions in a checkpoint's record, or of what runs here."""
    versions = code_version() if run is None else run.get("versions", {})
    return ", ".join(f"{name} {version}" for name, version in versions.items()) or "an unknown version"


def code_version() -> dict[str, str]:
    """Versions of what a run is made by; the commit where the package lies in a git checkout."""
    import flax
    import optax

    versions = {"hmhi_jax": hmhi_jax.__version__, "jax": jax.__version__, "flax": flax.__version__}
    versions |= {"optax": optax.__version__, "orbax": ocp.__version__}
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
