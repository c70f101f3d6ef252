"""The programs a run consists of, with the shapes of their arguments: what gets compiled, nothing is ever allocated."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from hmhi_jax.data.device_batches import batch_shapes
from hmhi_jax.errors import InputError
from hmhi_jax.inference.network import Programs, functions_of
from hmhi_jax.training import assemble
from hmhi_jax.training.clip_forward import CheckpointPolicy
from hmhi_jax.training.initialisation import init_variables
from hmhi_jax.training.mesh import DATA, SPACE, by_process, check_rows
from hmhi_jax.training.state import make_state
from hmhi_jax.training.step import make_train_step

STEPS = 1000  # of a run; only schedules see it, and their shape does not depend on it


def planned_mesh(devices: list[Any], space: int) -> Mesh:
    """As `training.mesh.make_mesh`, for devices that belong to no process here."""
    if space < 1 or len(devices) % space:
        raise InputError(f"config.mesh.space is {space}, expected a divisor of the {len(devices)} chips")
    return Mesh(np.asarray(by_process(devices)).reshape(-1, space), (DATA, SPACE))


def lower_training(config: ConfigDict, mesh: Mesh, batch: int, checkpoint: CheckpointPolicy) -> Any:
    """The training step of `config`, traced for the mesh.

    Args:
        batch: clips of a step over all chips.
        checkpoint: what the backward pass computes again.
    """
    platform = _platform(mesh.devices.flat[0])
    model = assemble.model_of(config)
    optimiser, schedule = assemble.optimiser_of(config, STEPS)
    arguments = assemble.step_arguments(config, platform) | {"checkpoint": checkpoint}
    data = mesh.shape[DATA] * arguments["accumulate"]
    if batch < 1 or batch % data:
        raise InputError(
            f"a global batch of {batch} clips cannot be split over {mesh.shape[DATA]} chips along mesh.data x "
            f"{arguments['accumulate']} accumulated parts; expected a multiple of {data}"
        )
    height, width = config.data.sizes[-1]
    check_rows(height, mesh)
    ema = config.step.ema_decay > 0
    state = jax.eval_shape(lambda: make_state(init_variables(model, config.seed), optimiser, config.seed, ema))
    arrays = batch_shapes(batch, config.data.frames, (height, width))
    step = make_train_step(model, optimiser, schedule, mesh, **arguments)
    return step.trace(state, arrays).lower(lowering_platforms=(platform,))


def lower_inference(config: ConfigDict, devices: list[Any], lanes: int, chunk: int) -> dict[str, Any]:
    """`encode` and `step` of whole data sets: every chip works on `lanes` videos of its own.

    Args:
        lanes: videos a chip works on at once.
        chunk: frames of a video that are encoded together.

    Returns:
        Traced programs by name: "encode" of one chunk of all lanes, "step" of one frame of all lanes.
    """
    platform = _platform(devices[0])
    config = config.copy_and_resolve_references()
    if config.evaluation.memory_frames:
        with config.unlocked():
            config.model.memory_frames = config.evaluation.memory_frames
    model = assemble.model_of(config)
    programs = Programs(functions_of(model), devices, lanes)
    variables = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=programs.replicated),
        jax.eval_shape(lambda: init_variables(model, config.seed)),
    )
    size = tuple(config.data.sizes[-1])
    pictures = programs.pictures(size, chunk)
    features, memory = programs.features_and_memory(variables, size, chunk)
    arguments = {"encode": (pictures, pictures), "step": (memory, features)}
    return {
        name: programs.jitted[name].trace(variables, *own).lower(lowering_platforms=(platform,))
        for name, own in arguments.items()
    }


def _platform(device: Any) -> str:
    """The name lowering knows: devices that were made up without a GPU call themselves "gpu"."""
    return {"gpu": "cuda"}.get(device.platform, device.platform)
