"""Masks of a video as it comes: any length, bounded memory, from Python.

    segmenter = VideoSegmenter.load("small")
    for mask in segmenter.stream(frames): ...          # frames: any iterable of uint8 [H, W, 3]

A frame's flow picture needs the frame after it, so a mask comes one frame late at the earliest.
"""

import copy
import functools
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8

from hmhi_jax.data.flow import FlowRecipe
from hmhi_jax.data.preprocessing import STRIDE, checked_every, checked_size
from hmhi_jax.data.video import Frame, check_size
from hmhi_jax.errors import InputError
from hmhi_jax.inference.colours import Colours
from hmhi_jax.inference.export import ExportedNetwork, is_export
from hmhi_jax.inference.functions import Functions, functions_of
from hmhi_jax.inference.key_frames import KeyFrames
from hmhi_jax.inference.lanes import Lanes, Result
from hmhi_jax.inference.learned_flow import LearnedFlow, flow_source
from hmhi_jax.inference.masks import read_result
from hmhi_jax.inference.network import Network, chunk_of, lanes_of
from hmhi_jax.inference.network_input import FlowOf, longest_gap, prepare, windows
from hmhi_jax.inference.pipeline import WORKERS, Pipeline, StageTimes
from hmhi_jax.inference.stream_state import StreamState
from hmhi_jax.interop.weights import Weights, load_weights
from hmhi_jax.kernels.platforms import DTYPES
from hmhi_jax.models import HMHINet, build_model
from hmhi_jax.models.hmhi_net import check_switches

MOST_FRAMES = 1024  # of a chunk


