"""Which object is which: connected parts of masks, followed through time as numbered objects.

Labels are carried along the motion from frame to frame; a part of the mask gets the label it overlaps. Parts that touch
are divided at the nearest carried label; what comes apart, or appears, is compared in place, size and colours with the
objects that were lost from view. Memory does not grow with the video.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from hmhi_jax.errors import InputError
from hmhi_jax.inference.clean_up import Follower, Motion

MOST_OBJECTS = 200  # of 255 labels; the others are for what may become an object
_LEAST = 0.0005  # share of the picture that an object has at least when it appears
_AT_ONCE = 0.004  # share from which a part is an object at once, unless it may be one that was lost
_LASTS = 4  # frames that other parts must last to be objects
_OVERLAP = 0.2  # of the smaller of the two: less is a neighbour's rim
_APART = 0.5  # of an object's side: parts farther apart are not one object
_ALIKE = 0.6  # share of a part's pixels that an object has in the same colours; below, it is something else
_HIDDEN = 40  # frames for which an object may come out of another one unseen
_BLUR = 2.0  # pixels over which carried labels and colours are looked at
_COLOURS = 1.4  # how much colours count beside what is carried
_BINS = 6  # of each colour

Labels = UInt8[np.ndarray, "h w"]
Region = Bool[np.ndarray, "h w"]
Colours = Float[np.ndarray, "_"]  # a histogram, sum 1


@dataclasses.dataclass
class Track:
    """An object, or a part that may become one. Lengths are shares of the picture's longer side, areas of its own.

    first, last, frames  the frame it was first and last seen in, and in how many it was seen
    area, areas          of late, and the sum over all frames
    x, y, dx, dy         its middle, and its way from frame to frame, of late
    colours              histogram, sum 1
    """

    first: int
    last: int
    area: float
    x: float
    y: float
    colours: Colours
    dx: float = 0.0
    dy: float = 0.0
    frames: int = 1
    areas: float = 0.0

    def ahead(self, frames: int) -> tuple[float, float]:
        """Where its middle would be so many frames after it was last seen."""
        steps = min(frames, 15)
        return self.x + self.dx * steps, self.y + self.dy * steps

    def see(self, frame: int, area: float, x: float, y: float, colours: Colours) -> None:
        """Take a new sight of it in."""
        if self.last == frame - 1:
            self.dx, self.dy = (self.dx + x - self.x) / 2, (self.dy + y - self.y) / 2
        self.x, self.y, self.last = x, y, frame
        # Slowly, so that it is still known as a whole when it comes out from behind something.
        self.area += 0.1 * (area - self.area)
        self.colours = self.colours + np.float32(0.1) * (colours - self.colours)
        self.frames += 1
        self.areas += area


class ObjectTracker:
    """Numbers the objects of a video, frame by frame: at most `most` of them over its whole length.

    Whoever comes when all numbers are taken gets none; numbers go to the larger one first. No number is given twice.
    """

    def __init__(self, most: int) -> None:
        if not 1 <= most <= MOST_OBJECTS:
            raise InputError(f"objects: {most} asked for, expected 1 to {MOST_OBJECTS}")
        self.most = most
        self._tracks: dict[int, Track] = {}  # by label; those above `most` are no objects yet
        self._labels: Labels | None = None
        self._frame = -1

    def __call__(self, mask: UInt8[np.ndarray, "H W"], motion: Motion) -> UInt8[np.ndarray, "H W"]:
        """Labels of the next frame, 0 background, 1 .. `most` objects.

        Args:
            mask: values above 127 are objects.
            motion: back to the frame of the last call, from a `Follower`.
        """
        self._frame += 1
        size = motion.colour.shape[:2]
        inside = cv2.resize(mask, size[::-1], interpolation=cv2.INTER_AREA) > 127
        looks = (motion.colour // np.uint8(256 // _BINS + 1)) @ np.array([_BINS * _BINS, _BINS, 1])
        before = np.zeros(size, np.uint8)
        if self._labels is not None and motion.trust.any():  # else a new shot begins
            before = motion.carry(self._labels, cv2.INTER_NEAREST)
        labels, regions = self._taken_over(inside, before, looks)
        regions += self._apart(labels, before)
        self._recognise(labels, regions, looks)
        self._update(labels, looks)
        self._labels = labels
        # The nearest label at the small size, where there is one: so edges at the mask's own size have theirs too.
        near = _nearest(labels, inside)
        near[near > self.most] = 0
        return cv2.resize(near, mask.shape[::-1], interpolation=cv2.INTER_NEAREST) * (mask > 127)

    def _taken_over(self, inside: Region, before: Labels, looks: np.ndarray) -> tuple[Labels, list[Region]]:
        """Labels that the parts of a mask have from the frame before, and the parts that have none."""
        count, parts, stats, _ = cv2.connectedComponentsWithStats(inside.astype(np.uint8), connectivity=8)
        both = np.bincount(parts.ravel() * 256 + before.ravel(), minlength=count * 256).reshape(count, 256)
        smaller = np.minimum(both.sum(1)[:, None], both.sum(0)[None])
        claims = (both > 0) & (both >= _OVERLAP * smaller)
        claims[0], claims[:, 0] = False, False
        many = claims.sum(1)
        labels = np.where(many == 1, claims.argmax(1), 0).astype(np.uint8)[parts]
        claimed = set(np.flatnonzero(claims.any(0)).tolist())
        hidden = [label for label in self._tracks if label <= self.most and label not in claimed]
        for part in np.flatnonzero(many > 0):
            box = stats[part, :4]
            near = [label for label in hidden if self._within(self._tracks[label], box, inside.shape)]
            if many[part] > 1 or near:
                self._divide(parts == part, np.flatnonzero(claims[part]).tolist(), near, before, looks, labels)
        large = stats[:, cv2.CC_STAT_AREA] >= _LEAST * inside.size
        return labels, [parts == part for part in range(1, count) if many[part] == 0 and large[part]]

    def _within(self, track: Track, box: np.ndarray, size: tuple[int, int]) -> bool:
        """Whether an object that was lost a moment ago may be in a box (left, top, width, height in pixels)."""
        gone, side = self._frame - track.last, max(size)
        x, y = track.ahead(gone)
        left, top, width, height = box / side
        reach = np.sqrt(track.area * size[0] * size[1]) / side + 0.005 * gone
        return gone <= _HIDDEN and bool(
            left - reach < x < left + width + reach and top - reach < y < top + height + reach
        )

    def _divide(
        self, own: Region, claimants: list[int], hidden: list[int], before: Labels, looks: np.ndarray, labels: Labels
    ) -> None:
        """Give each pixel of a part to one of the labels that claim it, by what is carried and by colours. Labels that
        are hidden carry nothing: they get what has their colours beyond doubt."""
        size = labels.size
        rows, columns = (slice(x.min(), x.max() + 1) for x in np.nonzero(own))
        own, before, looks, labels = (x[rows, columns] for x in (own, before, looks, labels))
        part = own.astype(np.float32)
        around = cv2.GaussianBlur(part, (0, 0), _BLUR) + np.float32(1e-6)
        everyone = claimants + hidden
        carried = np.stack([cv2.GaussianBlur(part * (before == label), (0, 0), _BLUR) for label in everyone])
        carried /= carried.sum(0) + np.float32(1e-6)
        known = [self._tracks[label] for label in everyone]
        colours = np.stack([track.colours[looks] * np.float32(track.area) for track in known])
        colours /= colours.sum(0) + np.float32(1e-7)
        colours = np.stack([cv2.GaussianBlur(part * each, (0, 0), _BLUR) for each in colours]) / around
        chosen = np.array(everyone, np.uint8)[(carried + np.float32(_COLOURS) * colours).argmax(0)] * own
        for label in hidden:
            found = chosen == label
            if np.count_nonzero(found) < max(_LEAST, 0.15 * self._tracks[label].area) * size:
                chosen[found] = 0
        for label in claimants:  # crumbs go to whoever is around them
            _, pieces, stats, _ = cv2.connectedComponentsWithStats((chosen == label).astype(np.uint8))
            areas = stats[1:, cv2.CC_STAT_AREA]
            chosen[np.isin(pieces, np.flatnonzero(areas < 0.2 * areas.max(initial=0)) + 1)] = 0
        labels[own] = _nearest(chosen, chosen > 0)[own]

    def _apart(self, labels: Labels, before: Labels) -> list[Region]:
        """Pieces that carry a label though the object it belongs to is somewhere else. Far ones lose it here."""
        pieces = []
        for label in _present(labels):
            own = labels == label
            count, parts, stats, _ = cv2.connectedComponentsWithStats(own.astype(np.uint8), connectivity=8)
            if count <= 2:
                continue
            main = 1 + int(np.bincount(parts[before == label], minlength=count)[1:].argmax())
            distance = cv2.distanceTransform((parts != main).astype(np.uint8), cv2.DIST_L2, 3)
            for part in range(1, count):
                if part == main or stats[part, cv2.CC_STAT_AREA] < _LEAST * labels.size:
                    continue
                piece = parts == part
                if distance[piece].min() > _APART * np.sqrt(stats[main, cv2.CC_STAT_AREA]):
                    # Whoever it hangs together with has a better claim than a new object.
                    around = labels[cv2.dilate(piece.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0]
                    others = around[(around > 0) & (around != label)]
                    labels[piece] = np.bincount(others).argmax() if others.size else 0
                pieces.append(piece)
        return pieces

    def _recognise(self, labels: Labels, regions: list[Region], looks: np.ndarray) -> None:
        """Give regions the label of a lost object that they may be, else a new one where they have none."""
        lost = [label for label, track in self._tracks.items() if label <= self.most and not np.any(labels == label)]
        young = [labels == label for label in _present(labels) if label > self.most]
        regions = sorted(regions + young, key=np.count_nonzero, reverse=True)
        if lost and regions:
            from scipy.optimize import linear_sum_assignment  # slow to import, and seldom needed

            costs = np.array([[self._cost(region, labels, self._tracks[label], looks) for label in lost]
                              for region in regions])  # fmt: skip
            for region, object_ in zip(*linear_sum_assignment(costs), strict=True):
                if costs[region, object_] < 1:
                    labels[regions[region]] = lost[object_]
        for region in regions:
            if not labels[region].any():
                labels[region] = self._owner(region, labels, looks)
            free = next((label for label in range(self.most + 1, 256) if label not in self._tracks), None)
            if free is not None and not labels[region].any():
                labels[region] = free
                self._tracks[free] = Track(self._frame, self._frame, *_sight(region, looks), frames=0)

    def _owner(self, region: Region, labels: Labels, looks: np.ndarray) -> int:
        """The object in view that a region is a piece of: cut off by something in front, or apart as a thrown ball is
        not. It is near, of the object's colours, and makes it no larger than it was. 0 where there is none."""
        area, *_, colours = _sight(region, looks)
        away = cv2.distanceTransform((~region).astype(np.uint8), cv2.DIST_L2, 3)
        for label in _present(labels):
            track, own = self._tracks[label], labels == label
            room = 0.3 * track.area if track.frames == 0 else 1.3 * track.area - np.count_nonzero(own) / own.size
            near = away[own].min() <= _APART * np.sqrt(track.area * own.size)
            if near and area <= room and _alike(area, colours, track) >= _ALIKE:
                return label
        return 0

    def _cost(self, region: Region, labels: Labels, track: Track, looks: np.ndarray) -> float:
        """From 0, of how little a region seems to be a lost object; 1 or more where it cannot be."""
        area, x, y, colours = _sight(region, looks)
        gone = self._frame - track.last
        alike = _alike(area, colours, track)
        there = track.ahead(gone)
        way = np.hypot(x - there[0], y - there[1])
        reach = 0.05 + np.sqrt(track.area) + 0.02 * gone
        own = int(labels[region].max(initial=0))  # the label it would keep
        if 0 < own <= self.most and alike < _alike(area, colours, self._tracks[own]) + 0.05:
            return 2.0
        if alike < _ALIKE or way > reach or area > 4 * track.area:
            return 2.0
        return float((1 - alike) / 2 + way / reach / 2)

    def _update(self, labels: Labels, looks: np.ndarray) -> None:
        present = _present(labels)
        for label in [label for label in self._tracks if label > self.most and label not in present]:
            del self._tracks[label]
        may_be_lost = any(label <= self.most and label not in present for label in self._tracks)
        sights = {label: _sight(labels == label, looks) for label in present}
        for label in sorted(present, key=lambda label: (label > self.most, -sights[label][0])):
            track = self._tracks[label]
            track.see(self._frame, *sights[label])
            number = 1 + sum(known <= self.most for known in self._tracks)
            large = sights[label][0] >= _AT_ONCE and not may_be_lost
            if label > self.most and number <= self.most and (large or track.frames >= _LASTS):
                labels[labels == label] = number
                self._tracks[number] = self._tracks.pop(label)

    def objects(self) -> list[dict[str, Any]]:
        """A line for each object so far: its number, the frames (counted from 0) it was first and last seen in, in how
        many it was seen, and its mean share of the picture in those."""
        return [
            {
                "object": number, "first": track.first, "last": track.last, "frames": track.frames,
                "mean_area": round(track.areas / track.frames, 6),
            }
            for number, track in sorted(self._tracks.items())
            if number <= self.most
        ]  # fmt: skip

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """What `restore` needs, as arrays and JSON."""
        tracks = {label: dataclasses.asdict(track) for label, track in self._tracks.items()}
        arrays = {f"colours {label}": track.pop("colours") for label, track in tracks.items()}
        if self._labels is not None:
            arrays["labels"] = self._labels
        return arrays, {"frame": self._frame, "tracks": tracks}

    def restore(self, arrays: dict[str, np.ndarray], note: dict[str, Any]) -> None:
        """Go on after the frame at which `state` was taken."""
        self._frame, self._labels = note["frame"], arrays.get("labels")
        self._tracks = {
            int(label): Track(**track, colours=arrays[f"colours {label}"]) for label, track in note["tracks"].items()
        }


