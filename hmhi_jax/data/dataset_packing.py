"""A data set of folders into ArrayRecord shards: the files as they are, or pictures at training size."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hmhi_jax.complete_files import readable, refuse_special
from hmhi_jax.data.flow_pictures import flow_recipe_of
from hmhi_jax.data.layouts import Dataset
from hmhi_jax.data.masks import encode_mask, read_mask
from hmhi_jax.data.packing import FRAMES_PER_SHARD, EncodedVideo, PackedDataset, write_packed
from hmhi_jax.data.pictures import Picture, encode_picture, read_picture
from hmhi_jax.errors import InputError


@dataclass(frozen=True)
class PackedForm:
    """What is packed.

    size     None: the bytes of the files, untouched, so that batches are those of the folder. (height, width): pictures
             resized to it, so that nothing is decoded that training at that size does not need
    quality  of frames and flow pictures at `size`: 1 to 100 is JPEG, whose batches differ a little from the folder's;
             0 is PNG, whose batches are equal (unless clips are cropped: a window is then cut from the small picture)
    codec    "jpeg", or "webp", which takes about half the space at the same quality and twice the time to read
    """

    size: tuple[int, int] | None = None
    quality: int = 95
    codec: str = "jpeg"

    def __post_init__(self) -> None:
        if not 0 <= self.quality <= 100:
            raise InputError(f"packing: quality is {self.quality}, expected 0 (lossless) to 100")
        if self.codec not in ("jpeg", "webp"):
            raise InputError(f"packing: codec is {self.codec!r}, expected 'jpeg' or 'webp'")
        if self.size is not None and min(self.size) < 32:
            raise InputError(f"packing: size is {self.size}, expected (height, width) of at least 32")

    def encode_picture(self, picture: Picture) -> bytes:
        """A frame or a flow picture."""
        if self.size is None:
            return _untouched(picture)
        return encode_picture(read_picture(picture, self.size), self.quality, self.codec)

    def encode_mask(self, picture: Picture) -> bytes:
        """A mask; at `size` it is merged to one foreground and stored with one bit a pixel."""
        return _untouched(picture) if self.size is None else encode_mask(read_mask(picture, self.size))


@dataclass(frozen=True)
class _Encoder:
    """Encodes video `i`; picklable, for worker processes."""

    dataset: Dataset
    form: PackedForm

    def __call__(self, number: int) -> EncodedVideo:
        video, form = self.dataset.videos[number], self.form
        return EncodedVideo(
            name=video.name,
            frame_names=video.frame_names,
            frames=tuple(form.encode_picture(picture) for picture in video.frames),
            flows=tuple(picture and form.encode_picture(picture) for picture in video.flows),
            masks=tuple(picture and form.encode_mask(picture) for picture in video.masks),
            label=video.label,
        )


def pack_dataset(
    dataset: Dataset,
    out: str | Path,
    form: PackedForm = PackedForm(),
    *,
    frames_per_shard: int = FRAMES_PER_SHARD,
    workers: int = 0,
    advance: Callable[[str, int], None] | None = None,
) -> PackedDataset:
    """Pack a data set into the folder `out`; an interrupted packing goes on. See `packing.write_packed`.

    Raises InputError when a picture cannot be read (inspect first), or `out` holds another packing.
    """
    recipe = flow_recipe_of(dataset)
    details = {
        "layout": dataset.layout,
        "split": dataset.split,
        "size": form.size and list(form.size),
        "quality": form.quality if form.size else None,
        **({"codec": form.codec} if form.codec != "jpeg" else {}),
        "flow": recipe and recipe.to_json(),
        "flow_pictures": sum(video.flows.has(number) for video in dataset.videos for number in range(len(video))),
    }
    plan = [(video.name, len(video)) for video in dataset.videos]
    return write_packed(
        out, plan, _Encoder(dataset, form), dataset=dataset.name, details=details, frames_per_shard=frames_per_shard,
        workers=workers, advance=advance,
    )  # fmt: skip


def _untouched(picture: Picture) -> bytes:
    if isinstance(picture, Path):
        refuse_special(picture)
    with readable(str(picture)):
        return picture.read_bytes()