class VideoSegmenter:
    """A network with its weights, ready for videos. Streams of one segmenter do not disturb each other."""

    def __init__(
        self,
        model: HMHINet | None,
        variables: Any,
        *,
        functions: Functions | None = None,
        size: tuple[int, int] | int | str = (512, 512),
        input_size: tuple[int, int] | None = None,
        flow_recipe: FlowRecipe = FlowRecipe(),  # noqa: B008 - frozen
        flow_network: LearnedFlow | None = None,
        every: int = 1,
        chunk: int | None = None,
        device: jax.Device | None = None,
    ) -> None:
        """Put a network on a device.

        Args:
            model: from `build_model`; None where there are only its `functions`.
            variables: its variables, checked against it by `load`, not here.
            functions: what to run; None takes the model's.
            size: (height, width) the network runs at, multiples of 32, or one number for both; or "auto": the frames'
                own shape, with about as many pixels as `input_size`.
            input_size: (height, width) the weights were trained for; None takes `size`.
            flow_recipe: how the weights want flow pictures made.
            flow_network: makes them instead, by its own recipe.
            every: the network looks at every so many frames, at most 16, and at fewer where little changes, see
                `key_frames`; of live streams at each.
            chunk: frames computed at a time, at most 1024; None takes 1 on CPU and 8 elsewhere.
            device: where to compute; None takes JAX's default.
        """
        if chunk is not None and not 1 <= chunk <= MOST_FRAMES:
            raise InputError(f"chunk is {chunk}, expected a number of frames, from 1 to {MOST_FRAMES}")
        self.device = device or jax.local_devices()[0]
        self.chunk = chunk or chunk_of(self.device)
        self.model = model
        self.flow_recipe = flow_recipe
        self.flow_network = flow_network
        self._finding_flow = threading.Lock()
        self.every = checked_every(every)
        self.size = size if size == "auto" else checked_size(size)
        if input_size is None and isinstance(self.size, str):
            input_size = (512, 512)
        self.input_size = input_size or self.size
        self._functions = functions or functions_of(model)
        self.network = Network(self._functions, variables, devices=[self.device])

    @property
    def variables(self) -> Any:
        """On the device."""
        return self.network.variables

    @classmethod
    def load(
        cls,
        name_or_path: str | Path,
        *,
        size: tuple[int, int] | int | str | None = None,
        memory_frames: int | None = None,
        dtype: str | None = None,
        every: int | None = None,
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
            dtype: compute type, one of `DTYPES`; None takes tensorfloat32, or what an export has. CPUs compute it in
                float32; elsewhere it is the fastest that was measured to keep 99.9 % of the masks' pixels
                (docs/performance.md).
            every: see `VideoSegmenter`; None takes what the weights say.
            chunk, device: see `VideoSegmenter`.
            backbone: refuse weights of any other.
            flow_weights: estimate flow by the flow network of these weights, see `LearnedFlow.load`.

        Raises:
            InputError: for weights that do not exist, cannot be read or do not fit, and other values than these.
        """
        if size not in (None, "auto"):
            size = checked_size(size)
        weights: ExportedNetwork | Weights
        if is_export(name_or_path):
            weights = ExportedNetwork(name_or_path)
            weights.require(
                (device or jax.local_devices()[0]).platform,
                size=size, memory_frames=memory_frames, backbone=backbone, dtype=dtype, chunk=chunk,
            )  # fmt: skip
            model, variables, functions, chunk = None, weights.variables, weights.functions, 1
        else:
            model, weights = load_network(name_or_path, memory_frames=memory_frames, dtype=dtype, backbone=backbone)
            variables, functions = weights.fit(model), None
        recipe = weights.flow_recipe
        return cls(
            model, variables, functions=functions, size=weights.input_size if size is None else size,
            input_size=weights.input_size, flow_recipe=recipe,
            flow_network=LearnedFlow.load(flow_weights, recipe, device=device) if flow_weights else None,
            every=weights.every if every is None else every, chunk=chunk, device=device,
        )  # fmt: skip

    def to(self, device: jax.Device) -> "VideoSegmenter":
        """The same on another device."""
        return self._like(self.variables, device)

    def with_variables(self, variables: Any) -> "VideoSegmenter":
        """The same with other weights."""
        return self._like(variables, self.device)

    def _like(self, variables: Any, device: jax.Device) -> "VideoSegmenter":
        other = copy.copy(self)
        other.device, other.flow_network = device, self.flow_network and self.flow_network.to(device)
        other.network = Network(self._functions, variables, devices=[device])
        return other

    def flow_source(self) -> FlowRecipe | LearnedFlow:
        """What estimates flow: the flow network, which is read when it is first asked for if the recipe wants one whose
        weights nobody gave (see `learned_flow.flow_source`), else the recipe."""
        with self._finding_flow:
            source = flow_source(self.flow_recipe, self.flow_network, self.device)
            self.flow_network = source if isinstance(source, LearnedFlow) else None
            return source

    @property
    def lanes_per_device(self) -> int:
        """Videos of `results` that a device best works on at once; an export takes no more than one."""
        return 1 if self.model is None else lanes_of(self.device)

    def lanes(self, devices: Sequence[jax.Device] | None = None, lanes_per_device: int = 1) -> Lanes:
        """For `results` of several videos of one network size, which are computed together: as many at a time as there
        are lanes. `devices` are where to compute; None takes the segmenter's own."""
        network = Network(
            self._functions, self.variables, devices=devices or [self.device], lanes_per_device=lanes_per_device
        )
        return Lanes(network, self.chunk)

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
        detect_cuts: bool = True,
        refine: bool | None = None,
    ) -> "MaskStream":
        """One mask per frame, in order, at the frames' size, while the frames come.

        Args:
            frames: RGB pictures of one size, at least one.
            flows: flow pictures in step with the frames, instead of estimating flow as the weights' recipe says.
            soft: give probabilities, uint8 0 to 255, instead of masks, uint8 0 or 255.
            threshold: probability above which a pixel is foreground.
            live: for a camera. The network looks at every frame, and each mask comes as soon as the frame after it is
                there; nothing more is read ahead and no threads are started. Otherwise up to 4 chunks and four frames
                for each of `pipeline.WORKERS` are read ahead, so that reading, flow and the network work at the same
                time, and those up to the next one that the network looks at.
            state: go on from there; `frames` then begins with the frame `state.frames`.
            state_every: make `.state` available every so many frames (rounded up, see `whole_chunks`), not only at the
                end.
            detect_cuts: look for changes of shot, where the memory is emptied and no flow is estimated across. Whoever
                knows them calls `cut` of what is returned.
            refine: let masks keep to the edges of the frames (`masks.refine`) and to the colours that the object has
                had so far (`colours.Colours`); None does where frames have at least 1.75 times the network's pixels.

        Returns:
            An iterator of uint8 `[H, W]` with a `state`.

        Raises:
            InputError: while iterating, for frames of another dtype, shape or size than expected, or none at all.
        """
        if not 0 < threshold < 1:
            raise InputError(f"threshold is {threshold}, expected a probability between 0 and 1")
        cut = threading.Event()
        numbered = _numbered(frames, state.frames if state else 0, cut)
        flow_of: FlowOf | None = None if flows is None else iter(flows)
        reading = "plain" if soft else "mask"

        def finish(result: Result) -> tuple[np.ndarray, Result]:
            return read_result(result, reading, threshold), result

        def masks() -> Iterator[tuple[np.ndarray, Result]]:
            with Pipeline() as pipeline:
                options = {
                    "flow_of": flow_of, "state": state, "state_every": state_every, "detect_cuts": detect_cuts,
                    "refine": refine,
                }  # fmt: skip
                if live:
                    yield from map(finish, self.results(numbered, pipeline=None, **options))
                else:
                    results = self.results(pipeline.ahead(numbered, 1), pipeline=pipeline, **options)
                    yield from pipeline.map(finish, results, WORKERS)

        return MaskStream(masks(), state, cut)

    def results(
        self,
        frames: Iterable[Frame],
        *,
        pipeline: Pipeline | None,
        flow_of: FlowOf | None = None,
        keep: Callable[[Frame], Any] | None = None,
        state: StreamState | None = None,
        state_every: int | None = None,
        detect_cuts: bool = False,
        refine: bool | None = False,
        times: StageTimes | None = None,
        lanes: Lanes | None = None,
    ) -> Iterator[Result]:
        """What `stream` is made of: one `Result` per frame, for callers who write pictures of their own.

        Flow and the network run in threads of `pipeline`; without one, everything happens in turn, frame by frame, and
        the network looks at all of them.
        `flow_of` is a recipe, a flow network, an iterator of flow pictures, or a function of (frame name, frame size)
        such as a `FlowFolder`; None takes `flow_source`. `keep` is called once per frame, in a thread. `refine` is that
        of `stream`, for `masks.read_result`. Times are added to `times` by stage. `lanes` are those that are shared
        with other videos, each in a thread of its own.
        """
        times = times or StageTimes()
        flow_of = self.flow_source() if flow_of is None else flow_of
        lanes = lanes or Lanes(self.network, self.chunk if pipeline else 1)
        every = self.every if pipeline else 1

        def begin(frame_size: tuple[int, int]) -> None:
            lanes.network.compile_ahead(self.network_size(frame_size), lanes.chunk)

        seen = windows(frames, flow_of, state.previous if state else None, begin)
        prepare_window = functools.partial(
            prepare, flow_of=flow_of, network_size=self.network_size, every=every, first=state.frames if state else 0,
            keep=keep, times=times, state_every=self.whole_chunks(state_every), detect_cuts=detect_cuts, refine=refine,
        )  # fmt: skip
        colours = Colours(state and state.colours)
        if pipeline is None:
            return colours.follow(lanes.results(map(prepare_window, seen), state, times, read_ahead=False), times)
        prepared = pipeline.ahead(pipeline.map(prepare_window, seen, WORKERS), lanes.chunk)
        key_frames = KeyFrames()
        keys = pipeline.ahead(lanes.results(key_frames.keys(prepared), state, times, every=every), lanes.chunk)
        return colours.follow(pipeline.ahead(key_frames.results(keys, times), 1), times)

    def whole_chunks(self, frames: int | None) -> int | None:
        """A number of frames, rounded up to whole chunks, which begin with a frame that the network surely looks at: a
        stream goes on exactly only from between two of them."""
        chunk = self.chunk * longest_gap(self.every)
        return frames and math.ceil(frames / chunk) * chunk


