"""Processes that have joined and then do what they are told; prints how each ended, as JSON: `[[code, output], ...]`.

They are forked from this one, which has imported everything and has not begun to compute.
"""

import json
import os
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

import jax

from hmhi_jax.errors import InputError
from hmhi_jax.training.companions import joined
from hmhi_jax.training.mesh import wait_for_all

SILENCE = 10.0


def act(role: str) -> None:
    if role == "wait":
        wait_for_all("never")
    elif role == "fail":
        raise InputError("weights.npz: cannot be read")
    elif role == "cut":
        raise jax.errors.JaxRuntimeError("connection closed by peer")
    elif role == "break":
        raise RuntimeError("out of memory")
    elif role in ("SIGKILL", "SIGSTOP"):
        os.kill(os.getpid(), getattr(signal, role))
    elif role == "gone":  # with its machine, as far as the others can tell
        os.kill(coordinator_of(os.getpid()), signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
    elif role == "work":
        time.sleep(1.5 * SILENCE)


def coordinator_of(process: int) -> int:
    return int(Path(f"/proc/{process}/task/{process}/children").read_text())


def main(roles: list[str]) -> None:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    started = []
    for index, role in enumerate(roles):
        output = tempfile.TemporaryFile("w+")  # noqa: SIM115 - read when its process has ended
        pid = os.fork()
        if not pid:
            for number in (1, 2):
                os.dup2(output.fileno(), number)
            with joined(f"localhost:{port}", len(roles), index, silence=SILENCE):
                act(role)
            sys.exit()
        started.append((pid, output))
    ends = []
    for role, (pid, output) in zip(roles, started, strict=True):
        if role in ("SIGSTOP", "gone"):
            continue
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        output.seek(0)
        ends.append((code, output.read()))
    for role, (pid, _) in zip(roles, started, strict=True):
        if role == "gone":
            os.kill(coordinator_of(pid), signal.SIGKILL)
        if role in ("SIGSTOP", "gone"):
            os.kill(pid, signal.SIGKILL)
    print(json.dumps(ends))


if __name__ == "__main__":
    main(sys.argv[1:])
