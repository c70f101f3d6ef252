"""PyTorch's `.pth` files without PyTorch, read safely and lazily. The pickle is read by `torch_pickle`, which executes
nothing.

Since 1.6 a checkpoint is an uncompressed zip: `<root>/data.pkl` describes nested containers whose tensors refer to
storages `<root>/data/<key>`. Reading maps the file and returns NumPy views into it: nothing is copied until it is used,
tensors that share a storage stay shared, and strides are honoured.

Before, it was pickles and storages one after the other in one file: a magic number, a protocol number and a note on the
machine, each a pickle of its own; the pickle of the saved value, whose tensors refer to storages by key; a pickled list
of the keys; and for each key, in that order, the number of elements (int64) and the elements. All numbers are
little-endian on every machine. There are no checksums.
"""

import mmap
import os
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hmhi_jax.complete_files import readable
from hmhi_jax.errors import InputError
from hmhi_jax.interop.torch_pickle import (
    Constant,
    ForbiddenName,
    MalformedPickle,
    Storage,
    StorageType,
    builders,
    checked_keys,
    load_plain_pickle,
)

LEGACY_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
_PROTOCOL = 1001


class LegacyFile:
    """A mapped file of the old format; reads as the archive of the new one does. `pickle` is that of the value."""

    def __init__(self, path: Path, content: mmap.mmap) -> None:
        self.path = path
        content.seek(len(LEGACY_MAGIC))
        protocol = load_plain_pickle(content, {}, _no_reference)
        if not isinstance(protocol, int):
            raise MalformedPickle("a version that is no number")
        if protocol != _PROTOCOL:
            raise InputError(f"{path}: PyTorch's old format in version {protocol}, expected {_PROTOCOL}")
        load_plain_pickle(content, {}, _no_reference)  # about the machine, of which only the byte order could matter
        begin = content.tell()
        announced: dict[str, tuple[int, int]] = {}  # key -> elements, bytes of one

        def noted(identity: Any) -> None:
            key, dtype, count, _ = _storage_of(identity)
            if announced.setdefault(key, (count, _bytes_of_one(dtype))) != (count, _bytes_of_one(dtype)):
                raise MalformedPickle(f"storage {key} in two sizes")

        # The elements stand behind the value that refers to them, so it is read twice: first for the storages' sizes.
        load_plain_pickle(content, _without_tensors(), noted)
        self.pickle = content[begin : content.tell()]
        keys = load_plain_pickle(content, {}, _no_reference)
        if not isinstance(keys, list) or sorted(checked_keys(keys), key=str) != sorted(announced):
            raise MalformedPickle("its list of storages is not that of its tensors")
        self._storages = self._located(content, keys, announced)

    def _located(
        self, content: mmap.mmap, keys: list[str], announced: dict[str, tuple[int, int]]
    ) -> dict[str, np.ndarray]:
        """The bytes of every storage."""
        storages, position = {}, content.tell()
        for key in keys:
            count, itemsize = announced[key]
            begin, end = position + 8, position + 8 + count * itemsize
            if end > len(content):
                raise InputError(
                    f"{self.path}: storage {key} ({len(storages) + 1} of {len(keys)}) reaches past the end of the file "
                    "(cut short?): download or save it again"
                )
            (stored,) = struct.unpack("<q", content[position:begin])
            if stored != count:
                raise MalformedPickle(f"storage {key} has {stored} elements, {count} are announced")
            # Nothing aligns storages here, and unaligned arrays are slow ever after: copied once.
            storages[key] = np.frombuffer(content, np.uint8, count * itemsize, begin).copy()
            storages[key].flags.writeable = False
            position = end
        return storages

    def persistent(self, identity: Any) -> Storage:
        """The storage, or the part of one, that a persistent id names."""
        key, dtype, count, view = _storage_of(identity)
        raw = self._storages[key]
        if view is not None:
            _, offset, elements = view
            if not 0 <= offset <= offset + elements <= count:
                raise MalformedPickle(f"a view past the end of storage {key}")
            raw = raw[offset * _bytes_of_one(dtype) : (offset + elements) * _bytes_of_one(dtype)]
        return Storage(raw, dtype, swapped=sys.byteorder == "big")

    def verify(self) -> None:
        """The format has no checksums: that all sizes fit was looked at when the file was opened."""


