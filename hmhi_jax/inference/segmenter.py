"""Masks of a video as it comes: any length, bounded memory, from Python.

    segmenter = VideoSegmenter.load("tiny")
    for mask in segmenter.stream(frames): ...          # frames: any iterable of uint8 [H, W, 3]

A frame's flow picture needs the frame after it, so a mask comes one frame late at the earliest.
"""

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from hmhi_jax import process
from hmhi_jax.data.flow import FlowRecipe
from hmhi_jax.data.video import Frame
from hmhi_jax.errors import InputError
from hmhi_jax.inference.export import ExportedNetwork, is_export
from hmhi_jax.inference.learned_flow import LearnedFlow, flow_source
from hmhi_jax.inference.network_input import FlowOf, jobs, prepare
from hmhi_jax.inference.network_run import NetworkRun, Result
from hmhi_jax.inference.pipeline import Pipeline, StageTimes
from hmhi_jax.inference.stream_state import StreamState
from hmhi_jax.interop.weights_file import check_variables, load_weights
from hmhi_jax.models import HMHINet, build_model

STRIDE = 32  # the network's coarsest map
WORKERS = 2  # threads for flow, and for finishing masks
# Frames that are encoded in one batch. More keep an accelerator busy; a CPU gains nothing and needs the memory.
CHUNK = {"cpu": 1, "gpu": 8, "tpu": 8}


