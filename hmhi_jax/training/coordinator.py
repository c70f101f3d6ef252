"""JAX's coordinator in a process of its own, which outlives process 0 until the others have noticed its death.

JAX runs it inside process 0. Where that dies, the others lose the coordinator with it, and JAX ends them within
milliseconds, with a stack trace and without a word about whose death it was; nothing of ours can come before it.
"""

import contextlib
import errno
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from hmhi_jax.errors import InputError

_STAYS = 60.0  # seconds after the death of process 0, longer than it takes the others to notice
_LEAVING = 2.0  # seconds after all have said that they end, longer than it takes them to


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """Have `jax.distributed.initialize` start its coordinator in a process of its own."""
    from jax._src import distributed  # knows no other way

    library = distributed._jax
    inside, library.get_distributed_runtime_service = library.get_distributed_runtime_service, Coordinator
    try:
        yield
    finally:
        library.get_distributed_runtime_service = inside


class Coordinator:
    """Takes the place of JAX's service in process 0: has what JAX calls of it."""

    def __init__(self, address: str, count: int, **options: Any) -> None:
        """Start it and wait until it answers. Raises `InputError` if it does not."""
        _wait_for_port(address)
        command = [sys.executable, "-m", __name__, address, str(count), json.dumps(options)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}  # it finds what this process found
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        if not self._process.stdout.readline():
            raise InputError(f"the coordinator does not start at {address}; its own words are above")

    def shutdown(self) -> None:
        """End it, when all processes have ended in good order."""
        with contextlib.suppress(OSError):  # it may have died
            self._process.communicate("done")

    def leave(self) -> None:
        """Let it end soon: the others have said that they end, and process 0 is about to."""
        with contextlib.suppress(OSError):
            self._process.stdin.write("left")
            self._process.stdin.close()


def _wait_for_port(address: str) -> None:
    """Until nobody has it: JAX would share it, with the coordinator of a run whose process 0 died just before too."""
    host, _, port = address.rpartition(":")
    begin, told = time.monotonic(), False
    while True:
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            return socket.create_server((host.strip("[]"), int(port)), family=family).close()
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                return None  # JAX tells it
        if time.monotonic() - begin > _STAYS + 5:
            raise InputError(f"the coordinator's port {port} is taken by another program; choose another port")
        if not told:
            log = logging.getLogger(__name__)
            log.warning("port %s is taken, for a minute also by a run whose process 0 died; waiting", port)
            told = True
        time.sleep(1)


def _serve(address: str, count: int, options: dict[str, Any]) -> None:
    from jaxlib import _jax

    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a cluster sends it to all processes of a run; process 0 decides
    service = _jax.get_distributed_runtime_service(address, count, **options)
    print("ready", flush=True)
    time.sleep({"done": 0.0, "left": _LEAVING}.get(sys.stdin.read(), _STAYS))
    service.shutdown()


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]))
