"""Files and folders that appear under their names only when they are complete, whatever happens in between."""

import contextlib
import hashlib
import os
import shutil
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

from hmhi_jax.errors import InputError


@contextlib.contextmanager
def readable(path: str | Path) -> Iterator[None]:
    """Turn what can go wrong with reading a file or a folder into an `InputError`: one line about `path`."""
    try:
        yield
    except OSError as error:
        what = "the folder " if os.path.isdir(path) else ""
        raise InputError(f"{path}: {what}cannot be read ({error.strerror or error})") from error


def refuse_special(path: str | Path, error: type[InputError] = InputError) -> None:
    """Raise `error` for a pipe, a socket or a device where a file is expected: reading one may never end."""
    with contextlib.suppress(OSError):  # told by whoever opens it
        mode = os.stat(path).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise error(f"{path}: is a pipe, a socket or a device, expected a file")


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's contents, in hexadecimal. Raises `InputError` if it cannot be read."""
    with readable(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def writable(path: str | Path, advice: str = "", errors: tuple[type[Exception], ...] = (OSError,)) -> Iterator[None]:
    """Turn what can go wrong with a disk into an `InputError`: one line about `path` that ends with `advice`.

    `errors` is what the block's writer raises, if that is more than `OSError`.
    """
    try:
        yield
    except errors as error:
        reason = getattr(error, "strerror", None) or str(error).split(";")[0]
        raise InputError(f"{path}: cannot be written ({reason})" + (f"; {advice}" if advice else "")) from error


@contextlib.contextmanager
def completed(path: Path, workplace: Path | None = None, *, advice: str | None = None) -> Iterator[Path]:
    """A place to write a file or a folder to; it becomes `path` when the block ends, or vanishes if the block fails.

    Several processes and threads may write the same path: the last one stays, never a mixture. After a power cut, too,
    it is whole or not there: it is on the disk before it gets its name.

    Args:
        path: replaced if it is a file or an empty folder; its parents are made.
        workplace: folder on the same disk to write in, the one of `path` if not given.
        advice: what to do when it cannot be written, for the `InputError` that then is raised in place of `OSError`.

    Raises `OSError` from the block, or if the folder or the name cannot be had; what stood under `path` is still there.
    """
    if advice is not None:
        with writable(path, advice), completed(path, workplace) as partial:
            yield partial
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    name = f".{path.name}.{os.getpid()}.{threading.get_ident()}.partial"
    partial = (workplace or path.parent).absolute() / name  # absolute as Orbax wants it
    try:
        yield partial
        _all_to_disk(partial)
        os.replace(partial, path)
        names_to_disk(path.parent)
    finally:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        with contextlib.suppress(OSError):
            partial.unlink()


def file_to_disk(path: Path) -> None:
    """Wait until what was written to a file is on the disk. Raises `OSError` if the disk does not take it."""
    with path.open("r+b") as file:  # Windows wants it writable
        os.fsync(file.fileno())


def names_to_disk(folder: Path) -> None:
    """Wait until new names in a folder are on the disk, where a system can be asked to."""
    with contextlib.suppress(OSError):  # Windows and some network disks refuse
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def _all_to_disk(path: Path) -> None:
    if not path.is_dir():
        file_to_disk(path)
        return
    for inside in path.iterdir():
        _all_to_disk(inside)
    names_to_disk(path)


def write_text(path: Path, text: str, *, advice: str | None = None) -> None:
    """Write a text file, UTF-8, all or nothing. Raises `OSError`, or `InputError` that ends with `advice`."""
    with completed(path, advice=advice) as partial:
        partial.write_text(text, encoding="utf-8")
