"""The network at work: `encode`, `start` and `step` of N videos at once on given devices, from weights or an export.

    network = Network(functions_of(model), variables)                 # one video, on the first device
    features = network.encode(frames, flows)                          # uint8 [1, T, H, W, 3]: maps of T frames
    memory, logits = network.start(features[0])
    memory, logits = network.step(memory, features[1])

Every video has a lane and a memory of its own. All lanes run the program that one video alone would run
(`jax.shard_map` over devices, `jax.vmap` over the lanes of one device), so what a video gives does not depend on which
others are worked on beside it, nor on how many devices there are.
"""

import functools
import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding
from jaxtyping import Array, Bool, Float, Int, UInt8

from hmhi_jax import kept_programs
from hmhi_jax.errors import InputError
from hmhi_jax.inference.functions import Functions, read_as
from hmhi_jax.models import Features, Memory
from hmhi_jax.process import available_memory, gpu_compiler_options

LANES = "lanes"  # the mesh's axis


# More keep an accelerator busy; a CPU gains nothing and needs the memory.
def chunk_of(device: jax.Device) -> int:
    """Frames of a video that a device best computes at a time."""
    return 1 if device.platform == "cpu" else 8


def lanes_of(device: jax.Device) -> int:
    """Videos a device best works on at once."""
    return 1 if device.platform == "cpu" else 4


