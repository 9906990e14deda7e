"""Looks of the page: a calm reading room, light and dark, without fonts from the network.

Serves the page: what is said to Gradio about folders, limits and manners.
"""

import importlib
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
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
from ..radiographs import GuardedReader
from .app import build_app
from .checkpoints import Checkpoints
from .context import LOOPBACK, PUBLIC, ReadingRoom
from .examples import write_examples
from .log_redaction import DiscreetFilter
from .middleware import Gatekeeper
from .uploads import SessionFiles, make_own_folder

_FONT = ("system-ui", "Segoe UI", "Roboto", "Helvetica", "Arial", "sans-serif")
_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")


def make_theme() -> gr.themes.Base:
    """The app's theme."""
    return gr.themes.Base(
        primary_hue="sky", secondary_hue="slate", neutral_hue="slate", font=_FONT, font_mono=_MONO, radius_size="lg"
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
        link_text_color="*primary_700",
        link_text_color_dark="*primary_300",
        link_text_color_hover="*primary_800",
        link_text_color_hover_dark="*primary_200",
        link_text_color_active="*primary_800",
        link_text_color_active_dark="*primary_200",
        link_text_color_visited="*primary_700",
        link_text_color_visited_dark="*primary_300",
    )


_STATIC = Path(__file__).parent / "static"

CSS = "\n".join(file.read_text(encoding="utf-8") for file in sorted(_STATIC.glob("*.css")))
"""Of all panels."""

HEAD = "".join(f"<script>{file.read_text(encoding='utf-8')}</script>" for file in sorted(_STATIC.glob("*.js")))
"""Elements of the page's own; what stands in the head runs before anything is shown."""


BUSY = "Too many people are reading studies here just now. Your files are still in the box: try again in a minute."
NO_MCP = (
    'MURA_MCP=1 asks for a server of the Model Context Protocol, which cannot be imported: pip install "gradio[mcp]"'
)

_HOSTS = ("127.0.0.1", "localhost", "::1", "[::1]")


def serve_page(pictures: Callable[[], Mapping[str, bytes]]) -> None:
    """What `launch` does once all is imported.

    Args:
        pictures: Gives the answer of `render_examples`.
    """
    host = os.environ.get("GRADIO_SERVER_NAME", _HOSTS[0])
    port = os.environ.get("GRADIO_SERVER_PORT", "7860")
    if not port.isdecimal():
        raise SystemExit(f"GRADIO_SERVER_PORT is {port!r}, which is no port; give a number, or leave it away.")
    check_mcp(os.environ)
    room = make_room(host, pictures)
    try:
        serve(build_app(room), room, host, int(port))
    except CheckpointError as error:
        raise SystemExit(f"The app cannot start without a checkpoint. {error}") from None
    finally:
        room.reader.close()
        room.files.close()


def make_room(host: str, pictures: Callable[[], Mapping[str, bytes]]) -> ReadingRoom:
    """The server's side of the page, with a folder of its own for uploads; its reader and sweeper run.

    Args:
        host: Where it will serve; whether strangers reach it decides on limits, and whether local folders are read.
        pictures: Gives the answer of `render_examples`.
    """
    public = is_public(host, os.environ)
    limits = PUBLIC if public else LOOPBACK
    folder = make_own_folder()
    # Gradio asks for its folder when components and the server are made; some of its routes use the system's.
    os.environ["GRADIO_TEMP_DIR"] = tempfile.tempdir = str(folder)
    files = SessionFiles(folder, quota=limits.folder_bytes)
    examples = folder / "examples"
    examples.mkdir()
    reader = GuardedReader()
    reader.start()  # ready before the first upload
    room = ReadingRoom(
        Checkpoints(allow_folders=not public, most_bytes=limits.weights_bytes),
        reader,
        files,
        limits,
        write_examples(examples, pictures()),
        public=public,
    )
    files.protect()
    files.start()
    return room


def is_public(host: str, environment: Mapping[str, str]) -> bool:
    """Whether strangers can reach an app at a host."""
    return host not in _HOSTS or bool(environment.get("SPACE_ID"))


def check_mcp(environment: Mapping[str, str]) -> bool:
    """Whether the Model Context Protocol is asked for.

    Raises:
        SystemExit: If it is, and cannot be had.
    """
    wanted = environment.get("MURA_MCP", "") not in ("", "0")
    if wanted:
        try:
            importlib.import_module("gradio.mcp")  # needs a package that Gradio does not bring by itself
        except ImportError:
            raise SystemExit(NO_MCP) from None
    return wanted


def serve(app: gr.Blocks, room: ReadingRoom, host: str, port: int) -> None:
    """Serves an app until the process is told to end.

    Raises:
        SystemExit: If the port is taken.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that what is to be tidied up at the end is
    logging.getLogger("uvicorn.error").addFilter(DiscreetFilter())
    room.files.protect()  # what Gradio copied while the page was built
    app.queue(max_size=room.limits.queue, default_concurrency_limit=room.limits.at_once, api_open=False)
    try:
        app.launch(
            server_name=host,
            server_port=port,
            prevent_thread_lock=True,
            theme=make_theme(),
            css=CSS,
            head=HEAD,
            max_threads=room.limits.threads,
            max_file_size=room.limits.upload_bytes,
            app_kwargs={
                "middleware": [Middleware(Gatekeeper, files=room.files, limits=room.limits)],
                "exception_handlers": {HTTPException: tell_that_it_is_full},
            },
            share=False,  # what follows is said outright, lest the environment say otherwise
            mcp_server=check_mcp(os.environ),
            ssr_mode=False,
            allowed_paths=[],
            show_error=False,
            enable_monitoring=False,
            strict_cors=True,
            run_history=False,
            footer_links=[],
        )
    except OSError as error:
        raise SystemExit(f"The app cannot be served at {host}, port {port}: {error}") from None
    try:
        app.block_thread()
    finally:
        app.close(verbose=False)


async def tell_that_it_is_full(request: Request, error: Any) -> Response:
    """Answers for Gradio where its queue is full.

    A browser shows the words of any refusal but 503, for which Gradio's page has its own; programs get the 503.
    """
    if error.status_code != 503 or not str(error.detail).startswith("Queue is full"):
        return await http_exception_handler(request, error)
    browser = request.headers.get("user-agent", "").startswith("Mozilla")
    return JSONResponse({"detail": BUSY}, 429 if browser else 503, {"Retry-After": "60"})