def _storage_of(identity: Any) -> tuple[str, np.dtype | None, int, tuple[str, int, int] | None]:
    """Key, type, number of elements and view of `("storage", type, key, device, elements, view)`."""
    if not (isinstance(identity, tuple) and len(identity) == 6 and identity[0] == "storage"):
        raise MalformedPickle("a reference that is no storage")
    _, kind, key, _, count, view = identity
    if not (isinstance(kind, StorageType) and isinstance(key, str)):
        raise MalformedPickle("a storage without type or name")
    if type(count) is not int or not 0 <= count < 2**59:
        raise MalformedPickle("a storage without size")
    if view is not None and not (
        isinstance(view, tuple) and len(view) == 3 and all(type(number) is int for number in view[1:])
    ):
        raise MalformedPickle("a view of a storage that is none")
    return key, kind.dtype, count, view


def _bytes_of_one(dtype: np.dtype | None) -> int:
    """Untyped storages count bytes."""
    return 1 if dtype is None else dtype.itemsize


def _without_tensors() -> dict[str, Callable[..., Any] | Constant]:
    """The table of names with functions that make nothing."""
    return {name: value if isinstance(value, Constant) else lambda *_: {} for name, value in builders().items()}


def _no_reference(identity: Any) -> None:
    raise MalformedPickle("a reference where there are no storages")


_ZIP_MAGIC = b"PK\x03\x04"


def read_torch_checkpoint(path: str | os.PathLike[str], *, verify: bool = False) -> Any:
    """The value saved in a `.pth` file: nested containers and plain values, tensors as read-only NumPy views.

    Zip files of `torch.save` (PyTorch 1.6 and newer) in any byte order, and what it wrote before. bfloat16 and float8
    become `ml_dtypes` types. With `verify` every storage is compared with the zip's checksum. Raises `InputError` for a
    corrupt or truncated file, and for a pickle that names anything but tensors and plain containers: the name is given,
    nothing is executed.
    """
    path = Path(path)
    try:
        content = _mapped(path)
        archive = LegacyFile(path, content) if content[:16].startswith(LEGACY_MAGIC) else _Archive(path, content)
        value = load_plain_pickle(archive.pickle, builders(), archive.persistent)
    except ForbiddenName as error:
        raise InputError(
            f"{path}: its pickle names `{error.args[0]}`, which is neither a tensor nor a plain container; nothing was "
            "executed. If the file is your own, save it again as tensors only: torch.save(model.state_dict(), ...)"
        ) from None
    except MalformedPickle as error:
        raise InputError(f"{path}: its pickle is damaged ({error}); download or save the file again") from None
    if verify:
        archive.verify()
    return value


def _mapped(path: Path) -> mmap.mmap | bytes:
    """The file's content; an empty file cannot be mapped."""
    with readable(path), path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""


