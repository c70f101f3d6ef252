"""The programs a run consists of, with the shapes of their arguments: what gets compiled, nothing is ever allocated."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from hmhi_jax.data.device_batches import batch_shapes
from hmhi_jax.errors import InputError
from hmhi_jax.inference.network import Programs, functions_of
from hmhi_jax.interop.model_shapes import abstract_variables
from hmhi_jax.training.assemble import assemble
from hmhi_jax.training.clip_forward import CheckpointPolicy
from hmhi_jax.training.mesh import DATA, SPACE, by_process, check_rows
from hmhi_jax.training.step import make_state

STEPS = 1000  # of a run; only schedules see it, and their shape does not depend on it


def planned_mesh(devices: list[Any], space: int) -> Mesh:
    """The mesh that `training.mesh.make_mesh` would make, of devices that belong to no process here."""
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
    parts = assemble(config, steps=STEPS, platform=platform)
    accumulate = parts.step_arguments["accumulate"]
    data = mesh.shape[DATA] * accumulate
    if batch < 1 or batch % data:
        raise InputError(
            f"a global batch of {batch} clips cannot be split over {mesh.shape[DATA]} chips along mesh.data x "
            f"{accumulate} accumulated parts; expected a multiple of {data}"
        )
    check_rows(parts.sizes[-1][0], mesh)
    ema, variables = config.step.ema_decay > 0, abstract_variables(parts.model)
    state = jax.eval_shape(lambda variables: make_state(variables, parts.optimiser, config.seed, ema), variables)
    arrays = batch_shapes(batch, config.data.frames, parts.sizes[-1])
    step: Any = parts.train_step(mesh, checkpoint=checkpoint)
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
    parts = assemble(config, steps=STEPS, platform=platform)
    model: Any = parts.evaluated_model
    programs = Programs(functions_of(model), devices, lanes)
    variables = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=programs.replicated), abstract_variables(model)
    )
    size = parts.sizes[-1]
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
