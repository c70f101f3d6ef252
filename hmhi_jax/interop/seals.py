"""What a checkpoint's files were when it was complete, so that damage is known before anything reads them.

The seal lies in the checkpoint and names every file with its size and CRC-32. A checkpoint without one (its process was
killed between the two, or an older version wrote it) is only looked at for parts that are missing.
"""

import json
import zlib
from pathlib import Path

from hmhi_jax.complete_files import write_text
from hmhi_jax.interop.weight_places import RUN, STATE, read_json

SEAL = "seal.json"
DATA = "data"
PARTS = (STATE, DATA, RUN)


def seal(checkpoint: Path) -> None:
    """Write the seal of a complete checkpoint, unless it has one. Raises `OSError`."""
    if (checkpoint / SEAL).exists():
        return
    files = (path for part in PARTS for path in sorted((checkpoint / part).rglob("*")) if path.is_file())
    marks = {path.relative_to(checkpoint).as_posix(): _mark(path) for path in files}
    write_text(checkpoint / SEAL, json.dumps(marks, indent=0))


def damage(checkpoint: Path) -> str | None:
    """What is wrong with the files of a checkpoint, None if nothing is known to be.

    Raises:
        OSError: for a file that is there and cannot be read; that says nothing about what is in it.
    """
    for part in PARTS:
        if not (checkpoint / part).is_dir():
            return f"its part {part} is missing"
    for part in (DATA, RUN):
        if not read_json(checkpoint / part / "metadata"):
            return f"{part}/metadata is missing or no JSON"
    for name, mark in read_json(checkpoint / SEAL).items():
        try:
            found = _mark(checkpoint / name)
        except FileNotFoundError:
            return f"{name} is missing"
        if found != mark:
            was = f"{found[0]:,} bytes instead of {mark[0]:,}" if found[0] != mark[0] else "its checksum differs"
            return f"{name}: {was}"
    return None


def _mark(path: Path) -> list[int]:
    """Size and CRC-32."""
    size = crc = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            size, crc = size + len(block), zlib.crc32(block, crc)
    return [size, crc]
