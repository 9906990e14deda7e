"""Builds the page from its tabs, and serves it."""

import gc
import importlib
import json
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
from ..inference.prediction import finding_noun
from . import templates
from .api import add_endpoints
from .middleware import RedactingBlocks, RedactingFilter, RequestGuard
from .models_tab import build_models_tab
from .state import DEFAULT, AppContext
from .study_tab import PrivacyNotice, build_study_tab
from .worklist_controller import OpenedStudy
from .worklist_tab import build_worklist_tab

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_MAX_FILES = 65_536

_STATIC = Path(__file__).parent / "static"
_CSS = "\n".join(file.read_text(encoding="utf-8") for file in sorted(_STATIC.glob("*.css")))
_POLICY = (  # whatever text gets into the page, it contacts no other server
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' blob: data:; "
    "base-uri 'self'; form-action 'self'; object-src 'none'"
)
_HEAD = f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
_HEAD += f"<script>window.MURA_TEXTS = {json.dumps(templates.SCRIPT_TEXTS)};</script>"
_HEAD += "".join(f"<script>{file.read_text(encoding='utf-8')}</script>" for file in sorted(_STATIC.glob("*.js")))
_WITH_ADDRESS = f"""(text) => text.replaceAll(
  {templates.ADDRESS!r}, (location.origin + location.pathname).replace(/[/]$/, ""))"""


def build_app(context: AppContext) -> gr.Blocks:
    """Builds the page from its tabs, and its endpoints.

    Raises:
        CheckpointError: If the default checkpoint, or that of the examples, cannot be loaded.
    """
    config = context.checkpoints.get().model.config
    finding = templates.with_article(finding_noun(config.positive_class_description))
    question = templates.QUESTION.format(a_finding=finding)
    with RedactingBlocks(title=f"{question} mura_hf", analytics_enabled=False) as app:
        gr.Markdown(templates.DISCLAIMER, elem_id="disclaimer")
        gr.Markdown(f"# {question}\n{templates.TAGLINE.format(a_finding=finding)}", elem_id="heading")
        checkpoint, notice = gr.State(DEFAULT), PrivacyNotice(context.public)
        with gr.Tabs(selected="read", elem_id="tabs") as tabs:
            with gr.Tab(templates.READ, id="read"):
                study = build_study_tab(context, checkpoint, notice)
            with gr.Tab(templates.WORKLIST, id="worklist"):
                worklist = build_worklist_tab(context, checkpoint, notice)
            with gr.Tab(templates.MODELS, id="models"):
                load_events = build_models_tab(context, checkpoint, study.open_files, study.body_part)
            with gr.Tab(templates.ABOUT, id="about"):
                credits = {example.credit: None for example in context.examples if example.credit}
                about = gr.Markdown(
                    templates.about_text(os.environ.get("SPACE_ID", ""), list(credits)), elem_id="about"
                )
                app.load(None, about, about, js=_WITH_ADDRESS, api_visibility="private")
        add_endpoints(context)
        notice.connect()

        def show(request: gr.Request, opened: OpenedStudy, point: str) -> dict[Any, Any]:
            updates = study.open_study(request, opened.files, opened.body_part or templates.FOUND)
            return {**updates, tabs: gr.Tabs(selected="read"), study.point: point, study.point_of: None}

        opening = worklist.open_event.success(
            show,
            [worklist.opened, worklist.point],
            [tabs, *study.outputs, study.point, study.point_of],
            api_visibility="private",
            show_progress="hidden",
        )
        for event in (opening, *load_events):
            study.read_on(event.then)
    return app


def serve_page(context: AppContext) -> None:
    """Builds the page and serves it until the process ends.

    Raises:
        SystemExit: If the app cannot start; the message says why.
    """
    try:
        port = os.environ.get("GRADIO_SERVER_PORT", "7860")
        if not port.isdecimal():
            raise SystemExit(templates.NO_PORT.format(port))
        use_mcp()
        serve(build_app(context), context, int(port))
    except CheckpointError as error:
        raise SystemExit(templates.NO_CHECKPOINT.format(error)) from None
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
            raise SystemExit(templates.NO_MCP) from None
    return wanted


def serve(app: gr.Blocks, context: AppContext, port: int) -> None:
    """Serves an app until the process ends. Every option that could publish something is set explicitly.

    Raises:
        SystemExit: If the port cannot be used.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that uploads are removed at the end
    logging.getLogger("uvicorn.error").addFilter(RedactingFilter())
    context.uploads.protect()  # files that Gradio copied while the page was built
    if resource is not None:  # often only 1,024 files, and so connections, may be open, although more are possible
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most if 0 < most < _MAX_FILES else _MAX_FILES, most))
    limits = context.limits
    guard = Middleware(RequestGuard, uploads=context.uploads, limits=limits, public=context.public)
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
                "middleware": [guard],
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
        raise SystemExit(templates.NO_SERVER.format(host=context.host, port=port, error=error)) from None
    gc.enable()
    gc.freeze()  # what the start made is never garbage
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
    return JSONResponse({"detail": templates.BUSY}, 429 if browser else 503, {"Retry-After": "60"})


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
        input_placeholder_color="*neutral_600",
        input_placeholder_color_dark="*neutral_300",
    )
    links = {"": (700, 300), "_hover": (800, 200), "_active": (800, 200), "_visited": (700, 300)}
    for state, (light, dark) in links.items():
        colours = {f"link_text_color{state}": f"*primary_{light}", f"link_text_color{state}_dark": f"*primary_{dark}"}
        theme = theme.set(**colours)
    return theme
