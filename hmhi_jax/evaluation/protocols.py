"""Evaluation protocols: which annotated frames count, how frames become a video's and videos a data set's figures; how
figures are called where people read them, and which way is better."""

import inspect
import re
from typing import ClassVar, Literal

from hmhi_jax.errors import InputError


class Protocol:
    """One way to turn per-frame scores into a published number; the subclasses say exactly which.

    Frames are a video's annotated frames in order of their names (numbers inside names compare as numbers). Frames
    without a prediction are left out of every mean and listed beside the result.
    """

    name: ClassVar[str]
    kind: ClassVar[Literal["uvos", "vsod"]] = "uvos"
    skip_ends: ClassVar[bool] = False
    """Leave the first and last annotated frame of every video out."""
    expect_annotations: ClassVar[bool] = True
    """Whether a predicted frame without annotation is worth a remark."""
    headline: ClassVar[tuple[str, ...]] = ("JF_mean", "J_mean", "F_mean")

    @property
    def description(self) -> str:
        """The protocol's docstring, as the report prints it."""
        return inspect.getdoc(type(self)) or ""

    def select(self, count: int) -> range:
        """Positions of the frames that count, of a video with `count` annotated frames."""
        return range(1, count - 1) if self.skip_ends else range(count)

    def class_of(self, video: str) -> str | None:
        """Class of a video, by its name, whose figures stand beside the data set's; None: there are no classes."""
        return None

    def __repr__(self) -> str:
        return f"<protocol {self.name}>"


class Davis16(Protocol):
    """J and F on every annotated frame, first and last included, as the release reports DAVIS-16.

    A video's J (F) is the mean over its frames, the data set's the mean over its videos; J&F is the mean of the two.
    Recall is the share of a video's frames above .5 and decay the mean of its first quarter less that of its last,
    both without the first and last frame. Objects are merged into one foreground; the prediction's foreground is
    above 128.
    """

    name = "davis16"


class Davis16Inner(Protocol):
    """J and F without the first and last annotated frame of every video, as the DAVIS-2016 toolkit counts.

    Means, recall and decay are all over these inner frames; everything else as in `davis16`.
    """

    name = "davis16-inner"
    skip_ends = True


class Fbms(Protocol):
    """J and F on the annotated frames only, of videos annotated now and then, as the release reports FBMS.

    Predictions of frames without annotation are ignored. The first and last annotated frame count for the mean and,
    as in `davis16`, not for recall and decay. A video's figure is the mean over its annotated frames, the data set's
    the mean over its videos, long or short. The published number is J.
    """

    name = "fbms"
    expect_annotations = False
    headline = ("J_mean", "F_mean", "JF_mean")


class YoutubeObjects(Protocol):
    """J per class on the annotated frames only, as the release reports YouTube-Objects.

    A video's class is the part of its name before the first digit (`aeroplane0001`, `aeroplane_0001`), or its first
    folder (`aeroplane/0001`). A class's J is the mean over its videos. Both overall figures are given: the mean over
    videos (`J_mean`, the release's) and the mean over classes (`J_class_mean`, usual in the benchmark's tables).
    """

    name = "youtube-objects"
    expect_annotations = False
    headline = ("J_mean", "J_class_mean")

    def class_of(self, video: str) -> str:
        """The first folder, or what stands before the first digit."""
        if "/" in video:
            return video.split("/")[0]
        return re.split(r"\d", video, maxsplit=1)[0].rstrip("_-. ") or video


class Vsod(Protocol):
    """MAE, F, E and S of the 8-bit predictions, without the first and last annotated frame, as the release reports
    VSOD.

    F (beta squared .3) and E are curves over 256 thresholds: averaged over a video's frames, then over videos; max F
    and max E are the highest points of the data set's curve. MAE and S (alpha .5) are averaged over frames, then over
    videos. The truth is what is at least half of white. Figures named `sod_` are those of the PySODMetrics package,
    averaged the same way.
    """

    name = "vsod"
    kind = "vsod"
    skip_ends = True
    headline = ("MAE", "max_F", "max_E", "S")


PROTOCOLS: dict[str, Protocol] = {p.name: p for p in (Davis16(), Davis16Inner(), Fbms(), YoutubeObjects(), Vsod())}


def find_protocol(protocol: str | Protocol, kind: Literal["uvos", "vsod"] | None = None) -> Protocol:
    """A protocol by name (or itself), optionally of one kind. Raises `InputError` if there is no such, or it is of
    the other kind."""
    names = [p.name for p in PROTOCOLS.values() if kind in (None, p.kind)]
    found = protocol if isinstance(protocol, Protocol) else PROTOCOLS.get(protocol)
    if found is None:
        raise InputError(f"protocol: {protocol!r} is not known; choose one of {', '.join(names)}")
    if kind not in (None, found.kind):
        raise InputError(f"protocol: {found.name!r} is for {found.kind.upper()}; choose one of {', '.join(names)}")
    return found


def display_name(figure: str) -> str:
    """`J_mean` is J, `J_recall` "J recall", `sod_mean_F` "sod mean F": the prefix stays, it marks other definitions."""
    words = figure.replace("JF", "J&F").split("_")
    if words[1:] == ["mean"]:
        return words[0]
    if words[1:] == ["class", "mean"]:
        return f"{words[0]} over classes"
    return " ".join(words)


def lower_is_better(figure: str) -> bool:
    """Whether a smaller value is the better one, as of errors and decays."""
    return figure == "MAE" or figure.endswith("_decay")


def better(figure: str, a: float, b: float) -> bool:
    """Whether `a` beats `b`; NaN never does."""
    return a < b if lower_is_better(figure) else a > b
