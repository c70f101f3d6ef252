"""The network on many videos at once: `encode`, `start` and `step` for every lane of a mesh.

Each lane is a video of its own, with a memory of its own. Every lane runs the program a single video would run
(`jax.shard_map` over devices, `jax.vmap` over the lanes of one device), so what a video gives does not depend on
which videos it shares the batch with, nor on how many devices there are.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, UInt8

from hmhi_jax.data.preprocessing import normalise
from hmhi_jax.models import Features, HMHINet, Memory, frame

LANES = "lanes"


class BatchedSteps:
    """Compiled functions over all lanes. Arrays have the lanes in front and are spread over the devices by lane.

    lanes     rows of the batch: devices times lanes per device
    sharding  of everything with lanes in front
    encode, start, step   (variables, frames, flows), (variables, features), (variables, memory, features, frame number)
    """

    def __init__(self, model: HMHINet, devices: Sequence[jax.Device], lanes_per_device: int) -> None:
        self.mesh = Mesh(np.asarray(devices), (LANES,))
        self.lanes = len(devices) * lanes_per_device
        self.sharding = NamedSharding(self.mesh, PartitionSpec(LANES))
        self._everywhere = NamedSharding(self.mesh, PartitionSpec())
        by_lane, whole = PartitionSpec(LANES), PartitionSpec()

        def every_lane(function: Callable, shared: int, after: int = 0) -> Callable:
            """`function` of `shared` common arguments, one lane's arguments, and `after` common ones."""

            def device(*arguments: Any) -> Any:
                axes = [None] * shared + [0] * (len(arguments) - shared - after) + [None] * after
                if lanes_per_device > 1:
                    return jax.vmap(function, in_axes=axes)(*arguments)
                alone = [
                    jax.tree.map(lambda x: x[0], argument) if axis == 0 else argument
                    for axis, argument in zip(axes, arguments, strict=True)
                ]
                return jax.tree.map(lambda x: x[None], function(*alone))

            def everywhere(*arguments: Any) -> Any:
                own = len(arguments) - shared - after
                specs = (*[whole] * shared, *[by_lane] * own, *[whole] * after)
                # Lanes exchange nothing, so there is nothing to check about what is replicated.
                mapped = jax.shard_map(device, mesh=self.mesh, in_specs=specs, out_specs=by_lane, check_vma=False)
                return mapped(*arguments)

            return everywhere

        def encode(variables: Any, frames: UInt8[Array, "T H W 3"], flows: UInt8[Array, "T H W 3"]) -> Features:
            return model.apply(variables, normalise(frames)[None], normalise(flows)[None], method="encode")

        def start(variables: Any, features: Features) -> tuple[Memory, Float[Array, "1 H W 1"]]:
            return model.apply(variables, frame(features, 0), method="start")

        def step(
            variables: Any, memory: Memory, features: Features, index: Int[Array, ""]
        ) -> tuple[Memory, Float[Array, "1 H W 1"]]:
            return model.apply(variables, memory, frame(features, index), method="step")

        def choose(fresh: Bool[Array, ""], started: Any, continued: Any) -> Any:
            return jax.tree.map(lambda a, b: jnp.where(fresh, a, b), started, continued)

        self.encode = jax.jit(every_lane(encode, 1))
        self.start = jax.jit(every_lane(start, 1))
        self.step = jax.jit(every_lane(step, 1, after=1), donate_argnums=1)
        self._choose = jax.jit(every_lane(choose, 0), donate_argnums=2)

    def place(self, variables: Any) -> Any:
        """The variables on all devices."""
        return jax.device_put(variables, self._everywhere)

    def run(
        self,
        variables: Any,
        memory: Any,
        frames: UInt8[np.ndarray, "N T H W 3"],
        flows: UInt8[np.ndarray, "N T H W 3"],
        fresh: Bool[np.ndarray, " N"],
        steps: int,
    ) -> tuple[Any, list[Array]]:
        """A chunk of every lane.

        Args:
            variables: of `place`.
            memory: of the chunk before, which it uses up; None in the beginning.
            frames, flows: uint8, at the network's size; anything where a lane has none.
            fresh: lanes whose first frame here is the first of its video.
            steps: how many of the T frames any lane has.

        Returns:
            The memory, and per frame the logits `[N, 1, H, W, 1]`, still on the devices and perhaps still being
            computed.
        """
        features = self.encode(variables, *jax.device_put((frames, flows), self.sharding))
        outputs = []
        for t in range(steps):
            started = self.start(variables, features) if t == 0 and (memory is None or fresh.any()) else None
            if memory is None:
                memory, logits = started
            else:
                memory, logits = self.step(variables, memory, features, np.int32(t))
                if started is not None:
                    chosen = jax.device_put(fresh, self.sharding)
                    memory, logits = self._choose(chosen, started, (memory, logits))
            outputs.append(logits)
        return memory, outputs
