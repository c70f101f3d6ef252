"""From frames to what the network takes: each frame with its flow picture, both at the network's size; and the motion
along which what it says is carried to frames that it does not look at."""

import dataclasses
import functools
import itertools
import math
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from hmhi_jax.data.flow import FlowRecipe, neighbours
from hmhi_jax.data.pictures import halved
from hmhi_jax.data.preprocessing import MOST_EVERY, resize_picture
from hmhi_jax.data.shots import Look, changes_shot, look_of
from hmhi_jax.data.video import Frame, check_size
from hmhi_jax.errors import InputError
from hmhi_jax.inference.clean_up import carry
from hmhi_jax.inference.learned_flow import LearnedFlow, picture_from
from hmhi_jax.inference.pipeline import StageTimes

# Where flow pictures come from: an estimator's recipe; a flow network; an iterator of pictures in step with the frames;
# or a function of a frame's name and (height, width), such as a `FlowFolder`.
FlowOf = FlowRecipe | LearnedFlow | Iterator[np.ndarray] | Callable[[str, tuple[int, int]], np.ndarray]
WORTH, LARGEST = 1.75, 1920  # see `guide_of`
CALM = 10.0  # levels (0 to 255), see `_looked_at`


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A frame as the network takes it.

    index, name, size   of the frame; size is (height, width)
    picture             uint8 `[h, w, 3]` at the network's size; as the network takes it, where that looks at all frames
    flow                likewise, its flow picture; None where the network does not look at it
    kept                what the caller wanted to keep of the frame
    remember            the frame itself where the state after it is wanted, else None
    begins_shot         whether a new shot begins with it, so that the memory is to be emptied before
    guide               the frame, at most 1920 pixels a side, where its mask is to be refined, else None
    motion              the optical flow to the next frame, float32 (right, down) in pixels of the network's size; None
                        at the end of a shot, and where the network looks at all frames
    keep_memory         whether the memory after it is wanted: for the state after it, or after a frame that follows
    seen                the frame as the network takes it, where that looks at some frames only, and at this one
    """

    index: int
    name: str
    size: tuple[int, int]
    picture: UInt8[np.ndarray, "h w 3"]
    flow: UInt8[np.ndarray, "h w 3"] | None
    kept: Any = None
    remember: UInt8[np.ndarray, "H W 3"] | None = None
    begins_shot: bool = False
    guide: UInt8[np.ndarray, "H2 W2 3"] | None = None
    motion: Float32[np.ndarray, "h w 2"] | None = None
    keep_memory: bool = False
    seen: UInt8[np.ndarray, "h w 3"] | None = None

    @property
    def network_input(self) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w 3"] | None]:
        """The frame and its flow picture."""
        return self.picture if self.seen is None else self.seen, self.flow


class _Picture:
    """A frame at the sizes that the network, the flow and the search for cuts take it at; each is made once, by whoever
    needs it first."""

    def __init__(self, frame: Frame) -> None:
        self.frame = frame
        self._resized: dict[tuple[tuple[int, int], bool], np.ndarray] = {}
        self._changes: bool | None = None
        self._lock = threading.Lock()

    def at(self, size: tuple[int, int] | None, roughly: bool = False) -> UInt8[np.ndarray, "h w 3"]:
        """At (height, width); None is its own size."""
        if size is None:
            return self.frame.picture
        key = size, roughly
        with self._lock:
            if key not in self._resized:
                self._resized[key] = (_resize_roughly if roughly else resize_picture)(self.frame.picture, size)
            return self._resized[key]

    def begins_shot(self, before: "_Picture | None", detect: bool) -> bool:
        """Whether it is known to begin a new shot or, with `detect`, seen to after the picture `before` it."""
        if self.frame.begins_shot or not detect or before is None:
            return self.frame.begins_shot
        with self._lock:
            if self._changes is None:
                self._changes = changes_shot(before.look, self.look)
            return self._changes

    @functools.cached_property
    def look(self) -> Look:
        """What changes of shot are told by."""
        return look_of(self.frame.picture)


def _resize_roughly(picture: UInt8[np.ndarray, "H W 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
    """Much like `resize_picture`, in a quarter of the time: for what no network looks at."""
    height, width = size
    return cv2.resize(halved(picture, size), (width, height), interpolation=cv2.INTER_AREA)


class Window(NamedTuple):
    """A frame between its neighbours (None at a video's ends), and its flow picture where one was handed in."""

    before: _Picture | None
    frame: _Picture
    after: _Picture | None
    flow: UInt8[np.ndarray, "h w 3"] | None


def windows(
    frames: Iterable[Frame],
    flow_of: FlowOf,
    previous: UInt8[np.ndarray, "H W 3"] | None,
    begin: Callable[[tuple[int, int]], None] = lambda size: None,
) -> Iterator[Window]:
    """A window per frame, each as soon as the frame after its own is there.

    `previous` is the frame before the first one, where there was one; `begin` is told the first frame's (height,
    width) as soon as that is known.
    """
    before = _Picture(Frame(-1, "", previous)) if previous is not None else None
    current: _Picture | None = None
    flows = _in_step(flow_of) if isinstance(flow_of, Iterator) else None
    for frame in itertools.chain(frames, [None]):
        after = _Picture(frame) if frame else None
        if current is not None:
            yield Window(before, current, after, _given(flows, current.frame.index))
            before = current
        elif frame is not None:
            check_size(frame.picture.shape[:2], f"frame {frame.name}")
            if previous is not None and previous.shape != frame.picture.shape:
                raise InputError(
                    f"frame {frame.name}: is {frame.picture.shape}, but frames were {previous.shape} before the "
                    "state was saved; go on with the video it belongs to"
                )
            begin(frame.picture.shape[:2])
        current = after
    if flows and next(flows, None) is not None:
        raise InputError("flows: there are more flow pictures than frames, expected one per frame")


def prepare(
    window: Window,
    flow_of: FlowOf,
    *,
    network_size: Callable[[tuple[int, int]], tuple[int, int]],
    every: int = 1,
    first: int = 0,
    keep: Callable[[Frame], Any] | None = None,
    state_every: int | None = None,
    detect_cuts: bool = False,
    refine: bool | None = False,
    times: StageTimes,
) -> Prepared:
    """Draw the flow of a window's frame and bring both pictures to the network's size; `refine` as for `guide_of`.

    The network looks at frames whose number is a multiple of `every`, if enough changes (see `_looked_at`), at number
    `first`, and at the first and the last of a shot. Of others no flow picture is drawn. `state_every` is a multiple of
    `longest_gap(every)`. At a change of shot, known or with `detect_cuts` seen, flow is estimated as at a video's
    beginning and end.
    """
    frame = window.frame.frame
    is_last = window.after is None
    due = is_last or bool(state_every and (frame.index + 1) % state_every == 0)
    # The next frame that is surely looked at begins what follows the state.
    gap = longest_gap(every)
    before_due = bool(state_every and (frame.index // gap + 1) * gap % state_every == 0)
    with times.measure("cuts"):
        begins_shot = window.frame.begins_shot(window.before, detect_cuts)
        if begins_shot:
            window = window._replace(before=None)
        if window.after and window.after.begins_shot(window.frame, detect_cuts):
            window = window._replace(after=None)
    frame_size = frame.picture.shape[:2]
    size = network_size(frame_size)
    roughly = every > 1
    with times.measure("resize"):
        picture = window.frame.at(size, roughly)
        kept = keep(frame) if keep else None
    with times.measure("flow"):
        flow = motion = None
        looked_at = not roughly or frame.index == first or window.before is None or window.after is None
        if window.after and roughly:
            following = _alike(window.frame, window.after).at(size, roughly)
            motion = _motion(picture, following)
            looked_at = looked_at or _looked_at(frame.index, every, lambda: _change(picture, following, motion))
        if looked_at:
            flow = resize_picture(_flow(window, flow_of), size)
    with times.measure("resize"):
        seen = window.frame.at(size) if looked_at and roughly else None
    return Prepared(
        frame.index, frame.name, frame_size, picture, flow, kept, frame.picture if due else None, begins_shot,
        guide_of(frame.picture, size, refine), motion, is_last or before_due, seen,
    )  # fmt: skip


def guide_of(
    frame: UInt8[np.ndarray, "H W 3"], network_size: tuple[int, int], wanted: bool | None
) -> UInt8[np.ndarray, "h w 3"] | None:
    """What a frame's logits are refined by: the frame, at most 1920 pixels a side; None where they are not.

    `wanted` None means where the frame has at least `WORTH` times the pixels of `network_size`, (height, width).
    """
    height, width = frame.shape[:2]
    if not (height * width >= WORTH * math.prod(network_size) if wanted is None else wanted):
        return None
    scale = LARGEST / max(height, width)
    if scale >= 1:
        return frame
    return cv2.resize(frame, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)


def _flow(window: Window, flow_of: FlowOf) -> UInt8[np.ndarray, "h w 3"]:
    if window.flow is not None:
        return window.flow
    frame = window.frame.frame
    if not isinstance(flow_of, FlowRecipe | LearnedFlow):
        return flow_of(frame.name, frame.picture.shape[:2])
    recipe = flow_of if isinstance(flow_of, FlowRecipe) else flow_of.recipe
    neighbour, opposite = neighbours(window.before, window.frame, window.after, recipe)
    size = recipe.size
    alike = _alike(window.frame, neighbour).at(size)
    return picture_from(flow_of, window.frame.at(size), alike, opposite and opposite.at(size))


def _alike(picture: _Picture, neighbour: _Picture) -> _Picture:
    """The neighbour, if it is of the same size."""
    frame, other = picture.frame, neighbour.frame
    if other.picture.shape != frame.picture.shape:
        raise InputError(
            f"frame {other.name}: is {other.picture.shape}, expected {frame.picture.shape} as frame {frame.name}"
        )
    return neighbour


def _motion(one: UInt8[np.ndarray, "h w 3"], other: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "h w 2"]:
    """Flow without the refinement and the fine steps that pictures of it need: as good to carry masks along, in a third
    of the time."""
    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    search.setFinestScale(1)
    search.setVariationalRefinementIterations(0)
    return search.calc(*(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in (one, other)), None)


def longest_gap(every: int) -> int:
    """From a frame that the network looks at to the next, at most: `every`, doubled up to `MOST_EVERY`; but a network
    that looks at every frame does at every frame."""
    return every << int(math.log2(MOST_EVERY // every)) if every > 1 else 1


def _looked_at(index: int, every: int, change: Callable[[], float]) -> bool:
    """Whether the network looks at a frame within a shot, which changes so much to the next.

    It does at multiples of `every`. Where little changes, at every second of them; where less does, by the root of two,
    since errors add up as in a random walk, at every fourth; and so on, up to the longest gap. That depends on two
    frames alone: nothing has to be remembered.
    """
    multiple, rest = divmod(index, every)
    if rest or index % longest_gap(every) == 0:
        return not rest
    power = multiple & -multiple  # of two: without this frame there is none for twice as many multiples
    return change() >= CALM / math.sqrt(power)


def _change(
    one: UInt8[np.ndarray, "h w 3"], following: UInt8[np.ndarray, "h w 3"], motion: Float32[np.ndarray, "h w 2"]
) -> float:
    """Levels by which a picture and the following one, carried along the motion, differ around a pixel: as many as are
    reached at a hundredth of all."""
    differences = cv2.blur(difference(one, carry(following, motion, border=cv2.BORDER_REPLICATE)), (9, 9))
    return float(np.percentile(differences, 99))


def difference(one: UInt8[np.ndarray, "h w 3"], other: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "h w"]:
    """Levels by which two pictures differ at every pixel, a mean over colours."""
    return cv2.transform(cv2.absdiff(one, other).astype(np.float32), np.full((1, 3), 1 / 3, np.float32))


def _in_step(flows: Iterator[Any]) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """Flow pictures that are handed in, refused unless all are uint8 `[h, w, 3]` of one size. They are copied, as
    frames are: whoever makes them may fill one array again and again."""
    first = None
    for number, picture in enumerate(flows):
        if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.shape[2:] != (3,):
            raise InputError(f"flows: picture {number} is no NumPy array of uint8 (height, width, 3)")
        first = first or picture.shape
        if picture.shape != first or 0 in picture.shape:
            raise InputError(
                f"flows: picture {number} is {picture.shape}, expected {first} as the first, and not empty"
            )
        yield np.array(picture)


def _given(flows: Iterator[np.ndarray] | None, index: int) -> UInt8[np.ndarray, "h w 3"] | None:
    """The next of flow pictures in step with the frames: taken here and not in a thread, so that they stay in step."""
    if flows is None:
        return None
    picture = next(flows, None)
    if picture is None:
        raise InputError(f"flows: no flow picture for frame {index}, expected one per frame")
    return picture