class _Archive:
    """The zip of a checkpoint, mapped into memory. `pickle` is its `data.pkl`."""

    def __init__(self, path: Path, content: mmap.mmap | bytes) -> None:
        self.path, self._map, size = path, content, len(content)
        self._refuse_what_is_no_checkpoint(size)
        try:
            with zipfile.ZipFile(path) as archive:
                self._entries = {info.filename: info for info in archive.infolist()}
        except (zipfile.BadZipFile, OSError, struct.error, ValueError, OverflowError):
            raise InputError(
                f"{path}: the zip is cut short or damaged ({size:,} bytes; no table of contents at its end): download "
                "or save the file again"
            ) from None
        pickles = [name for name in self._entries if name == "data.pkl" or name.endswith("/data.pkl")]
        if any(name.endswith("constants.pkl") for name in self._entries):
            raise InputError(f"{path}: a TorchScript program, not a checkpoint; save its state_dict() instead")
        if len(pickles) != 1:
            raise InputError(
                f"{path}: a zip without one data.pkl ({len(pickles)} found); expected a file of torch.save"
            )
        self._root = pickles[0].removesuffix("data.pkl")
        self._storages: dict[str, np.ndarray] = {}
        order = self._entry("byteorder").tobytes() if f"{self._root}byteorder" in self._entries else b"little"
        self._swapped = order.strip().decode(errors="replace") != sys.byteorder
        self.pickle = self._entry("data.pkl").tobytes()

    def _refuse_what_is_no_checkpoint(self, size: int) -> None:
        head = bytes(self._map[:512])
        if head.startswith(_ZIP_MAGIC):
            return
        if head[257:262] == b"ustar":
            raise InputError(
                f"{self.path}: PyTorch's format before 0.1.10 (a tar). Rewrite it once where PyTorch is installed: "
                "python -c \"import torch; torch.save(torch.load('IN.pth', map_location='cpu', weights_only=True), "
                "'OUT.pth')\""
            )
        if head.lstrip()[:1] == b"<":
            found = "a web page (the download needed a confirmation)"
        elif head.startswith(b"version https://git-lfs"):
            found = "a Git LFS pointer (run `git lfs pull`)"
        elif not size:
            found = "an empty file"
        elif head.startswith(b"\x80"):
            found = "a plain pickle (not executed; write it with torch.save)"
        else:
            found = f"a file that starts with {head[:8]!r}"
        raise InputError(f"{self.path}: expected a PyTorch checkpoint (zip), found {found}")

    def _entry(self, name: str) -> np.ndarray:
        """One file of the zip as uint8, a view of the map when it is stored uncompressed."""
        info = self._entries.get(self._root + name)
        if info is None:
            raise InputError(f"{self.path}: has no entry {self._root}{name}, which its pickle refers to: save it again")
        if info.compress_type != zipfile.ZIP_STORED:
            raise InputError(
                f"{self.path}: entry {info.filename} is compressed, torch.save stores uncompressed: unpack the file "
                "and pack it again with `zip -0 -r`"
            )
        # The local header repeats the name and has an extra field of its own length (PyTorch pads with it).
        begin, end = info.header_offset, len(self._map)
        header = bytes(self._map[begin : begin + 30]) if 0 <= begin <= end - 30 else b""
        if not header.startswith(_ZIP_MAGIC):
            raise InputError(f"{self.path}: entry {info.filename} is damaged: download or save the file again")
        name_length, extra_length = struct.unpack("<HH", header[26:30])
        begin += 30 + name_length + extra_length
        if begin + info.file_size > end:
            raise InputError(f"{self.path}: entry {info.filename} reaches past the end of the file (cut short?)")
        return np.frombuffer(self._map, np.uint8, info.file_size, begin) if info.file_size else np.zeros(0, np.uint8)

    def persistent(self, identity: Any) -> Storage:
        """The storage that a persistent id `("storage", type, key, device, element count)` names."""
        key, dtype, count, _ = _storage_of((*identity, None) if isinstance(identity, tuple) else identity)
        if key not in self._storages:
            raw = self._entry(f"data/{key}")
            # Unaligned maps (a file zipped again by another tool) are legal but slow ever after: copied once.
            self._storages[key] = raw if raw.ctypes.data % 16 == 0 or not raw.size else raw.copy()
        raw = self._storages[key]
        size = count * _bytes_of_one(dtype)
        if size > raw.size:
            raise MalformedPickle(f"storage {key} has {raw.size} bytes, {size} are announced")
        return Storage(raw[:size], dtype, self._swapped)

    def verify(self) -> None:
        """Compares every storage with its checksum in the zip.

        PyTorch can be told to write no checksums; then none fits and nothing can be said. Some fitting and some not is
        damage.
        """
        fits: dict[str, bool] = {}
        for name, info in self._entries.items():
            if name.startswith(f"{self._root}data/") and info.file_size:
                fits[name] = zlib.crc32(self._entry(name.removeprefix(self._root))) == info.CRC
        damaged = [name for name, good in fits.items() if not good]
        if damaged and len(damaged) < len(fits):
            raise InputError(
                f"{self.path}: {len(damaged)} of {len(fits)} storages differ from their checksums (first: "
                f"{damaged[0]}): the file is damaged, download or save it again"
            )
