"""`hmhi web`: a page in the browser to segment videos with."""

from typing import Annotated

import typer

from hmhi_jax.cli.options import at_least, expected


def web(
    weights: Annotated[
        str, typer.Option(help="A shipped name, a .safetensors file, a folder of training or converted, or an export.")
    ] = "small",
    port: Annotated[
        int,
        typer.Option(
            help="Of the page's address; 0 takes any.", callback=expected("0 to 65535", range(65536).__contains__)
        ),
    ] = 7860,
    max_megabytes: Annotated[int, typer.Option(help="Of an upload.", callback=at_least(1))] = 500,
    max_frames: Annotated[int, typer.Option(help="Of a video.", callback=at_least(1))] = 1500,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in the browser.")] = True,
) -> None:
    """Open a page in the browser: a video in; masks, a matte, a cut-out, an overlay out.

    It is served to this computer alone (127.0.0.1), loads nothing from elsewhere and sends nothing anywhere. What was
    uploaded is deleted when the page is closed.
    """
    from hmhi_jax.runs import web as runs

    runs.web(weights=weights, port=port, max_megabytes=max_megabytes, max_frames=max_frames, browser=browser)
