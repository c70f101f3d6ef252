"""The `hmhi` command. Each sub-command is a module here; heavy imports stay inside the functions they serve."""

import importlib
import io
import sys

import typer

from hmhi_jax import process
from hmhi_jax.errors import InputError

# Modules with a function of the same name, in the order the help shows them.
_COMMANDS: tuple[str, ...] = (
    "segment",
    "web",
    "flow",
    "inspect",
    "pack",
    "synthesise",
    "convert",
    "compare",
    "report",
    "export",
    "plan",
)

app = typer.Typer(
    help="Find and segment the salient moving object in videos (HMHI-Net in JAX).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


@app.callback(invoke_without_command=True)
def _root(version: bool = typer.Option(False, "--version", help="Print the version and stop.")) -> None:
    if version:
        from hmhi_jax import __version__

        typer.echo(__version__)
        raise typer.Exit


for _name in _COMMANDS:
    app.command(_name)(getattr(importlib.import_module(f"{__name__}.{_name}"), _name))


def command() -> None:
    """The console script: `main`, in a process with large memory pages."""
    process.restart_with_large_pages()
    main()


def main() -> None:
    """Bad input is one line and exit code 2; Ctrl-C is exit code 130."""
    for stream in (sys.stdout, sys.stderr):  # names of files may hold what a terminal's encoding does not
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