def track_objects(
    masks: Iterable[UInt8[np.ndarray, "H W"]], frames: Iterable[UInt8[np.ndarray, "H W 3"]], most: int
) -> Iterator[UInt8[np.ndarray, "H W"]]:
    """Label pictures of a video's masks, in order, as they come; see `ObjectTracker`."""
    follow, tracker = Follower(), ObjectTracker(most)
    for mask, frame in zip(masks, frames, strict=True):
        yield tracker(mask, follow(frame))


def _nearest(labels: Labels, known: Region) -> Labels:
    """Everywhere the label of the nearest pixel that is `known`; 0 where there is none."""
    if not known.any():
        return np.zeros_like(labels)
    _, nearest = cv2.distanceTransformWithLabels(
        (~known).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    values = np.zeros(nearest.max() + 1, np.uint8)
    values[nearest[known]] = labels[known]
    return values[nearest]


def _present(labels: Labels) -> list[int]:
    return (np.flatnonzero(np.bincount(labels.ravel(), minlength=256)[1:]) + 1).tolist()


def _sight(region: Region, looks: np.ndarray) -> tuple[float, float, float, Colours]:
    """Area, middle (x, y) and colours of a region, as `Track` has them."""
    y, x = np.nonzero(region)
    side = max(region.shape)
    colours = np.bincount(looks[y, x], minlength=_BINS**3).astype(np.float32) / np.float32(len(x))
    return len(x) / region.size, float(x.mean()) / side, float(y.mean()) / side, colours


def _alike(area: float, colours: Colours, track: Track) -> float:
    """Share of a part's pixels that have colours of an object, which may be there as a piece only."""
    return float(np.minimum(colours, track.colours * np.float32(max(track.area / area, 1))).sum())
