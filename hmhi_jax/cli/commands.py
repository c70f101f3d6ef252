"""The `hmhi` command's sub-commands. Each is a module here; heavy imports stay inside the functions they serve."""

import importlib

import typer

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
    app.command(_name)(getattr(importlib.import_module(f"{__package__}.{_name}"), _name))
