"""The process starts over once, with the setting in its environment, and is otherwise the same."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hmhi_jax import process

_SCRIPT = """
import os, sys
from hmhi_jax import process
process.restart_with_large_pages()
print(os.environ.get("GLIBC_TUNABLES"), sys.argv[1:], sys.stdin.read())
"""


def test_settings_given_already_stay():
    environment = process.large_pages_environment
    assert environment({"A": "b"}) == {"A": "b", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    given = {"GLIBC_TUNABLES": "glibc.malloc.arena_max=1"}
    assert environment(given)["GLIBC_TUNABLES"] == "glibc.malloc.arena_max=1:glibc.malloc.hugetlb=1"
    assert environment({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}) == {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}
    assert environment(environment(given)) == environment(given)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems have no such setting")
def test_a_program_starts_over_with_its_arguments_and_its_input():
    plain = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    plain["PYTHONPATH"] = str(Path(process.__file__).parents[1])
    command = [sys.executable, "-c", _SCRIPT, "one", "two words"]
    done = subprocess.run(command, input="typed", env=plain, capture_output=True, text=True, check=True)
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")  # such as "always [madvise] never"
    granted = setting.exists() and not re.search(r"\[never\]", setting.read_text())
    expected = "glibc.malloc.hugetlb=1" if granted else "None"
    assert done.stdout == f"{expected} ['one', 'two words'] typed\n"


def test_nothing_happens_where_large_pages_are_not_granted(monkeypatch, tmp_path):
    kernel = tmp_path / "enabled"
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setattr(process, "_KERNEL", kernel)
    monkeypatch.setattr(os, "execve", lambda *_: pytest.fail("started over"))
    process.restart_with_large_pages()
    kernel.write_text("always madvise [never]")
    process.restart_with_large_pages()
    kernel.write_text("always [madvise] never")
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=0")
    process.restart_with_large_pages()
