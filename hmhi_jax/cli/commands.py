"""The `hmhi` command's sub-commands; heavy imports stay inside the functions they serve."""

import typer

from hmhi_jax.cli.datasets import flow, inspect, pack, synthesise
from hmhi_jax.cli.segment import segment
from hmhi_jax.cli.tools import compare, plan, report, web
from hmhi_jax.cli.weights import convert, export

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


# In the order the help shows them.
for _command in (segment, web, flow, inspect, pack, synthesise, convert, export, compare, report, plan):
    app.command()(_command)
