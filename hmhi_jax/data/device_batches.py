"""Batches on their way to the devices: uint8 over the wire, a few ahead, normalised there."""

import time
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding
from jaxtyping import Array, Float

from hmhi_jax.data.pipeline import ClipPipeline
from hmhi_jax.data.preprocessing import normalise

_ARRAYS = ("frames", "flows", "masks", "valid")


class DeviceBatch(NamedTuple):
    """The batch of a step: `arrays` (frames, flows, masks, valid; global arrays on the devices), and this host's clips,
    each as "<data set>/<video> [frame numbers]", for messages."""

    step: int
    arrays: dict[str, jax.Array]
    clips: tuple[str, ...]


def batch_shardings(mesh: Mesh) -> dict[str, Sharding]:
    """Clips over the mesh axis `data`, picture rows over `space` (where the mesh has them)."""
    data, space = (axis if axis in mesh.axis_names else None for axis in ("data", "space"))
    pictures = NamedSharding(mesh, PartitionSpec(data, None, space))
    return {"frames": pictures, "flows": pictures, "masks": pictures, "valid": NamedSharding(mesh, PartitionSpec(data))}


def batch_shapes(clips: int, frames: int, size: tuple[int, int]) -> dict[str, jax.ShapeDtypeStruct]:
    """What the arrays of a batch look like, for compiling before there is one. `size`: height and width in pixels."""
    shape = (clips, frames, *size)
    pictures = jax.ShapeDtypeStruct((*shape, 3), jnp.uint8)
    masks, valid = jax.ShapeDtypeStruct((*shape, 1), jnp.uint8), jax.ShapeDtypeStruct(shape[:2], jnp.bool_)
    return {"frames": pictures, "flows": pictures, "masks": masks, "valid": valid}


def network_inputs(
    arrays: Mapping[str, Any],
) -> tuple[
    Float[Array, "B T H W 3"], Float[Array, "B T H W 3"], Float[Array, "B T H W 1"], Float[Array, "B T"]
]:  # fmt: skip
    """Frames and flow pictures normalised, masks and validity as float32: the first lines of a jitted step.

    `arrays`: those of a `DeviceBatch`, on devices or still on the host: frames and flows uint8 `[B, T, H, W, 3]`, masks
    uint8 `[B, T, H, W, 1]`, valid bool `[B, T]`.
    """
    masks, valid = (jnp.asarray(arrays[name], jnp.float32) for name in ("masks", "valid"))
    return normalise(arrays["frames"]), normalise(arrays["flows"]), masks, valid


class DeviceBatches(Iterator[DeviceBatch]):
    """Takes batches from a pipeline and puts them on the devices in a thread of its own, `depth` ahead.

    `get_state` and `set_state` are those of the pipeline, counted by what was handed out, not by what was made ahead.
    `waited` is how many seconds `next` waited in all. Close it, or use it in a `with` statement.
    """

    def __init__(self, pipeline: ClipPipeline, shardings: Mapping[str, Sharding] | None = None, depth: int = 3):
        """`shardings`: of frames, flows, masks and valid, see `batch_shardings`; None: all on the default device."""
        self.pipeline = pipeline
        self.waited = 0.0
        self._shardings = shardings
        self._depth = depth
        self._next_step = pipeline.step
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="device-batches")
        self._made: deque[Future[DeviceBatch]] = deque()
        self._over: Exception | None = None  # why no more is made

    def __next__(self) -> DeviceBatch:
        self.wait_for_next()
        batch = self._made.popleft().result()
        self._next_step = batch.step + 1
        self.start_prefetch()
        return batch

    def wait_for_next(self) -> None:
        """Return when the next batch is there, or raise what keeps it from being read."""
        self.start_prefetch()
        start = time.perf_counter()
        try:
            self._made[0].result()
        finally:
            self.waited += time.perf_counter() - start

    def start_prefetch(self) -> None:
        """Begin to fill; the first `next` does it otherwise."""
        if self._over is not None and not self._made:
            raise self._over
        while len(self._made) < self._depth:
            self._made.append(self._pool.submit(self._make))

    def _make(self) -> DeviceBatch:
        if self._over is not None:
            raise self._over
        step = self.pipeline.step
        try:
            return self._put(step, next(self.pipeline))
        except Exception as error:
            self._over = error
            raise

    def _put(self, step: int, batch: dict[str, Any]) -> DeviceBatch:
        arrays = {}
        for name in _ARRAYS:
            if self._shardings is None:
                arrays[name] = jax.device_put(batch[name])
            else:
                shape = (self.pipeline.loader.config.batch_size, *batch[name].shape[1:])
                arrays[name] = jax.make_array_from_process_local_data(self._shardings[name], batch[name], shape)
        clips = (f"{video} {index.tolist()}" for video, index in zip(batch["video"], batch["index"], strict=True))
        return DeviceBatch(step, arrays, tuple(clips))

    def get_state(self) -> dict[str, Any]:
        """The pipeline's state before the batch that `next` gives."""
        return self.pipeline.state_at(self._next_step)

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on where `get_state` was called; see `ClipPipeline.set_state`."""
        self._halt()
        self._over = None
        self.pipeline.set_state(state)
        self._next_step = self.pipeline.step

    def close(self) -> None:
        """Stop the thread, and the pipeline's threads and workers."""
        self._halt()
        self._over = ValueError("these batches were closed")
        self._pool.shutdown()
        self.pipeline.close()

    def _halt(self) -> None:
        for batch in self._made:
            batch.cancel()
        wait(self._made)
        self._made.clear()

    def __enter__(self) -> "DeviceBatches":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
