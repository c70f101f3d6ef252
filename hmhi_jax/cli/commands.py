"""The `hmhi` command's sub-commands: functions of modules; heavy imports stay inside the functions they serve."""

import importlib

import typer

# In the order the help shows them, and the modules that have a function of that name.
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
    app.command(_name)(getattr(importlib.import_module(f"{__package__}.{_module}"), _name))
