"""PyTorch's `.pth` files written without PyTorch, so that `torch.load(weights_only=True)` and the release read them."""

import os
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hmhi_jax.complete_files import completed
from hmhi_jax.errors import InputError
from hmhi_jax.interop.torch_pickle import STORAGES


def write_torch_checkpoint(path: str | os.PathLike[str], value: Mapping[str, Any]) -> None:
    """Writes nested dictionaries of arrays and plain values as a `.pth` that `torch.load(weights_only=True)` reads.

    Arrays keep their dtype (bfloat16 and float16 included) and become contiguous tensors on the CPU. The file appears
    under its name only when it is complete.
    """
    path = Path(path)
    storages: list[np.ndarray] = []
    pickle = b"\x80\x02" + b"".join(_pickled(value, storages)) + b"."
    root = "archive"
    try:
        with completed(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            archive.writestr(f"{root}/data.pkl", pickle)
            archive.writestr(f"{root}/byteorder", b"little")
            for index, array in enumerate(storages):
                little = array.astype(array.dtype.newbyteorder("<"), copy=False)
                _write_aligned(archive, f"{root}/data/{index}", memoryview(little.reshape(-1).view(np.uint8)))
            archive.writestr(f"{root}/version", b"3\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from None


def _pickled(value: Any, storages: list[np.ndarray]) -> Iterator[bytes]:
    """Protocol-2 instructions that build `value`."""
    if isinstance(value, Mapping):
        yield b"ccollections\nOrderedDict\n)R("
        for key, item in value.items():
            yield from _pickled(key, storages)
            yield from _pickled(item, storages)
        yield b"u"
    elif isinstance(value, list | tuple):
        yield b"](" if isinstance(value, list) else b"("
        for item in value:
            yield from _pickled(item, storages)
        yield b"e" if isinstance(value, list) else b"t"
    elif hasattr(value, "__array__"):
        yield from _pickled_tensor(np.ascontiguousarray(value).reshape(np.shape(value)), storages)
    elif value is None or isinstance(value, bool):
        yield {None: b"N", True: b"\x88", False: b"\x89"}[value]
    elif isinstance(value, int):
        encoded = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        yield b"\x8a" + bytes([len(encoded)]) + encoded
    elif isinstance(value, float):
        yield b"G" + struct.pack(">d", value)
    elif isinstance(value, str):
        encoded = value.encode()
        yield b"X" + struct.pack("<I", len(encoded)) + encoded
    else:
        raise TypeError(f"a checkpoint cannot hold {type(value).__name__}")


def _pickled_tensor(array: np.ndarray, storages: list[np.ndarray]) -> Iterator[bytes]:
    name = array.dtype.name
    kind = next((storage for storage, dtype in STORAGES.items() if dtype == name), None)
    if kind is None:
        raise TypeError(f"a checkpoint cannot hold an array of {name}")
    identity = (str(len(storages)), "cpu", array.size)
    storages.append(array)
    strides = tuple(int(np.prod(array.shape[axis + 1 :])) for axis in range(array.ndim))
    yield b"ctorch._utils\n_rebuild_tensor_v2\n("
    yield from (b"(", *_pickled("storage", storages), f"ctorch\n{kind}\n".encode())
    for part in identity:
        yield from _pickled(part, storages)
    yield b"tQ"
    for part in (0, array.shape, strides, False, {}):
        yield from _pickled(part, storages)
    yield b"tR"


def _write_aligned(archive: zipfile.ZipFile, name: str, data: memoryview) -> None:
    """Stores `data` at a multiple of 64 bytes, as PyTorch does, so that it can be mapped; an extra field pads."""
    info = zipfile.ZipInfo(name)
    # A member of 2 GiB or more gets 20 bytes of zip64 sizes beside the extra field.
    start = archive.fp.tell() + 30 + len(name.encode()) + 4 + (20 if len(data) * 1.05 > zipfile.ZIP64_LIMIT else 0)
    padding = -start % 64
    info.extra = struct.pack("<HH", 0x4246, padding) + b"\0" * padding  # "FB": the identifier PyTorch pads with
    archive.writestr(info, data)
