"""Devices as a mesh with the axes `data` (clips) and `space` (image rows of a clip), and joining several processes.

Parameters and optimiser state are replicated. A batch is split over `data` by clips and over `space` by image rows; the
compiler carries both through the network (rows of the feature maps, queries of the read-outs).
"""

import logging
import os
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from hmhi_jax.errors import InputError

DATA, SPACE = "data", "space"

# Where clips and rows are both split, XLA's partitioner (jaxlib 0.10 and 0.12) computes a convolution whose kernel is
# higher than its map on every chip's share and adds the shares of all chips, those of other clips too. From eight rows
# at stride 32 on no kernel of the network is.
FEWEST_ROWS = 256


def join_processes(
    coordinator: str | None = None, process_count: int | None = None, process_index: int | None = None
) -> None:
    """Join the other processes of this run, before anything else touches JAX. Does nothing for a run of one process.

    With all three arguments, those are used; otherwise `HMHI_COORDINATOR` (host:port), `HMHI_PROCESSES` and
    `HMHI_PROCESS`; otherwise what JAX recognises by itself when `HMHI_DISTRIBUTED=1` is set: Slurm (one task per
    process), GKE and Cloud TPU pods, Kubernetes jobs, Open MPI.
    """
    for chatty in ("jax._src.distributed", "jax._src.xla_bridge"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    coordinator = coordinator or os.environ.get("HMHI_COORDINATOR")
    if process_count is None and os.environ.get("HMHI_PROCESSES"):
        process_count = _whole_number("HMHI_PROCESSES")
    if process_index is None and os.environ.get("HMHI_PROCESS"):
        process_index = _whole_number("HMHI_PROCESS")
    given = [coordinator is not None, process_count is not None, process_index is not None]
    if all(given):
        if not 0 <= process_index < process_count:
            raise InputError(f"process index is {process_index}, expected 0 to {process_count - 1}")
        if not coordinator.rpartition(":")[2].isdigit():
            raise InputError(f"coordinator is {coordinator!r}, expected host:port, such as node0:8476")
        jax.distributed.initialize(coordinator, process_count, process_index)
    elif any(given):
        raise InputError(
            "joining processes needs the coordinator's host:port, the number of processes and this process's index, "
            f"found only {sum(given)} of the three; give --coordinator, --num_processes and --process_index"
        )
    elif os.environ.get("HMHI_DISTRIBUTED") == "1":
        try:
            jax.distributed.initialize()
        except ValueError as error:
            raise InputError(
                f"HMHI_DISTRIBUTED is 1, but JAX recognises no cluster here ({error}); give --coordinator, "
                "--num_processes and --process_index"
            ) from error


def wait_for_all(name: str, minutes: float = 120.0) -> None:
    """Wait until every process is here. Unlike a collective of the devices, patient: one process may have compiled, or
    evaluated, for long. `name` must not have been used before."""
    if jax.process_count() > 1:
        ocp.multihost.get_barrier_sync_fn()(key=name, timeout_ms=int(minutes * 60_000))


def _whole_number(variable: str) -> int:
    text = os.environ[variable]
    if not text.isdigit():
        raise InputError(f"environment variable {variable} is {text!r}, expected a whole number")
    return int(text)


def make_mesh(data: int = -1, space: int = 1, devices: list[Any] | None = None) -> Mesh:
    """The mesh. `data=-1` takes as many devices as there are for it."""
    devices = by_process(jax.devices() if devices is None else devices)
    local = len(devices) // max(1, len({device.process_index for device in devices}))
    if space < 1 or local % space:
        raise InputError(f"mesh.space is {space}, expected a divisor of the {local} devices of one process")
    if data == -1:
        data = len(devices) // space
    if data < 1 or data * space > len(devices):
        raise InputError(f"mesh is {data} x {space} (data x space), but there are {len(devices)} devices")
    if jax.process_count() > 1 and data * space != len(devices):
        raise InputError(
            f"mesh is {data} x {space} (data x space), expected to use all {len(devices)} devices of all processes"
        )
    return Mesh(np.asarray(devices[: data * space]).reshape(data, space), (DATA, SPACE))


def by_process(devices: list[Any]) -> list[Any]:
    """The devices of each process side by side: the chips that share a clip must belong to one, since each process
    loads the clips of its own devices whole. On TPUs numbers follow the place in the slice, not the host."""
    return sorted(devices, key=lambda device: (device.process_index, device.id))


def check_rows(height: int, mesh: Mesh) -> None:
    """Refuse pictures of so few rows that they cannot be split over the mesh, or would be computed wrongly."""
    data, space = mesh.shape[DATA], mesh.shape[SPACE]
    if height % space:
        raise InputError(f"config.data.sizes: {height} rows cannot be split over mesh.space = {space}")
    if data > 1 and space > 1 and height < FEWEST_ROWS:
        raise InputError(
            f"config.data.sizes: {height} rows on a mesh of {data} x {space} (data x space), expected at least "
            f"{FEWEST_ROWS}: XLA adds up convolutions of smaller maps wrongly there; use mesh.space = 1"
        )


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())
