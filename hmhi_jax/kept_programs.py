"""Programs that were traced and compiled once on a machine, read back as executables instead of being made again.

They are kept where JAX's compilation cache is on (`process.enable_compilation_cache`), each in a file whose name is a
digest of all that it depends on: what it computes, in words of whoever asks for it, the shapes it takes, this package's
sources, the versions of JAX and of what it is built from, the processor, the settings of XLA and JAX. So a file that
was made otherwise is never looked at. What is read is machine code, which is run: it is trusted because nobody but the
user may write to the folder (`process.private_cache`).
"""

import contextlib
import functools
import hashlib
import os
import pickle
import platform
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
from jax.experimental import serialize_executable
from jax.experimental.compilation_cache import compilation_cache

import hmhi_jax
from hmhi_jax.complete_files import completed
from hmhi_jax.process import cores, private_cache

MOST_BYTES = 2**30  # of all programs together; those not used for longest make room

_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "numpy")
# By the direction of imports nothing in these rooms reaches what a program computes.
_ROOMS_WITHOUT_PROGRAMS = ("cli", "runs", "tools", "evaluation", "interop")


_watchers: list[Callable[[str], None]] = []


@contextlib.contextmanager
def watched(begins: Callable[[str], None]) -> Iterator[None]:
    """Have `begins` called, from whatever thread, when a program has to be compiled meanwhile; with what is to be said
    of where it is kept, or "". Once, since programs are compiled side by side."""
    _watchers.append(begins)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            _watchers.remove(begins)


def program(
    what: str | None,
    arguments: Any,
    lower: Callable[[], jax.stages.Lowered],
    devices: Sequence[jax.Device],
    options: dict[str, Any] | None = None,
) -> jax.stages.Compiled:
    """A compiled program, read back if it was kept, else compiled and kept.

    Args:
        what: says, together with this package's sources, all that it computes; None for what cannot be said: it is
            not kept.
        arguments: its arguments, of which only structure, shapes and dtypes matter.
        lower: traces and lowers it.
        devices: those it runs on, in order.
        options: of the compiler.
    """
    described = what, _described(arguments), sorted((options or {}).items()), [device.id for device in devices]
    path = _path_of("program", what, described, devices)
    if path is not None and (kept := _read(path)) is not None:
        # Whatever the matter is with what was read, it can be made again.
        with contextlib.suppress(Exception):
            return serialize_executable.deserialize_and_load(*pickle.loads(kept), execution_devices=devices)
    while _watchers:
        with contextlib.suppress(IndexError):  # another thread took the last one
            _watchers.pop()(f" (once; kept in {path.parents[1]})" if path else "")
    lowered = lower()
    if path is None:
        return lowered.compile(options)
    with _jax_cache_off:
        compiled = lowered.compile(options)
    with contextlib.suppress(Exception):  # not every backend can
        _write(path, pickle.dumps(serialize_executable.serialize(compiled)))
    return compiled


def shapes(what: str | None, arguments: Any, derive: Callable[[], Any], devices: Sequence[jax.Device]) -> Any:
    """What `derive` gives, a pytree of shapes and dtypes, read back if it was kept; see `program`."""
    path = _path_of("shapes", what, (what, _described(arguments)), devices)
    if path is not None and (kept := _read(path)) is not None:
        with contextlib.suppress(Exception):
            structure, leaves = pickle.loads(kept)
            return jax.tree.unflatten(structure, [jax.ShapeDtypeStruct(*leaf) for leaf in leaves])
    derived = derive()
    if path is not None:
        leaves, structure = jax.tree.flatten(derived)
        with contextlib.suppress(Exception):
            _write(path, pickle.dumps((structure, [(x.shape, x.dtype) for x in leaves])))
    return derived


@functools.cache
def digest_of_sources(*folders: str) -> str:
    """Of this package's modules: those of some `folders`, or all on which what is computed may depend."""
    package = Path(hmhi_jax.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        room = path.relative_to(package).parts[0]
        if room in folders or (not folders and room not in _ROOMS_WITHOUT_PROGRAMS):
            digest.update(f"{path.relative_to(package)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


class _JaxCacheOff:
    """While entered, by however many threads, JAX's compilation cache is not asked.

    What it gives cannot be serialized again: on CPUs the program would lack parts of its code.
    """

    def __init__(self) -> None:
        self.entered = 0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            self.entered += 1
            self._switch(False)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self.entered -= 1
            self._switch(not self.entered)

    @staticmethod
    def _switch(on: bool) -> None:
        if jax.config.jax_enable_compilation_cache != on:
            jax.config.update("jax_enable_compilation_cache", on)
            compilation_cache.reset_cache()  # JAX remembers whether it is on


_jax_cache_off = _JaxCacheOff()


def _path_of(kind: str, what: str | None, described: Any, devices: Sequence[jax.Device]) -> Path | None:
    """Where something is kept; None where nothing is, or what is asked for cannot be."""
    on = jax.config.jax_enable_compilation_cache or _jax_cache_off.entered
    if what is None or jax.config.jax_compilation_cache_dir is None or not on:
        return None
    if jax.process_count() > 1:  # they compile together
        return None
    folder = private_cache()
    if folder is None:
        return None
    client = devices[0].client
    here = [client.platform, client.platform_version, client.device_count(), [d.device_kind for d in devices]]
    digest = hashlib.sha256(repr((kind, described, here, _settings(), _machine())).encode())
    return folder / "kept" / digest.hexdigest()


def _described(arguments: Any) -> tuple[str, list[tuple]]:
    leaves, structure = jax.tree.flatten(arguments)
    return str(structure), [(tuple(x.shape), str(x.dtype), getattr(x, "weak_type", False)) for x in leaves]


def _settings() -> list[tuple[str, str]]:
    """What JAX is set to, in this thread, but for its caches."""
    return [(name, str(getattr(jax.config, name, value))) for name, value in sorted(jax.config.values.items())
            if "cache" not in name]  # fmt: skip


@functools.cache
def _machine() -> tuple:
    """What does not change while a process runs: processor, libraries, flags, sources."""
    try:
        cpu = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        processor = [line for line in cpu if line.startswith(("model name", "flags", "Features", "CPU part"))]
    except OSError:  # not Linux
        processor = [platform.processor()]
    flags = {name: os.environ.get(name) for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "NPROC")}
    libraries = [version(library) for library in _LIBRARIES]
    return platform.machine(), processor, cores(), flags, sys.version, libraries, digest_of_sources()


def _read(path: Path) -> bytes | None:
    """What was kept, if it is whole; noted as used."""
    try:
        content = path.read_bytes()
        os.utime(path)
    except OSError:
        return None
    digest, kept = content[:32], content[32:]
    return kept if hashlib.sha256(kept).digest() == digest else None


def _write(path: Path, content: bytes) -> None:
    with completed(path) as partial:
        partial.write_bytes(hashlib.sha256(content).digest() + content)
    room = MOST_BYTES
    for size, old in _newest_first(path.parents[1]):
        room -= size
        if room < 0:
            old.unlink(missing_ok=True)


def _newest_first(folder: Path) -> Iterator[tuple[int, Path]]:
    found = [(path.stat(), path) for path in folder.rglob("*") if path.is_file()]
    for status, path in sorted(found, key=lambda entry: -entry[0].st_mtime):
        yield status.st_size, path
