"""The `hmhi` command. A sub-command is a function of a module; heavy imports stay inside the functions they serve."""

import importlib
import io
import sys

import typer

from hmhi_jax import process
from hmhi_jax.errors import InputError

# Sub-commands in the order the help shows them, and the modules that have a function of that name.
_COMMANDS = {
    "segment": "segment",
    "web": "web",
    "flow": "flow",
    **dict.fromkeys(("inspect", "pack", "synthesise"), "datasets"),
    **dict.fromkeys(("convert", "export"), "weights"),
    **dict.fromkeys(("compare", "report", "plan"), "tools"),
}

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


for _name, _module in _COMMANDS.items():
    app.command(_name)(getattr(importlib.import_module(f"{__name__}.{_module}"), _name))


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
