"""The page in the browser, served to this computer alone."""

import contextlib
import os
import socket
import tempfile
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hmhi_jax.errors import InputError
from hmhi_jax.interop.weight_places import find_weights
from hmhi_jax.process import enable_compilation_cache

_ADDRESS = "127.0.0.1"
_SETTINGS = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "GRADIO_HEARTBEAT_INTERVAL": "2",  # seconds after which a closed page is missed
}
# Whatever a library's page may ask for, the browser fetches nothing from elsewhere.
_POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'none'; form-action 'self'; "
    "base-uri 'self'"
)


class _Headers:
    """ASGI middleware that adds headers to every answer."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = [(b"content-security-policy", _POLICY.encode()), (b"referrer-policy", b"no-referrer")]
                message = {**message, "headers": [*message.get("headers", ()), *headers]}
            await send(message)

        await self._app(scope, receive, with_headers)


def web(*, weights: str, port: int, max_megabytes: int, max_frames: int, browser: bool) -> None:
    """Do what `hmhi web` was asked for until Ctrl-C; the arguments are its options, the others those of `serve`."""
    with serve(weights=weights, port=port, max_megabytes=max_megabytes, max_frames=max_frames) as (address, blocks):
        print(f"{address}   (Ctrl-C ends it and deletes what was uploaded)", flush=True)
        if browser:
            webbrowser.open(address)
        blocks.block_thread()


@contextlib.contextmanager
def serve(*, weights: str, port: int, max_megabytes: int, max_frames: int) -> Iterator[tuple[str, Any]]:
    """Serve the page while the block runs: its address, and Gradio's `Blocks`. All that was uploaded is deleted then.

    Args:
        weights: a shipped name or a path, see `VideoSegmenter.load`.
        port: of the address; 0 takes a free one.
        max_megabytes: of an upload.
        max_frames: of a video.

    Raises:
        InputError: where Gradio is not installed, weights are not found, or the port cannot be had.
    """
    source, port = str(find_weights(weights)), _free_port(port)
    os.environ |= _SETTINGS
    try:
        import gradio as gr
        from starlette.middleware import Middleware
        from starlette.middleware.trustedhost import TrustedHostMiddleware
    except ImportError as error:
        raise InputError(f"the page is made with Gradio ({error}): pip install 'hmhi-jax[web]'") from error
    from hmhi_jax.tools.web.page import CSS, Page
    from hmhi_jax.tools.web.visitor import Limits

    enable_compilation_cache()
    with tempfile.TemporaryDirectory(prefix="hmhi-web-", ignore_cleanup_errors=True) as home:
        os.environ["GRADIO_TEMP_DIR"] = home
        page = Page(Path(home), source, Limits(max_megabytes, max_frames))
        # Other names of this address are another site's, whose scripts must not get in by renaming themselves.
        hosts = Middleware(TrustedHostMiddleware, allowed_hosts=[_ADDRESS, "localhost"])
        theme = gr.themes.Default(
            primary_hue="blue", neutral_hue="slate", font=["system-ui", "sans-serif"], font_mono=["monospace"]
        )
        blocks = page.blocks.queue(default_concurrency_limit=None)
        try:
            blocks.launch(
                server_name=_ADDRESS, server_port=port, share=False, inbrowser=False, quiet=True, footer_links=[],
                max_file_size=f"{max_megabytes}mb", prevent_thread_lock=True, ssr_mode=False, css=CSS, theme=theme,
                app_kwargs={"middleware": [hosts, Middleware(_Headers)]},
            )  # fmt: skip
            yield f"http://{_ADDRESS}:{port}", blocks
        finally:
            page.close()
            blocks.close(verbose=False)


def _free_port(wanted: int) -> int:
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((_ADDRESS, wanted))
        except OSError as error:
            raise InputError(f"--port {wanted}: cannot be had ({error.strerror}); choose another, or 0") from error
        return trial.getsockname()[1]
