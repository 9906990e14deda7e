"""Starts apps in processes of their own, and sends requests to them."""

import functools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from demo_app import RunningApp, running_app

WAIT = 60_000  # ms

STRICT = (
    sys.executable,
    "-c",
    """
import dataclasses
import os
import time
import gradio as gr
from mura_hf.demo.server import build_app, serve
from mura_hf.demo.state import make_context

context = make_context()
limits = dataclasses.replace(context.limits, queue=1, upload_bytes=1 << 20, client_share=1.0)
context = dataclasses.replace(context, limits=limits)
app = build_app(context)
with app:
    files = gr.File(file_count="multiple", visible=False)
    fails = gr.Button(visible=False)

    def fail(files):
        raise RuntimeError(files)

    fails.click(fail, files, None, api_name="fail")
    fails.click(lambda: open("/nowhere/secret name.png"), api_name="open")
    fails.click(lambda: time.sleep(2), api_name="slow", concurrency_limit=1)
    fails.click(lambda: None, api_name="hidden", api_visibility="private")
try:
    serve(app, context, int(os.environ["GRADIO_SERVER_PORT"]))
finally:
    context.close()
""",
)
"""A page with small limits, and with handlers that fail or are slow."""


@contextmanager
def start_app(*options: Any) -> Iterator[RunningApp]:
    """An app that answers, with a temporary folder. The options are those of `running_app`."""
    with tempfile.TemporaryDirectory() as folder, running_app(Path(folder), *options) as app:
        yield app


@functools.cache
def function_numbers(url: str) -> dict[str, int]:
    return {one["api_name"]: one["id"] for one in httpx.get(f"{url}/config").json()["dependencies"]}


def join_queue(url: str, name: str, data: list, session: str = "me", headers: dict | None = None) -> httpx.Response:
    call = {"data": data, "fn_index": function_numbers(url)[name], "session_hash": session}
    return httpx.post(f"{url}/gradio_api/queue/join", json=call, headers=headers, timeout=30)


def read_result(url: str, session: str = "me") -> dict:
    """The last message of a session's stream."""
    with httpx.stream("GET", f"{url}/gradio_api/queue/data", params={"session_hash": session}, timeout=30) as stream:
        for line in stream.iter_lines():
            message = json.loads(line.removeprefix("data: ") or "{}")
            if message.get("msg") == "process_completed":
                return message
    raise AssertionError("the stream ended without a result")


def upload_file(url: str, name: str, content: bytes) -> dict:
    path = httpx.post(f"{url}/gradio_api/upload", files={"files": (name, content)}).json()[0]
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


def wait_until(holds: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)
