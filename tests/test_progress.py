"""What is being done is shown on a terminal at once, and never gets into what a program prints."""

import os
import pty
import subprocess
import sys

PROGRAM = """
from hmhi_jax.progress import Bars, doing
doing("reading weights")
doing("compiling [once]", tell=True)
print("a result", flush=True)
with Bars() as bars:
    report = bars.track("clip", 2)
    report(None, "compiling for 64 x 96")
    report(2, "ready")
"""


def test_on_a_terminal_a_spinner_says_it_until_bars_are_shown():
    mine, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=theirs, env=environment)
    os.close(theirs)
    shown = b""
    while True:
        try:
            read = os.read(mine, 65536)
        except OSError:  # Linux's way to say that nobody writes any more
            break
        if not read:
            break
        shown += read
    os.close(mine)
    places = [shown.find(text) for text in (b"reading weights", b"compiling [once]", b"2/2")]
    assert -1 not in places
    assert places == sorted(places)
    assert done.stdout == b"a result\n"


def test_elsewhere_only_what_takes_long_is_told():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.stdout == "a result\n"
    assert done.stderr.splitlines()[:1] == ["compiling [once]"]
    assert "reading" not in done.stderr
