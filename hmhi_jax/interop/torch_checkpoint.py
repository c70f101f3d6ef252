"""PyTorch's `.pth` files without PyTorch, read safely and lazily.

Since 1.6 a checkpoint is an uncompressed zip: `<root>/data.pkl` describes nested containers whose tensors refer to
storages `<root>/data/<key>`. Reading maps the file and returns NumPy views into it: nothing is copied until it is used,
tensors that share a storage stay shared, and strides are honoured. The pickle is read by `torch_pickle`, which executes
nothing.
"""

import math
import mmap
import os
import struct
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from hmhi_jax.errors import InputError
from hmhi_jax.interop.torch_pickle import Constant, ForbiddenName, MalformedPickle, load_plain_pickle
from hmhi_jax.interop.torch_values import value_builders

_LEGACY_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
_ZIP_MAGIC = b"PK\x03\x04"
# Broadcast tensors may have more elements than their storage; beyond this many it is an attack on the reader's memory.
_LARGEST_BROADCAST = 2**24

DTYPES: dict[str, np.dtype] = {
    name: np.dtype(dtype)
    for name, dtype in {
        "float64": np.float64,
        "float32": np.float32,
        "float16": np.float16,
        "bfloat16": ml_dtypes.bfloat16,
        "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
        "float8_e5m2": ml_dtypes.float8_e5m2,
        "complex64": np.complex64,
        "complex128": np.complex128,
        "int64": np.int64,
        "int32": np.int32,
        "int16": np.int16,
        "int8": np.int8,
        "uint64": np.uint64,
        "uint32": np.uint32,
        "uint16": np.uint16,
        "uint8": np.uint8,
        "bool": np.bool_,
    }.items()
}
STORAGES: dict[str, str] = {  # PyTorch's class of a storage -> element type
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}


class TorchDtype(NamedTuple):
    """A dtype named in a checkpoint, itself a value (`torch.float32`)."""

    name: str


class _StorageType(NamedTuple):
    """A class of storages; `dtype` is None for PyTorch's untyped one, which counts bytes."""

    dtype: np.dtype | None


class _Storage(NamedTuple):
    """Flat bytes of one storage with the element type the file gives it, if any."""

    raw: np.ndarray
    dtype: np.dtype | None
    swapped: bool  # the file's byte order is not this machine's


def read_torch_checkpoint(path: str | os.PathLike[str], *, verify: bool = False) -> Any:
    """The value saved in a `.pth` file: nested containers and plain values, tensors as read-only NumPy views.

    Zip files of `torch.save` (PyTorch 1.6 and newer) in any byte order. bfloat16 and float8 become `ml_dtypes` types.
    With `verify` every storage is compared with the zip's checksum. Raises `InputError` for a legacy, corrupt or
    truncated file, and for a pickle that names anything but tensors and plain containers: the name is given, nothing is
    executed.
    """
    path = Path(path)
    archive = _Archive(path)
    try:
        value = load_plain_pickle(archive.pickle(), _builders(), archive.persistent)
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


