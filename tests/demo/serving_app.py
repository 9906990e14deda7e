"""Starts the app, or a part of it, in a process of its own."""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from demo_app import RunningApp, running_app

ROOT = Path(__file__).parents[2]

ENDPOINTS = (
    sys.executable,
    "-c",
    """
import dataclasses
import os
import time
import gradio as gr
from mura_hf.demo.api import add_endpoints
from mura_hf.demo.discreet import DiscreetBlocks
from mura_hf.demo.examples import render_examples
from mura_hf.demo.serving import make_room, serve

room = make_room("127.0.0.1", render_examples)
small = {name: int(os.environ[f"TEST_{name}"]) for name in ("queue", "upload_bytes") if f"TEST_{name}" in os.environ}
room = dataclasses.replace(room, limits=dataclasses.replace(room.limits, **small))
with DiscreetBlocks(analytics_enabled=False) as app:
    gr.State()  # makes clients keep a connection open
    files = gr.File(file_count="multiple")
    fails = gr.Button()

    def fail(files):
        raise RuntimeError(files)

    fails.click(fail, files, None, api_name="fail")
    fails.click(lambda: open("/nowhere/secret name.png"), api_name="open")
    fails.click(lambda: time.sleep(2), api_name="slow", concurrency_limit=1)
    fails.click(lambda: None, api_name="hidden", api_visibility="private")
    add_endpoints(room)
try:
    serve(app, room, "127.0.0.1", int(os.environ["GRADIO_SERVER_PORT"]))
finally:
    room.files.close()
""",
)
"""The named endpoints without the page, and handlers that fail."""


@contextmanager
def serve(*options: Any) -> Iterator[RunningApp]:
    """An app that answers: see `running_app`, which takes the options; its folder is temporary."""
    with tempfile.TemporaryDirectory() as folder, running_app(Path(folder), *options) as app:
        yield app
