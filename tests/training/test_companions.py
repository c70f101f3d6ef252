"""One of several processes fails, dies, hangs or has no more to do: what do the others do?"""

import json
import subprocess
import sys
from pathlib import Path

import pytest


def ends(*roles: str) -> list[tuple[int, str]]:
    script = Path(__file__).with_name("companion_processes.py")
    process = subprocess.run([sys.executable, str(script), *roles], capture_output=True, text=True, timeout=250)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


def error_of(output: str) -> str:
    (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
    return line


@pytest.mark.parametrize(("role", "why"), [("fail", "weights.npz: cannot be read"), ("break", "out of memory")])
def test_the_others_are_told_why_one_fails(role, why):
    (code, output), *others = ends(role, "wait", "wait")
    assert why in error_of(output)
    assert code == (2 if role == "fail" else 1)
    assert ("Traceback" in output) == (role == "break")
    for code, output in others:
        assert code == 2, output
        assert error_of(output).startswith("error: process 0 of 3 is lost (")
        assert why in output
        assert "Traceback" not in output


@pytest.mark.parametrize("roles", [("cut", "SIGKILL"), ("wait", "SIGSTOP")])
def test_the_others_notice_that_one_is_not_there_any_more(roles):
    code, output = ends(*roles)[0]
    assert code == 2, output
    assert "Traceback" not in output
    assert error_of(output).startswith("error: process 1 of 2 is lost (nothing was heard of it for 10 seconds")


def test_one_that_is_finished_is_not_missed():
    for code, output in ends("work", "end"):
        assert (code, output) == (0, "")
