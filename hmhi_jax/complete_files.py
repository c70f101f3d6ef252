"""Files and folders that appear under their names only when they are complete, whatever happens in between."""

import contextlib
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def completed(path: Path, workplace: Path | None = None) -> Iterator[Path]:
    """A place to write a file or a folder to; it becomes `path` when the block ends, or vanishes if the block fails.

    Several processes and threads may write the same path: the last one stays, never a mixture.

    Args:
        path: replaced if it is a file or an empty folder; its parents are made.
        workplace: folder on the same disk to write in, the one of `path` if not given.

    Raises:
        OSError: from the block, or if the folder or the name cannot be had; what stood under `path` is still there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    name = f".{path.name}.{os.getpid()}.{threading.get_ident()}.partial"
    partial = (workplace or path.parent).absolute() / name  # absolute as Orbax wants it
    try:
        yield partial
        os.replace(partial, path)
    finally:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        with contextlib.suppress(OSError):
            partial.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a text file, UTF-8, all or nothing. Raises `OSError`."""
    with completed(path) as partial:
        partial.write_text(text, encoding="utf-8")
