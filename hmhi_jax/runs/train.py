"""A training run from its config: puts the rooms together that must not know each other. `train.py` calls it."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from hmhi_jax.complete_files import write_text
from hmhi_jax.data.device_batches import DeviceBatches, batch_shapes
from hmhi_jax.errors import InputError
from hmhi_jax.interop.weight_places import CHECKPOINT_EXPORT
from hmhi_jax.interop.weights import save_weights
from hmhi_jax.kept_programs import watched
from hmhi_jax.process import enable_compilation_cache
from hmhi_jax.progress import doing
from hmhi_jax.runs.validate import Validation, best_metric
from hmhi_jax.tools.synthetic.datasets import rendered_sources, write_moving_blobs
from hmhi_jax.training.assemble import assemble, sizes_of
from hmhi_jax.training.checkpoints import Checkpoints, code_version
from hmhi_jax.training.config import flat, is_among, to_plain
from hmhi_jax.training.initial_weights import starting_state
from hmhi_jax.training.loop import Interruption, Loop
from hmhi_jax.training.mesh import make_mesh, wait_for_all
from hmhi_jax.training.step import TrainState


def run(config: ConfigDict, workdir: str, *, profile: bool = False, accepted: tuple[str, ...] = ()) -> int:
    """Train, or go on training, until the end of the schedule or a signal; the exit code."""
    enable_compilation_cache()
    doing("opening the data")
    fields = flat(to_plain(config))
    if unknown := [name for name in accepted if not any(is_among(field, (name,)) for field in fields)]:
        raise InputError(f"--accept_changes: the config has no field or section {', '.join(unknown)}")
    folder = Path(workdir).expanduser().absolute()
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if config.data.generate:
            config = _with_generated_data(config, folder)
    mesh = make_mesh(config.mesh.data, config.mesh.space)
    parts = assemble(config, mesh, rendered_sources(config))
    data, when = parts.data, parts.when
    try:
        if config.evaluation.sets and not when.evaluate_every:
            raise InputError(
                "config.evaluation.sets are given, but every_steps and every_epochs are 0; say how often to evaluate"
            )
        validation = Validation(config, parts.evaluated_model, folder) if config.evaluation.sets else None
        best, lowest = best_metric(config, validation.sets if validation else ())
        plain = to_plain(config)
        record = {
            "config": plain, "versions": code_version(), "clips_per_epoch": data.clips_per_epoch,
            "best_metric": best, "lowest_is_best": lowest, "flow_recipe": data.flow_recipe.to_json(),
        }  # fmt: skip
        wait_for_all("data-opened")  # looking through a data set takes some processes longer than others
        # From here on: the first compilation takes minutes, and a signal in it must not end in a traceback.
        with Interruption() as interruption:
            kept = {name: config.checkpoints[name] for name in ("keep_last", "keep_best")}
            checkpoints = Checkpoints(folder, **kept, best_metric=best or None, lowest_is_best=lowest)

            def export(state: TrainState, figures: Mapping[str, float]) -> None:
                extra = {"step": int(state.step), "figures": dict(figures), "config": plain}
                extra["versions"] = record["versions"]
                variables = jax.tree.map(jax.device_get, state.variables(averaged=True))
                recipe = data.flow_recipe
                save_weights(folder / CHECKPOINT_EXPORT, variables, plain["model"], parts.sizes[-1], recipe, extra)

            loop = Loop(
                parts.step_compiler(mesh), data.batches, when, checkpoints, folder, record, evaluate=validation,
                export=export, tensorboard=config.logging.tensorboard, profile=profile,
            )  # fmt: skip

            def compile_first(like: TrainState) -> None:
                if isinstance(data.batches, DeviceBatches):  # a bad first picture is told before minutes of compiling
                    data.batches.wait_for_next()
                first = batch_shapes(config.data.batch_size, config.data.frames, parts.sizes[0])
                compiled.append(loop.compile(like, first))

            def tell(kept: str) -> None:
                if jax.process_index() == 0:
                    doing("compiling for {} x {}{}".format(*parts.sizes[0], kept), tell=True)

            compiled: list[str] = []
            with watched(tell):
                state, restored, notes = starting_state(config, parts, mesh, checkpoints, accepted, compile_first)
            if restored is not None and restored.step >= when.total:
                notes.append(f"the run is finished: its length is {when.total} steps")
            if restored is not None:
                data.batches.set_state(_data_state(restored.data, data.batches.get_state(), accepted))
            with _writing(folder):
                _write_json(folder / "config.json", record)

            outcome = loop.run(state, interruption, [*checkpoints.warnings, *notes, *compiled])
    finally:
        data.batches.close()
    return outcome.exit_code


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """What goes wrong when the work directory is written to, in one line."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written to ({error.strerror or error}); free space or give another --workdir"
        ) from error


def _data_state(stored: dict[str, Any], current: dict[str, Any], accepted: tuple[str, ...]) -> dict[str, Any]:
    """The place in the data to go on from: a checkpoint's, but for what was accepted to differ."""
    fields = {"batch_size": "data.batch_size", "seed": "seed", "clips": "data.sources"}
    changed = [name for name, field in fields.items() if name in current and is_among(field, accepted)]
    return stored | {name: current[name] for name in changed}


def _with_generated_data(config: ConfigDict, folder: Path) -> ConfigDict:
    """The config with moving blobs in `<workdir>/data` as its data set."""
    if config.data.sources:
        raise InputError(
            f"config.data.generate is {config.data.generate} and config.data.sources {config.data.sources}, expected "
            "only one of them; --config.data.generate=0 trains on the sources"
        )
    config = config.copy_and_resolve_references()
    size = sizes_of(config)[0]
    if jax.process_index() == 0:
        write_moving_blobs(
            folder / "data", train=config.data.generate, val=max(2, config.data.generate // 4), size=size
        )
    wait_for_all("generated-data")
    with config.unlocked():
        config.data.root = str(folder)
        config.data.sources = ({"path": "data", "split": "train"},)
    return config


def _write_json(path: Path, value: Any) -> None:
    if jax.process_index() != 0:
        return
    write_text(path, json.dumps(value, indent=2) + "\n")
