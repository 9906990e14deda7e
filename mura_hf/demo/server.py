"""Serves the app: theme, limits, and how Gradio is started."""

import importlib
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi.exception_handlers import http_exception_handler
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response

from ..errors import CheckpointError
from .app import build_app
from .log_redaction import RedactingFilter
from .middleware import UploadGuard
from .state import AppContext

BUSY = "Too many requests at the moment. Your files are still in the box. Try again in a minute."
NO_MCP = 'MURA_MCP=1 needs a package that is not installed: pip install "gradio[mcp]"'

_STATIC = Path(__file__).parent / "static"
_CSS = "\n".join(file.read_text(encoding="utf-8") for file in sorted(_STATIC.glob("*.css")))
_HEAD = "".join(f"<script>{file.read_text(encoding='utf-8')}</script>" for file in sorted(_STATIC.glob("*.js")))


def serve_page(context: AppContext) -> None:
    """Builds the page and serves it until the process ends.

    Raises:
        SystemExit: If the app cannot start; the message says why.
    """
    try:
        port = os.environ.get("GRADIO_SERVER_PORT", "7860")
        if not port.isdecimal():
            raise SystemExit(f"GRADIO_SERVER_PORT is {port!r}. Set it to a port number, or unset it.")
        use_mcp()
        serve(build_app(context), context, int(port))
    except CheckpointError as error:
        raise SystemExit(f"The app cannot start without a checkpoint. {error}") from None
    finally:
        context.close()


def use_mcp() -> bool:
    """Whether the endpoints are also served by the Model Context Protocol: MURA_MCP is set and not "0".

    Raises:
        SystemExit: If they should be, but a package is missing.
    """
    wanted = os.environ.get("MURA_MCP", "") not in ("", "0")
    if wanted:
        try:
            importlib.import_module("gradio.mcp")
        except ImportError:
            raise SystemExit(NO_MCP) from None
    return wanted


def serve(app: gr.Blocks, context: AppContext, port: int) -> None:
    """Serves an app until the process ends. Every option that could publish something is set explicitly.

    Raises:
        SystemExit: If the port cannot be used.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that uploads are removed at the end
    logging.getLogger("uvicorn.error").addFilter(RedactingFilter())
    context.uploads.protect()  # files that Gradio copied while the page was built
    limits = context.limits
    app.queue(max_size=limits.queue, default_concurrency_limit=limits.concurrency, api_open=False)
    try:
        app.launch(
            server_name=context.host,
            server_port=port,
            prevent_thread_lock=True,
            theme=make_theme(),
            css=_CSS,
            head=_HEAD,
            max_threads=limits.threads,
            max_file_size=limits.upload_bytes,
            app_kwargs={
                "middleware": [Middleware(UploadGuard, uploads=context.uploads, limits=limits)],
                "exception_handlers": {HTTPException: explain_full_queue},
            },
            share=False,
            mcp_server=use_mcp(),
            ssr_mode=False,
            allowed_paths=[],
            show_error=False,
            enable_monitoring=False,
            strict_cors=True,
            run_history=False,
            footer_links=[],
        )
    except OSError as error:
        raise SystemExit(f"The app cannot be served at {context.host}, port {port}: {error}") from None
    try:
        app.block_thread()
    finally:
        app.close(verbose=False)


async def explain_full_queue(request: Request, error: Any) -> Response:
    """Gives the reason if the queue is full.

    Programs get status 503. Browsers get 429, because Gradio's page replaces the message of a 503 by its own.
    """
    if error.status_code != 503 or not str(error.detail).startswith("Queue is full"):
        return await http_exception_handler(request, error)
    browser = request.headers.get("user-agent", "").startswith("Mozilla")
    return JSONResponse({"detail": BUSY}, 429 if browser else 503, {"Retry-After": "60"})


def make_theme() -> gr.themes.Base:
    """A quiet theme, light and dark, that loads no fonts from the network."""
    theme = gr.themes.Base(
        primary_hue="sky",
        secondary_hue="slate",
        neutral_hue="slate",
        font=("system-ui", "Segoe UI", "Roboto", "Helvetica", "Arial", "sans-serif"),
        font_mono=("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"),
        radius_size="lg",
    ).set(
        body_background_fill="*neutral_100",
        body_background_fill_dark="*neutral_950",
        block_background_fill="white",
        block_background_fill_dark="*neutral_900",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_text_color="white",
    )
    links = {"": (700, 300), "_hover": (800, 200), "_active": (800, 200), "_visited": (700, 300)}
    for state, (light, dark) in links.items():
        colours = {f"link_text_color{state}": f"*primary_{light}", f"link_text_color{state}_dark": f"*primary_{dark}"}
        theme = theme.set(**colours)
    return theme