class _Archive:
    """The zip of a checkpoint, mapped into memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                self._map: mmap.mmap | bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
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
        order = self._bytes("byteorder") if f"{self._root}byteorder" in self._entries else b"little"
        self._swapped = order.strip().decode(errors="replace") != sys.byteorder

    def _refuse_what_is_no_checkpoint(self, size: int) -> None:
        head = bytes(self._map[:512])
        if head.startswith(_ZIP_MAGIC):
            return
        if head.startswith(_LEGACY_MAGIC) or head[257:262] == b"ustar":
            raise InputError(
                f"{self.path}: PyTorch's legacy format (before 1.6). Rewrite it once where PyTorch is installed: "
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

    def _bytes(self, name: str) -> bytes:
        return self._entry(name).tobytes()

    def pickle(self) -> bytes:
        """The bytes of `data.pkl`."""
        return self._bytes("data.pkl")

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

    def persistent(self, identity: Any) -> _Storage:
        """The storage that a persistent id `("storage", type, key, device, element count)` names."""
        if not (isinstance(identity, tuple) and len(identity) == 5 and identity[0] == "storage"):
            raise MalformedPickle("a reference that is no storage")
        _, kind, key, _, count = identity
        if not (isinstance(kind, _StorageType) and isinstance(key, str) and type(count) is int and count >= 0):
            raise MalformedPickle("a storage without type, name or size")
        if key not in self._storages:
            raw = self._entry(f"data/{key}")
            # Unaligned maps (a file zipped again by another tool) are legal but slow ever after: copied once.
            self._storages[key] = raw if raw.ctypes.data % 16 == 0 or not raw.size else raw.copy()
        raw = self._storages[key]
        size = count * (kind.dtype.itemsize if kind.dtype is not None else 1)
        if size > raw.size:
            raise MalformedPickle(f"storage {key} has {raw.size} bytes, {size} are announced")
        return _Storage(raw[:size], kind.dtype, self._swapped)

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


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, dtype: np.dtype | None = None) -> np.ndarray:
    """A strided view of a storage; every number comes from the file and is checked."""
    if not isinstance(storage, _Storage):
        raise MalformedPickle("a tensor without a storage")
    size, stride = tuple(size), tuple(stride)
    numbers = (offset, *size, *stride)
    if len(size) != len(stride) or len(size) > 32 or not all(type(n) is int and 0 <= n < 2**62 for n in numbers):
        raise MalformedPickle("a tensor with an impossible shape")
    dtype = storage.dtype if storage.dtype is not None else dtype
    if dtype is None:
        raise MalformedPickle("a tensor without a type")
    raw = storage.raw[: storage.raw.size // dtype.itemsize * dtype.itemsize]
    if storage.swapped:  # by bytes, because bfloat16 has no byte order in NumPy; a complex number is two
        unit = dtype.itemsize // (2 if dtype.kind == "c" else 1)
        raw = np.ascontiguousarray(raw.reshape(-1, unit)[:, ::-1]).reshape(-1)
    flat = raw.view(dtype)
    elements = math.prod(size)
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if elements and last >= flat.size:
        raise MalformedPickle(f"a tensor of {size} reaches past its storage of {flat.size} elements")
    if elements > max(flat.size, _LARGEST_BROADCAST):
        raise MalformedPickle(f"a tensor of {size} repeats a storage of {flat.size} elements too often")
    if not elements:
        return np.zeros(size, dtype)
    byte_strides = tuple(s * dtype.itemsize for s in stride)
    return np.lib.stride_tricks.as_strided(flat[offset:], size, byte_strides, writeable=False)


def _rebuild_tensor_v2(
    storage: Any, offset: Any, size: Any, stride: Any, _grad: Any = False, _hooks: Any = None, marks: Any = None
) -> np.ndarray:
    array = _tensor(storage, offset, size, stride)
    marks = marks if isinstance(marks, dict) else {}
    array = np.conj(array) if marks.get("conj") else array
    return np.negative(array) if marks.get("neg") else array


def _rebuild_tensor_v3(
    storage: Any, offset: Any, size: Any, stride: Any, _grad: Any, _hooks: Any, dtype: Any, _marks: Any = None
) -> np.ndarray:
    if not isinstance(dtype, TorchDtype):
        raise MalformedPickle("a tensor without a type")
    return _tensor(storage, offset, size, stride, DTYPES[dtype.name])


def _rebuild_parameter(data: Any, *_: Any) -> np.ndarray:
    if not isinstance(data, np.ndarray):
        raise MalformedPickle("a parameter without a tensor")
    return data


def _builders() -> dict[str, Any]:
    """Every name a checkpoint may use, and what becomes of it."""
    table: dict[str, Any] = value_builders() | {
        "torch._utils _rebuild_tensor": _rebuild_tensor_v2,
        "torch._utils _rebuild_tensor_v2": _rebuild_tensor_v2,
        "torch._utils _rebuild_tensor_v3": _rebuild_tensor_v3,
        "torch._utils _rebuild_parameter": _rebuild_parameter,
        "torch._utils _rebuild_parameter_with_state": _rebuild_parameter,
        "torch.storage UntypedStorage": Constant(_StorageType(None)),
    }
    table |= {f"torch {storage}": Constant(_StorageType(DTYPES[name])) for storage, name in STORAGES.items()}
    return table | {f"torch {name}": Constant(TorchDtype(name)) for name in DTYPES}
