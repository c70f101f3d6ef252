"""From frames to what the network takes: each frame with its flow picture, both at the network's size."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from jaxtyping import UInt8

from hmhi_jax.data.flow import FlowRecipe
from hmhi_jax.data.preprocessing import resize_picture
from hmhi_jax.data.video import Frame, check_size
from hmhi_jax.errors import InputError
from hmhi_jax.inference.learned_flow import LearnedFlow, picture_from
from hmhi_jax.inference.pipeline import StageTimes

# Where flow pictures come from: an estimator's recipe; a flow network; an iterator of pictures in step with the frames;
# or a function of a frame's name and (height, width), such as a `FlowFolder`.
FlowOf = FlowRecipe | LearnedFlow | Iterator[np.ndarray] | Callable[[str, tuple[int, int]], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Job:
    """A frame, how to get its flow picture, and whether it is known to be the last."""

    frame: Frame
    draw: Callable[[], UInt8[np.ndarray, "h w 3"]]
    last: bool


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A frame as the network takes it.

    index, name, size   of the frame; size is (height, width)
    picture, flow       uint8 `[h, w, 3]` at the network's size
    kept                what the caller wanted to keep of the frame
    remember            the frame itself where a state is due
    state_due           whether the memory after this frame is wanted
    """

    index: int
    name: str
    size: tuple[int, int]
    picture: UInt8[np.ndarray, "h w 3"]
    flow: UInt8[np.ndarray, "h w 3"]
    kept: Any
    remember: UInt8[np.ndarray, "H W 3"] | None
    state_due: bool


def jobs(frames: Iterable[Frame], flow_of: FlowOf, previous: UInt8[np.ndarray, "H W 3"] | None) -> Iterator[Job]:
    """A job per frame. `previous` is the frame before the first one, where there was one.

    Flow goes to the next frame; the last frame's goes back to the one before it; a single frame's to itself, which says
    "nothing moves". So every job waits for the frame after its own.
    """
    held: Frame | None = None
    for frame in frames:
        if held is not None:
            yield Job(held, _flow_to(held, frame.picture, previous, flow_of), False)
            previous = held.picture
        else:
            check_size(frame.picture.shape[:2], f"frame {frame.name}")
            if previous is not None and previous.shape != frame.picture.shape:
                raise InputError(
                    f"frame {frame.name}: is {frame.picture.shape}, but frames were {previous.shape} before the "
                    "state was saved; go on with the video it belongs to"
                )
        held = frame
    if held is not None:
        neighbour = held.picture if previous is None else previous
        yield Job(held, _flow_to(held, neighbour, None, flow_of), True)
    if isinstance(flow_of, Iterator) and next(flow_of, None) is not None:
        raise InputError("flows: there are more flow pictures than frames, expected one per frame")


def prepare(
    job: Job,
    *,
    network_size: Callable[[tuple[int, int]], tuple[int, int]],
    keep: Callable[[Frame], Any] | None,
    state_every: int | None,
    times: StageTimes,
) -> Prepared:
    """Do a job: draw the flow, bring both pictures to the network's size."""
    frame = job.frame
    frame_size = frame.picture.shape[:2]
    size = network_size(frame_size)
    with times.measure("flow"):
        flow = job.draw()
    with times.measure("resize"):
        picture, flow = resize_picture(frame.picture, size), resize_picture(flow, size)
        kept = keep(frame) if keep else None
    due = job.last or bool(state_every and (frame.index + 1) % state_every == 0)
    return Prepared(frame.index, frame.name, frame_size, picture, flow, kept, frame.picture if due else None, due)


def _flow_to(
    frame: Frame, neighbour: UInt8[np.ndarray, "H W 3"], opposite: UInt8[np.ndarray, "H W 3"] | None, flow_of: FlowOf
) -> Callable[[], np.ndarray]:
    if isinstance(flow_of, FlowRecipe | LearnedFlow):
        return lambda: picture_from(flow_of, frame.picture, neighbour, opposite)
    if isinstance(flow_of, Iterator):
        picture = next(flow_of, None)  # now and not in a thread: it must stay in step
        if picture is None:
            raise InputError(f"flows: no flow picture for frame {frame.index}, expected one per frame")
        if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.shape[2:] != (3,):
            raise InputError(f"flows: picture {frame.index} is no NumPy array of uint8 (height, width, 3)")
        return lambda: picture
    return lambda: flow_of(frame.name, frame.picture.shape[:2])