class Programs:
    """Compiled functions over all lanes: arguments but the variables, and results, have the lanes in front and are
    spread over the devices by lane.

    lanes        devices times lanes per device
    sharding     of everything with lanes in front
    replicated   of the variables
    jitted       by name: "encode", "start", "step", "advance" as in `Functions`; "chunk" (memory, frames, flows, fresh,
                 counts): all frames of a chunk; and "choose", "take", "store", "logits", which handle single lanes
    """

    def __init__(self, functions: Functions, devices: Sequence[jax.Device], lanes_per_device: int) -> None:
        self.lanes = len(devices) * lanes_per_device
        self._devices, self._what = tuple(devices), functions.what
        self._lanes_per_device = lanes_per_device
        self._options = gpu_compiler_options(devices[0].platform)
        self._on_cpu = devices[0].platform == "cpu"
        self._mesh = Mesh(np.asarray(devices), (LANES,)) if len(devices) > 1 else None
        if self._mesh is None:
            self.sharding = self.replicated = SingleDeviceSharding(devices[0])
        else:
            self.sharding = NamedSharding(self._mesh, PartitionSpec(LANES))
            self.replicated = NamedSharding(self._mesh, PartitionSpec())

        def chunk(variables: Any, memory: Any, frames: Any, flows: Any, fresh: Any, count: Any) -> Any:
            def advance(memory: Any, inputs: Any) -> Any:
                maps, t = inputs
                after, logits = functions.advance(variables, memory, maps, fresh & (t == 0))
                # A chunk that is not full leaves the memory as it was after its last frame.
                return jax.tree.map(lambda new, old: jnp.where(t < count, new, old), after, memory), logits

            maps = jax.tree.map(lambda *each: jnp.stack(each), *functions.encode(variables, frames, flows))
            memory, logits = lax.scan(advance, memory, (maps, jnp.arange(frames.shape[0])))
            return memory, tuple(logits)

        def choose(fresh: Bool[Array, ""], started: Any, continued: Any) -> Any:
            return jax.tree.map(lambda a, b: jnp.where(fresh, a, b), started, continued)

        def store(memory: Memory, lane: Int[Array, ""], own: Memory) -> Memory:
            return jax.tree.map(lambda all_lanes, one: all_lanes.at[lane].set(one), memory, own)

        self.jitted = {
            "encode": jax.jit(self._over_lanes(functions.encode, 1)),
            "start": jax.jit(self._over_lanes(functions.start, 1)),
            "step": jax.jit(self._over_lanes(functions.step, 1), donate_argnums=1),
            "chunk": jax.jit(self._over_lanes(chunk, 1), donate_argnums=1),
            "choose": jax.jit(self._over_lanes(choose, 0), donate_argnums=2),
            "take": jax.jit(lambda tree, lane: jax.tree.map(lambda x: x[lane], tree)),
            "logits": jax.jit(lambda logits, lane: logits[lane, 0, :, :, 0]),
            "store": jax.jit(store, donate_argnums=0, out_shardings=self.sharding),
        }
        if functions.advance is not None:
            self.jitted["empty"] = jax.jit(self._over_lanes(functions.empty, 0))
            self.jitted["advance"] = jax.jit(self._over_lanes(functions.advance, 1), donate_argnums=1)
        self._compiled: dict[Any, Future] = {}
        self._shapes: dict[tuple[tuple[int, int], int], tuple[Any, Any]] = {}
        self._lock = threading.Lock()
        self._tracing = threading.Lock()  # of one program at a time: Python can no more, and nothing is traced twice

    def _over_lanes(self, function: Callable, common: int) -> Callable:
        """`function` of `common` arguments that all lanes share and others that each lane has of its own."""

        def device(*arguments: Any) -> Any:
            shared, own = arguments[:common], arguments[common:]
            if self._lanes_per_device > 1:
                return jax.vmap(function, in_axes=(*[None] * len(shared), *[0] * len(own)))(*arguments)
            result = function(*shared, *jax.tree.map(lambda x: jnp.squeeze(x, 0), own))
            return jax.tree.map(lambda x: x[None], result)

        def everywhere(*arguments: Any) -> Any:
            own = len(arguments) - common
            specs = (*[PartitionSpec()] * common, *[PartitionSpec(LANES)] * own)
            # Lanes exchange nothing, so there is nothing to check about what is replicated.
            mapped = jax.shard_map(
                device, mesh=self._mesh, in_specs=specs, out_specs=PartitionSpec(LANES), check_vma=False
            )
            return mapped(*arguments)

        return device if self._mesh is None else everywhere

    def pictures(self, size: tuple[int, int], frames: int) -> jax.ShapeDtypeStruct:
        """The shape of `frames` pictures of every lane at (height, width)."""
        return self.of_lanes((frames, *size, 3), jnp.uint8)

    def of_lanes(self, shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
        """The shape of something that every lane has one of."""
        return jax.ShapeDtypeStruct((self.lanes, *shape), dtype, sharding=self.sharding)

    def features_and_memory(self, variables: Any, size: tuple[int, int], frames: int) -> tuple[Any, Any]:
        """Shapes of one frame's maps and of the memory, for pictures of (height, width) in chunks of `frames`."""
        key = size, frames
        with self._tracing:
            if key not in self._shapes:
                pictures = self.pictures(size, frames)

                def derived() -> Any:
                    features = self.jitted["encode"].eval_shape(variables, pictures, pictures)[0]
                    if "empty" in self.jitted:
                        return features, self.jitted["empty"].eval_shape(features)
                    return features, self.jitted["start"].eval_shape(variables, features)[0]

                found = kept_programs.shapes(self._what, (variables, pictures), derived, self._devices)
                self._shapes[key] = jax.tree.map(lambda x: self.of_lanes(x.shape[1:], x.dtype), found)
        return self._shapes[key]

    def compiled(self, name: str, variables: Any, *arguments: Any) -> Callable:
        """A program for arguments of these shapes; compiled once, whichever threads ask for it."""
        key = name, tuple((x.shape, x.dtype) for x in jax.tree.leaves(arguments))
        with self._lock:
            future = self._compiled.get(key)
            if is_new := future is None:
                future = self._compiled[key] = Future()
        if is_new:

            def lower() -> jax.stages.Lowered:
                with self._tracing:
                    return self.jitted[name].lower(variables, *arguments)

            try:
                what = self._what and f"{name} {self._what}"
                given = variables, *arguments
                program = kept_programs.program(what, given, lower, self._devices, self._options)
                self._check_room(program)
                future.set_result(program)
            except BaseException as error:
                del self._compiled[key]  # the next who asks tries again
                future.set_exception(error)
        return future.result()

    def _check_room(self, program: Any) -> None:
        """Refuse a program for which a CPU has no memory: there, unlike on accelerators, nobody else would in time."""
        if not self._on_cpu or (needs := program.memory_analysis()) is None:
            return
        wanted, free = needs.temp_size_in_bytes + needs.output_size_in_bytes, available_memory()
        if wanted > free:
            raise InputError(
                f"the network takes {wanted / 1e9:.1f} GB at this size, there are {free / 1e9:.1f} GB; choose a "
                "smaller size"
            )


@functools.lru_cache(maxsize=32)
def _programs(
    functions: Functions, devices: tuple[jax.Device, ...], lanes_per_device: int, variables: tuple
) -> Programs:
    """Networks that differ in nothing but the values of their `variables` (here: shapes and dtypes) share programs."""
    del variables
    return Programs(functions, devices, lanes_per_device)


class Network:
    """A network with its variables on devices, for as many videos at once as there are lanes.

    Arguments and results have the lanes in front; results stay on the devices and may still be being computed.

    Attributes:
        lanes: how many.
        devices: those it runs on.
        variables: on the devices.
        whole_chunks: whether `run` computes a chunk as one program or frame by frame.
    """

    def __init__(
        self,
        functions: Functions,
        variables: Any,
        *,
        devices: Sequence[jax.Device] | None = None,
        lanes_per_device: int = 1,
        whole_chunks: bool | None = None,
    ) -> None:
        """Put the variables on the devices; nothing is compiled yet.

        Args:
            functions: `functions_of` a model, or an export's.
            variables: their first argument.
            devices: where to compute; None takes the first one of this process.
            lanes_per_device: videos a device works on at once.
            whole_chunks: None takes one program a chunk on accelerators, where a frame is too little work for the time
                it takes to start its kernels, and frame by frame on CPUs, which gain nothing.
        """
        self.devices = tuple(devices or jax.local_devices()[:1])
        variables = jax.tree.map(
            lambda x, read: x if x.dtype == read.dtype else np.asarray(x).astype(read.dtype),
            variables, read_as(functions, variables, self.devices),
        )  # fmt: skip
        leaves, structure = jax.tree.flatten(variables)
        shapes = structure, tuple((x.shape, x.dtype) for x in leaves)
        self._programs = _programs(functions, self.devices, lanes_per_device, shapes)
        self.lanes = self._programs.lanes
        self._advances = "advance" in self._programs.jitted
        self.variables = jax.device_put(variables, self._programs.replicated)
        self.on_cpu = self.devices[0].platform == "cpu"
        self.whole_chunks = self._advances and not self.on_cpu if whole_chunks is None else whole_chunks

    def encode(self, frames: UInt8[Any, "N T H W 3"], flows: UInt8[Any, "N T H W 3"]) -> tuple[Features, ...]:
        """Maps `[N, 1, h, w, C]` of each of T frames of all lanes; frames know nothing of each other here."""
        return self._call("encode", *self._placed(frames, flows))

    def start(self, features: Features) -> tuple[Memory, Float[Array, "N 1 H W 1"]]:
        """The memory after the first frame of all lanes, and its logits."""
        return self._call("start", features)

    def step(self, memory: Memory, features: Features) -> tuple[Memory, Float[Array, "N 1 H W 1"]]:
        """The memory after one more frame, in the place of `memory`, which is used up, and the frame's logits."""
        return self._call("step", memory, features)

    def run(
        self,
        memory: Memory | None,
        frames: UInt8[np.ndarray, "N T H W 3"],
        flows: UInt8[np.ndarray, "N T H W 3"],
        fresh: Bool[np.ndarray, " N"],
        counts: Int[np.ndarray, " N"],
        wanted: Collection[int] = (),
    ) -> tuple[Memory, list[Float[Array, "N 1 H W 1"]], dict[int, Memory]]:
        """A chunk of every lane.

        Args:
            memory: of the chunk before, which is used up; None in the beginning, when all lanes with frames are fresh.
            frames, flows: at the network's size; anything where a lane has none.
            fresh: lanes whose first frame here is the first of its video.
            counts: how many of the T frames each lane has.
            wanted: lanes whose memory after their last frame here is to be given apart, as a copy.

        Returns:
            The memory, the logits of each frame up to the longest lane's last, and the memories that were wanted.
        """
        take = self._programs.jitted["take"]  # a copy of one lane's part
        if memory is None and self._advances:
            memory = self._zeros(self.memory_shapes(frames.shape[2:4], frames.shape[1]))
        if self.whole_chunks:
            arguments = self._placed(frames, flows, fresh, counts)
            memory, logits = self._call("chunk", memory, *arguments)
            return memory, list(logits[: counts.max()]), {lane: take(memory, lane) for lane in wanted}
        features = self.encode(frames, flows)
        outputs, copies = [], {}
        for t in range(counts.max()):
            first = fresh & (t == 0)
            if self._advances:  # one program to compile instead of two, of which the second contains the first
                memory, logits = self._call("advance", memory, features[t], *self._placed(first))
            else:
                memory, logits = self._start_or_step(memory, features[t], first)
            outputs.append(logits)
            copies |= {lane: take(memory, lane) for lane in wanted if counts[lane] == t + 1}
        return memory, outputs, copies

    def _start_or_step(
        self, memory: Memory | None, features: Features, first: Bool[np.ndarray, " N"]
    ) -> tuple[Memory, Float[Array, "N 1 H W 1"]]:
        """What `advance` does, with the two programs that an export has."""
        if memory is None or first.all():
            return self.start(features)
        continued = self.step(memory, features)
        if not first.any():
            return continued
        return self._programs.jitted["choose"](*self._placed(first), self.start(features), continued)

    def lane_logits(self, logits: Float[Array, "N 1 H W 1"], lane: int) -> Float[np.ndarray | Array, "H W"]:
        """Waits for one lane's logits: those of a CPU come as a NumPy array, others stay on the device."""
        if self.on_cpu:
            return np.array(np.asarray(logits)[lane, 0, :, :, 0])
        return jax.block_until_ready(self._programs.jitted["logits"](logits, lane))

    def with_memory(self, memory: Memory | None, lane: int, own: Memory) -> Memory:
        """`memory`, which is used up, with a lane's own one in it."""
        if memory is None:
            memory = self._zeros(jax.tree.map(lambda x: jax.ShapeDtypeStruct((self.lanes, *x.shape), x.dtype), own))
        return self._programs.jitted["store"](memory, lane, own)

    def memory_shapes(self, size: tuple[int, int], frames: int) -> Any:
        """Shapes and dtypes of a memory over all lanes, at the network's (height, width) and chunks of `frames`."""
        return self._programs.features_and_memory(self.variables, size, frames)[1]

    def compile_ahead(self, size: tuple[int, int], frames: int) -> None:
        """Begin to compile what videos need at the network's (height, width) and chunks of `frames`, all programs at a
        time; returns at once."""
        programs = self._programs
        # An error stays in its future: it will be met, and told, where the program is called.
        pool = ThreadPoolExecutor(thread_name_prefix="compile")

        def compile_all() -> None:
            pictures = programs.pictures(size, frames)
            features, memory = programs.features_and_memory(self.variables, size, frames)
            flags, counts = (programs.of_lanes((), dtype) for dtype in (jnp.bool_, jnp.int32))
            if self.whole_chunks:
                programs.compiled("chunk", self.variables, memory, pictures, pictures, flags, counts)
                return
            pool.submit(programs.compiled, "encode", self.variables, pictures, pictures)
            if self._advances:
                programs.compiled("advance", self.variables, memory, features, flags)
                return
            pool.submit(programs.compiled, "start", self.variables, features)
            programs.compiled("step", self.variables, memory, features)

        pool.submit(compile_all)

    def _placed(self, *arrays: Any) -> tuple[Array, ...]:
        return jax.device_put(arrays, self._programs.sharding)

    def _zeros(self, shapes: Any) -> Memory:
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype, device=self._programs.sharding), shapes)

    def _call(self, name: str, *arguments: Any) -> Any:
        return self._programs.compiled(name, self.variables, *arguments)(self.variables, *arguments)
