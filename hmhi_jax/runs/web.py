"""The page in the browser, served to this computer alone."""

import os
import socket
import tempfile
import webbrowser
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
    """Do what `hmhi web` was asked for until Ctrl-C, then delete all that was uploaded; the arguments are its options.

    Raises `InputError` where Gradio is not installed, weights are not found, or the port cannot be had.
    """
    source = str(find_weights(weights))
    os.environ |= _SETTINGS
    folder = tempfile.TemporaryDirectory(prefix="hmhi-web-", ignore_cleanup_errors=True)
    with _listening(port) as listener, folder as home:
        os.environ["GRADIO_TEMP_DIR"] = home
        try:
            import gradio as gr
            import uvicorn
            from fastapi import FastAPI
            from starlette.middleware import Middleware
            from starlette.middleware.trustedhost import TrustedHostMiddleware
        except ImportError as error:
            raise InputError(f"the page is made with Gradio ({error}): pip install 'hmhi-jax[web]'") from error
        from hmhi_jax.tools.web.page import CSS, Page
        from hmhi_jax.tools.web.visitor import Limits

        enable_compilation_cache()
        page = Page(Path(home), source, Limits(max_megabytes, max_frames))
        # Other names of this address are another site's, whose scripts must not get in by renaming themselves.
        hosts = Middleware(TrustedHostMiddleware, allowed_hosts=[_ADDRESS, "localhost"])
        theme = gr.themes.Default(
            primary_hue="blue", neutral_hue="slate", font=["system-ui", "sans-serif"], font_mono=["monospace"]
        )
        # Served without Gradio's own `launch`, which looks for proxies and ways to share.
        app = gr.mount_gradio_app(
            FastAPI(middleware=[hosts, Middleware(_Headers)], openapi_url=None), page.blocks, path="/",
            server_name=_ADDRESS, max_file_size=f"{max_megabytes}mb", footer_links=[], run_history=False,
            ssr_mode=False, show_error=False, css=CSS, theme=theme,
        )  # fmt: skip
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
        address = f"http://{_ADDRESS}:{listener.getsockname()[1]}"
        print(f"{address}   (Ctrl-C ends it and deletes what was uploaded)", flush=True)
        if browser:
            webbrowser.open(address)
        try:
            server.run(sockets=[listener])
        finally:
            page.close()


def _listening(port: int) -> socket.socket:
    try:
        return socket.create_server((_ADDRESS, port))
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise InputError(f"--port {port}: cannot be had ({reason}); choose another, or 0 for any") from error