class VideoSegmenter:
    """A network with its weights, ready for videos. Streams of one segmenter do not disturb each other."""

    def __init__(
        self,
        model: HMHINet | ExportedNetwork,
        variables: Any,
        *,
        size: tuple[int, int] | int | str = (512, 512),
        input_size: tuple[int, int] | None = None,
        flow_recipe: FlowRecipe = FlowRecipe(),  # noqa: B008 - frozen
        flow_network: LearnedFlow | None = None,
        chunk: int | None = None,
        device: jax.Device | None = None,
    ) -> None:
        """Put a network on a device.

        Args:
            model: from `build_model`, or an export.
            variables: its variables, checked against it by `load`, not here.
            size: (height, width) the network runs at, multiples of 32, or one number for both; or "auto": the frames'
                own shape, with about as many pixels as `input_size`.
            input_size: (height, width) the weights were trained for; None takes `size`.
            flow_recipe: how the weights want flow pictures made.
            flow_network: makes them instead, by its own recipe.
            chunk: frames encoded in one batch; None takes 1 on CPU and 8 elsewhere.
            device: where to compute; None takes JAX's default.
        """
        process.enable_compilation_cache()
        if chunk is not None and chunk < 1:
            raise InputError(f"chunk is {chunk}, expected a number of frames, at least 1")
        self.device = device or jax.local_devices()[0]
        self.chunk = chunk or CHUNK.get(self.device.platform, 8)
        self.model = model
        self.flow_recipe = flow_recipe
        self.flow_network = flow_network
        self.size = size if size == "auto" else checked_size(size)
        if input_size is None and isinstance(self.size, str):
            input_size = (512, 512)
        self.input_size = input_size or self.size
        self.variables = jax.device_put(variables, self.device)

    @classmethod
    def load(
        cls,
        name_or_path: str | Path,
        *,
        size: tuple[int, int] | int | str | None = None,
        memory_frames: int | None = None,
        dtype: str | None = None,
        chunk: int | None = None,
        device: jax.Device | None = None,
        backbone: str | None = None,
        flow_weights: str | Path | None = None,
    ) -> "VideoSegmenter":
        """A segmenter from weights: a shipped name, a `.safetensors` file, the folder of a training run, of one of its
        checkpoints or of what `hmhi convert` wrote, or an export.

        Args:
            name_or_path: which weights.
            size: (height, width) the network runs at, one number for both, or "auto"; None takes the size the weights
                were trained for.
            memory_frames: capacity of the memory; None takes what the weights say.
            dtype: compute type, "float32" or "bfloat16"; None takes float32, or what an export has. Parameters stay
                float32.
            chunk, device: see `VideoSegmenter`.
            backbone: refuse weights of any other.
            flow_weights: estimate flow by the flow network of these weights, see `LearnedFlow.load`.

        Raises:
            InputError: for weights that do not exist, cannot be read or do not fit, and other values than these.
        """
        if size not in (None, "auto"):
            size = checked_size(size)
        if dtype not in (None, "float32", "bfloat16"):
            raise InputError(f"dtype is {dtype!r}, expected 'float32' or 'bfloat16'")
        if memory_frames is not None and memory_frames < 1:
            raise InputError(f"memory_frames is {memory_frames}, expected at least 1")
        if is_export(name_or_path):
            network = ExportedNetwork(name_or_path)
            network.require(
                platform=(device or jax.local_devices()[0]).platform, size=size, memory_frames=memory_frames,
                backbone=backbone, dtype=dtype, chunk=chunk,
            )  # fmt: skip
            return cls(
                network, network.variables, size=network.input_size, flow_recipe=network.flow_recipe,
                flow_network=_flow_network(flow_weights, network.flow_recipe, device), chunk=1, device=device,
            )  # fmt: skip
        weights = load_weights(name_or_path)
        arguments = dict(weights.model_arguments)
        if backbone is not None and arguments.get("backbone") != backbone:
            raise InputError(f"{weights.path}: holds weights of {arguments.get('backbone')}, expected {backbone}")
        if memory_frames is not None:
            arguments["memory_frames"] = memory_frames
        try:
            model = build_model(**{**arguments, "dtype": jnp.dtype(dtype or "float32")})
        except (TypeError, ValueError, KeyError) as error:
            raise InputError(f"{weights.path}: its metadata describes no network of this version ({error})") from error
        check_variables(model, weights.variables, weights.path)
        return cls(
            model,
            weights.variables,
            size=weights.input_size if size is None else size,
            input_size=weights.input_size,
            flow_recipe=weights.flow_recipe,
            flow_network=_flow_network(flow_weights, weights.flow_recipe, device),
            chunk=chunk,
            device=device,
        )

    def to(self, device: jax.Device) -> "VideoSegmenter":
        """The same on another device."""
        return VideoSegmenter(
            self.model, self.variables, size=self.size, input_size=self.input_size,
            flow_recipe=self.flow_recipe, flow_network=self.flow_network and self.flow_network.to(device),
            chunk=self.chunk, device=device,
        )  # fmt: skip

    def network_size(self, frame_size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) the network runs at for frames of `frame_size`."""
        return auto_size(frame_size, self.input_size) if isinstance(self.size, str) else self.size

    def stream(
        self,
        frames: Iterable[UInt8[np.ndarray, "H W 3"]],
        *,
        flows: Iterable[UInt8[np.ndarray, "h w 3"]] | None = None,
        soft: bool = False,
        threshold: float = 0.5,
        live: bool = False,
        state: StreamState | None = None,
        state_every: int | None = None,
    ) -> "MaskStream":
        """One mask per frame, in order, at the frames' size, while the frames come.

        Args:
            frames: RGB pictures of one size, at least one.
            flows: flow pictures in step with the frames, instead of estimating flow as the weights' recipe says.
            soft: give probabilities, uint8 0 to 255, instead of masks, uint8 0 or 255.
            threshold: probability above which a pixel is foreground.
            live: for a camera. Each mask comes as soon as the frame after it is there; nothing more is read ahead and
                no threads are started. Otherwise up to 4 chunks and a dozen frames are read ahead, so that reading,
                flow and the network work at the same time.
            state: go on from there; `frames` then begins with the frame `state.frames`.
            state_every: make `.state` available every so many frames (rounded up to whole chunks), not only at the end.

        Returns:
            An iterator of uint8 `[H, W]` with a `state`.

        Raises:
            InputError: while iterating, for frames of another dtype, shape or size than expected, or none at all.
        """
        if not 0 < threshold < 1:
            raise InputError(f"threshold is {threshold}, expected a probability between 0 and 1")
        start = state.frames if state else 0
        numbered = _numbered(frames, start)
        flow_of: FlowOf | None = None if flows is None else iter(flows)
        where: list[StreamState | None] = [state]

        def finish(result: Result) -> tuple[Result, np.ndarray]:
            logits = result.logits_at(result.size)
            return result, probabilities(logits) if soft else foreground(logits, threshold)

        def masks() -> Iterator[np.ndarray]:
            with Pipeline() as pipeline:
                options = {"flow_of": flow_of, "state": state, "state_every": state_every}
                if live:
                    finished = map(finish, self.results(numbered, pipeline=None, **options))
                else:
                    results = self.results(pipeline.ahead(numbered, 1), pipeline=pipeline, **options)
                    finished = pipeline.map(finish, results, WORKERS)
                for result, mask in finished:
                    if result.state is not None:
                        where[0] = result.state()
                    yield mask

        return MaskStream(masks(), where)

    def results(
        self,
        frames: Iterable[Frame],
        *,
        pipeline: Pipeline | None,
        flow_of: FlowOf | None = None,
        keep: Callable[[Frame], Any] | None = None,
        state: StreamState | None = None,
        state_every: int | None = None,
        times: StageTimes | None = None,
    ) -> Iterator[Result]:
        """What `stream` is made of: one `Result` per frame, for callers who write pictures of their own.

        Flow and the network run in threads of `pipeline`; without one, everything happens in turn, frame by frame.
        `flow_of` is a recipe, a flow network, an iterator of flow pictures, or a function of (frame name, frame size)
        such as a `FlowFolder`; None takes the segmenter's own flow network or recipe. `keep` is called once per frame,
        in a thread. Times are added to `times` by stage.
        """
        times = times or StageTimes()
        if flow_of is None:
            flow_of = flow_source(self.flow_recipe, self.flow_network, self.device)
            self.flow_network = flow_of if isinstance(flow_of, LearnedFlow) else None
        work = jobs(frames, flow_of, state.previous if state else None)
        prepare_job = functools.partial(
            prepare, network_size=self.network_size, keep=keep, times=times,
            state_every=self.whole_chunks(state_every),
        )  # fmt: skip
        run = NetworkRun(self.model, self.variables, self.device)
        if pipeline is None:
            return run.results(map(prepare_job, work), 1, state, times, read_ahead=False)
        prepared = pipeline.ahead(pipeline.map(prepare_job, work, WORKERS), self.chunk)
        return pipeline.ahead(run.results(prepared, self.chunk, state, times), self.chunk)

    def whole_chunks(self, frames: int | None) -> int | None:
        """A number of frames, rounded up to whole chunks: a stream goes on exactly only from between two chunks."""
        return frames and math.ceil(frames / self.chunk) * self.chunk


class MaskStream(Iterator[np.ndarray]):
    """Masks, uint8 `[H, W]`, one per frame. Close it (or leave a `with` block) to stop early."""

    def __init__(self, masks: Iterator[np.ndarray], where: list[StreamState | None]) -> None:
        self._masks = masks
        self._where = where

    @property
    def state(self) -> StreamState | None:
        """The latest point from which a stream can go on: where `state_every` asked for one, or the end.

        Its `frames` tells how many of the masks given so far it covers. Going on from the end is not exact: the last
        frame's flow went back to the one before it, so later masks differ from those of a stream that went on.
        """
        return self._where[0]

    def __iter__(self) -> "MaskStream":
        return self

    def __next__(self) -> np.ndarray:
        return next(self._masks)

    def close(self) -> None:
        self._masks.close()

    def __enter__(self) -> "MaskStream":
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()


def _flow_network(weights: str | Path | None, recipe: FlowRecipe, device: jax.Device | None) -> LearnedFlow | None:
    return LearnedFlow.load(weights, recipe, device=device) if weights else None


def foreground(logits: Float[np.ndarray, "H W"], threshold: float = 0.5) -> UInt8[np.ndarray, "H W"]:
    """255 where the probability is above `threshold`, else 0. The sigmoid is monotonous: compare logits."""
    return (logits > math.log(threshold / (1 - threshold))).astype(np.uint8) * np.uint8(255)


def probabilities(logits: Float[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W"]:
    """Probabilities in 256 steps, rounded."""
    return np.rint(255 / (1 + np.exp(-np.clip(logits, -30, 30)))).astype(np.uint8)


def checked_size(size: tuple[int, int] | int | str) -> tuple[int, int]:
    """(height, width), one number standing for both, if they are multiples of 32, else an `InputError`."""
    pair = (size, size) if isinstance(size, int) else size
    if isinstance(pair, str) or len(pair) != 2 or any(side < STRIDE or side % STRIDE for side in pair):
        text = pair if isinstance(pair, str) else " x ".join(map(str, pair))
        raise InputError(
            f"network size is {text} (height x width), expected two multiples of {STRIDE}, such as 512 x 512"
        )
    return (int(pair[0]), int(pair[1]))


def auto_size(frame_size: tuple[int, int], input_size: tuple[int, int]) -> tuple[int, int]:
    """The frames' shape with about the pixels of `input_size`, in multiples of 32."""
    scale = math.sqrt(input_size[0] * input_size[1] / (frame_size[0] * frame_size[1]))
    height, width = (max(1, round(side * scale / STRIDE)) * STRIDE for side in frame_size)
    return height, width


def _numbered(frames: Iterable[Any], start: int) -> Iterator[Frame]:
    """Pictures as frames, refused unless all are uint8 `[H, W, 3]` of one size."""
    size = None
    for index, picture in enumerate(frames, start):
        found = f"{picture.dtype} {picture.shape}" if isinstance(picture, np.ndarray) else type(picture).__name__
        if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.shape[2:] != (3,):
            raise InputError(f"frame {index}: is {found}, expected a NumPy array of uint8 (height, width, 3), RGB")
        if size is None:
            size = picture.shape
        if picture.shape != size:
            raise InputError(f"frame {index}: is {found}, expected {size} as the frames before it")
        yield Frame(index, f"{index:05d}", picture)
