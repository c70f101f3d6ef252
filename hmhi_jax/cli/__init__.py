"""The `hmhi` command: what is done before and around the sub-commands of `commands`."""

import errno
import io
import os
import sys

import lazy_loader

from hmhi_jax import process
from hmhi_jax.errors import InputError

# Typer is not loaded for a process that is started over at once.
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={"commands": ["app"]})


def command() -> None:
    """The console script: `main`, in a process with large memory pages."""
    process.restart_with_large_pages()
    main()


def main() -> None:
    """Bad input is one line and exit code 2; Ctrl-C is exit code 130."""
    for stream in (sys.stdout, sys.stderr):  # names of files may hold what a terminal's encoding does not
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    from hmhi_jax.cli.commands import app

    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno != errno.ENOSPC or error.filename:
            raise
        print("error: standard output: no space left on its disk", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what Python still holds goes nowhere
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
