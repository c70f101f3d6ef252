"""PyTorch's format before 1.6: no zip, but pickles and storages one after the other in one file.

A magic number, a protocol number and a note on the machine, each a pickle of its own; the pickle of the saved value,
whose tensors refer to storages by key; a pickled list of the keys; and for each key, in that order, the number of
elements (int64) and the elements. All numbers are little-endian on every machine. There are no checksums.
"""

import mmap
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hmhi_jax.errors import InputError
from hmhi_jax.interop.torch_pickle import Constant, MalformedPickle, checked_keys, load_plain_pickle
from hmhi_jax.interop.torch_tensors import Storage, StorageType, builders

LEGACY_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
_PROTOCOL = 1001


class LegacyFile:
    """A mapped file of the old format; reads as `torch_checkpoint`'s archive of the new one does."""

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
        self._pickle = content[begin : content.tell()]
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

    def pickle(self) -> bytes:
        """The bytes of the value's pickle."""
        return self._pickle

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
