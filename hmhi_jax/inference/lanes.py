"""Videos of different lengths on a fixed number of lanes: which frames of which video each lane gets, round by round.

A lane is one row of the batch. It works through a video in pieces of a fixed number of frames and then takes the next
video that waits, so that a long video never holds up the others; only the end of a video is padded.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Piece:
    """Frames `start` to `stop` (excluded) of a video, by its number; `last` if the video ends with it."""

    video: int
    start: int
    stop: int
    last: bool

    @property
    def first(self) -> bool:
        return self.start == 0

    def __len__(self) -> int:
        return self.stop - self.start


Round = tuple[Piece | None, ...]
"""One entry per lane; None where nothing is left to do."""


def plan_rounds(lengths: Sequence[int], lanes: int, chunk: int) -> Iterator[Round]:
    """Rounds in which `lanes` lanes go through all videos, at most `chunk` frames of one each per round.

    Long videos go first, so that the lanes end at about the same time.

    Args:
        lengths: frames of each video, at least one.
        lanes: rows of the batch.
        chunk: frames per round.
    """
    waiting = sorted(range(len(lengths)), key=lambda video: (-lengths[video], video))[::-1]
    places: list[tuple[int, int] | None] = [None] * lanes  # video and next frame of each lane
    while waiting or any(place is not None for place in places):
        pieces: list[Piece | None] = []
        for lane, place in enumerate(places):
            if place is None and waiting:
                place = waiting.pop(), 0
            if place is None:
                pieces.append(None)
                continue
            video, start = place
            stop = min(start + chunk, lengths[video])
            last = stop == lengths[video]
            pieces.append(Piece(video, start, stop, last))
            places[lane] = None if last else (video, stop)
        yield tuple(pieces)


def share_of(lengths: Sequence[int], host: int, hosts: int) -> list[int]:
    """The videos one of several hosts takes: each goes to the host with the fewest frames so far, longest first.

    Every host computes the same shares from the same lengths, so nobody has to tell.
    """
    loads, shares = [0] * hosts, [[] for _ in range(hosts)]
    for video in sorted(range(len(lengths)), key=lambda video: (-lengths[video], video)):
        least = min(range(hosts), key=lambda index: (loads[index], index))
        loads[least] += lengths[video]
        shares[least].append(video)
    return sorted(shares[host])