class MaskStream(Iterator[np.ndarray]):
    """Masks, uint8 `[H, W]`, one per frame. Close it (or leave a `with` block) to stop early.

    Attributes:
        state: the latest point from which a stream can go on: where `state_every` asked for one, or the end. Its
            `frames` tells how many of the masks given so far it covers. Going on from the end is not exact: the last
            frame's flow went back to the one before it, so later masks differ from those of a stream that went on.
        begins_shot: whether a new shot began with the frame of the latest mask.
    """

    def __init__(
        self, masks: Iterator[tuple[np.ndarray, Result]], state: StreamState | None, cut: threading.Event
    ) -> None:
        """`masks` come with what the network said of them; `cut` is seen with the next frame that is read."""
        self._masks, self._cut = masks, cut
        self.state = state
        self.begins_shot = False

    def __next__(self) -> np.ndarray:
        mask, result = next(self._masks)
        if result.state is not None:
            self.state = result.state()
        self.begins_shot = result.begins_shot
        return mask

    def cut(self) -> None:
        """A new shot begins with the next frame that is read: to be called where the frames are made, before that
        frame is handed over, since several may be read ahead of the masks."""
        self._cut.set()

    def close(self) -> None:
        self._masks.close()

    def __enter__(self) -> "MaskStream":
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()


