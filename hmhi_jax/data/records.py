"""One video of a data set: where its frames, flow pictures and masks are, whatever they are stored in."""

import hashlib
import os
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsIndex

from hmhi_jax.data.pictures import Picture


class Pictures(Sequence[Picture | None]):
    """The frames, flow pictures or masks of one video: item i is that of frame i, or None.

    Only `keys` are kept, names or numbers, since a large data set has millions of pictures.
    """

    keys: tuple[str | int | None, ...]

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, frame: SupportsIndex) -> Picture | None:
        return self._picture(frame) if self.has(frame) else None

    def has(self, frame: SupportsIndex) -> bool:
        """Whether frame i has one."""
        return self.keys[frame] is not None

    @abstractmethod
    def _picture(self, frame: SupportsIndex) -> Picture:
        """That of a frame that has one."""

    @abstractmethod
    def stamps(self) -> Iterator[str]:
        """What tells these pictures from others of the same names, wherever they are; costs no reading."""


def is_plain_name(value: Any) -> bool:
    """Whether results may be written under a name: in their folder, and nowhere else."""
    return isinstance(value, str) and value not in ("", ".", "..") and not {"/", os.sep, "\0"} & set(value)


@dataclass(frozen=True)
class FolderPictures(Pictures):
    """Files in a folder; the keys are their names."""

    folder: str
    keys: tuple[str | None, ...]

    def _picture(self, frame: SupportsIndex) -> Path:
        return Path(self.folder, self.keys[frame])

    def stamps(self) -> Iterator[str]:
        """Name and size of every file."""
        for name, path in zip(self.keys, self, strict=True):
            yield f"{name} {path.stat().st_size if path and path.exists() else None}"


@dataclass(frozen=True)
class VideoRecord:
    """One video of a data set.

    name          unique in its data set, without "/": also the name of its folder of predictions
    frame_names   file names without suffix, in order
    frames, flows, masks
                  one entry per frame: where the picture is, or None (flow not made, mask not annotated). A flow picture
                  shows the motion from its frame to the next; that of the last frame the motion to the one before
    label         class (YouTube-Objects), or None
    flow_folder   where flow pictures lie or would be written, as `<frame name>.<suffix>`
    strays        masks and flow pictures that belong to no frame
    """

    name: str
    frame_names: tuple[str, ...]
    frames: Pictures
    flows: Pictures
    masks: Pictures
    label: str | None = None
    flow_folder: str = ""
    strays: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.frame_names)

    @property
    def annotated(self) -> tuple[int, ...]:
        """Numbers of the frames whose mask is known."""
        return tuple(frame for frame in range(len(self)) if self.masks.has(frame))

    def fingerprint(self, *, flows: bool) -> str:
        """What tells these frames (and flow pictures, where they count) from others under the same names: a hash of
        names and sizes of the files. It stays when the data set is moved."""
        digest = hashlib.sha256()
        for kind in (self.frames, self.flows) if flows else (self.frames,):
            for stamp in kind.stamps():
                digest.update(f"{stamp}\n".encode())
        return digest.hexdigest()[:16]
