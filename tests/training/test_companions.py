"""One of several processes fails, dies, hangs or has no more to do: what do the others do?"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

FAIL, BREAK, FINISHED = ("fail", "wait", "wait"), ("break", "wait", "wait"), ("work", "end")
LOST = {
    ("cut", "SIGKILL"): (1, "nothing was heard of it for 10 seconds"),
    ("wait", "SIGSTOP"): (1, "nothing was heard of it for 10 seconds"),
    ("SIGKILL", "wait"): (0, "nothing was heard of it for 10 seconds"),
    ("SIGSTOP", "wait"): (0, "nothing was heard of it for 10 seconds"),
    **({("gone", "wait"): (0, "its machine does not answer for 10 seconds")} if sys.platform == "linux" else {}),
}


@pytest.fixture(scope="module")
def ends():
    """How the processes with these roles ended: they mostly wait, so all do at the same time."""
    script = Path(__file__).with_name("companion_processes.py")
    started = {
        roles: subprocess.Popen([sys.executable, str(script), *roles], stdout=subprocess.PIPE, text=True)
        for roles in (FAIL, BREAK, FINISHED, *LOST)
    }
    outcomes = {}
    for roles, process in started.items():
        output, _ = process.communicate(timeout=250)
        assert process.returncode == 0
        outcomes[roles] = json.loads(output.splitlines()[-1])
    return outcomes


def error_of(output: str) -> str:
    (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
    return line


@pytest.mark.parametrize(("roles", "why"), [(FAIL, "weights.npz: cannot be read"), (BREAK, "out of memory")])
def test_the_others_are_told_why_one_fails(ends, roles, why):
    (code, output), *others = ends[roles]
    assert why in error_of(output)
    assert code == (2 if roles == FAIL else 1)
    assert ("Traceback" in output) == (roles == BREAK)
    for code, output in others:
        assert code == 2, output
        assert error_of(output).startswith("error: process 0 of 3 is lost (")
        assert why in output
        assert "Traceback" not in output


@pytest.mark.parametrize("roles", LOST)
def test_the_others_notice_that_one_is_not_there_any_more(ends, roles):
    code, output = next(end for end in ends[roles] if end[0] >= 0)
    lost, why = LOST[roles]
    assert code == 2, output
    assert "Traceback" not in output
    assert "stack trace" not in output
    assert error_of(output).startswith(f"error: process {lost} of 2 is lost ({why}")


def test_one_that_is_finished_is_not_missed(ends):
    for code, output in ends[FINISHED]:
        assert (code, output) == (0, "")