def load_network(
    name_or_path: str | Path,
    *,
    memory_frames: int | None = None,
    dtype: str | None = None,
    backbone: str | None = None,
) -> tuple[HMHINet, Weights]:
    """A model and its weights; the arguments are those of `VideoSegmenter.load`."""
    if dtype is not None and dtype not in DTYPES:
        raise InputError(f"dtype is {dtype!r}, expected {', '.join(map(repr, DTYPES[:-1]))} or {DTYPES[-1]!r}")
    weights = load_weights(name_or_path)
    arguments = dict(weights.model_arguments)
    if backbone is not None and arguments.get("backbone") != backbone:
        raise InputError(f"{weights.path}: holds weights of {arguments.get('backbone')}, expected {backbone}")
    if memory_frames is not None:
        try:
            check_switches({"memory_frames": memory_frames})
        except ValueError as error:
            raise InputError(str(error)) from error
        arguments["memory_frames"] = memory_frames
    try:
        model = build_model(**{**arguments, "dtype": dtype or "tensorfloat32"})
    except (TypeError, ValueError, KeyError) as error:
        raise InputError(f"{weights.path}: its metadata describes no network of this version ({error})") from error
    return model, weights


def auto_size(frame_size: tuple[int, int], input_size: tuple[int, int]) -> tuple[int, int]:
    """The frames' shape with about the pixels of `input_size`, in multiples of 32."""
    scale = math.sqrt(input_size[0] * input_size[1] / (frame_size[0] * frame_size[1]))
    height, width = (max(1, round(side * scale / STRIDE)) * STRIDE for side in frame_size)
    return height, width


def _numbered(frames: Iterable[Any], start: int, cut: threading.Event) -> Iterator[Frame]:
    """Pictures as frames, refused unless all are uint8 `[H, W, 3]` of one size; one that comes after `cut` was set
    begins a shot."""
    size = None
    for index, picture in enumerate(frames, start):
        found = f"{picture.dtype} {picture.shape}" if isinstance(picture, np.ndarray) else type(picture).__name__
        if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.shape[2:] != (3,):
            raise InputError(f"frame {index}: is {found}, expected a NumPy array of uint8 (height, width, 3), RGB")
        if size is None:
            check_size(picture.shape[:2], f"frame {index}")
            size = picture.shape
        if picture.shape != size:
            raise InputError(f"frame {index}: is {found}, expected {size} as the frames before it")
        begins_shot = cut.is_set()
        cut.clear()
        # A copy, since several are read ahead, and whoever makes them may fill one array again and again.
        yield Frame(index, f"{index:05d}", np.array(picture), begins_shot=begins_shot)
