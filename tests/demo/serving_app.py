"""Starts the app, or a part of it, in a process of its own."""

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (sys.executable, "app.py")

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
from mura_hf.demo.serving import make_room, serve

room = make_room("127.0.0.1")
small = {name: int(os.environ[f"TEST_{name}"]) for name in ("queue", "upload_bytes") if f"TEST_{name}" in os.environ}
room = dataclasses.replace(room, limits=dataclasses.replace(room.limits, **small))
print("folder", room.files.folder, flush=True)
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


class ServedApp(subprocess.Popen):
    """A running app.

    Attributes:
        log: Of what it printed, to both outputs.
    """

    log: Path

    @property
    def folder(self) -> Path:
        """Where its uploads lie, which `ENDPOINTS` tells."""
        return Path(self.log.read_text().split("folder ")[1].split("\n")[0])


@contextmanager
def serve(
    environment: Mapping[str, str] | None = None, command: Sequence[str] = PAGE, seconds: float = 120.0
) -> Iterator[tuple[str, ServedApp]]:
    """Gives the address and the process of an app once it answers; ends it afterwards.

    Args:
        environment: Added to that of the tests, from which the checkpoint and thread counts are left out.
        command: What to start, in the repository's folder.
        seconds: Within which it must answer.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    kept = {name: value for name, value in os.environ.items() if name not in ("MURA_CHECKPOINT", "SPACE_ID")}
    full = {**kept, "GRADIO_SERVER_PORT": str(port), "PYTHONUNBUFFERED": "1", **(environment or {})}
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.txt"
        with log.open("w") as output:
            process = ServedApp(command, cwd=ROOT, env=full, stdout=output, stderr=output)
        process.log = log
        url = f"http://127.0.0.1:{port}"
        try:
            end = time.monotonic() + seconds
            while True:
                assert process.poll() is None, log.read_text()
                try:
                    with urllib.request.urlopen(url, timeout=5):
                        break
                except OSError:
                    assert time.monotonic() < end, f"the app did not answer: {log.read_text()}"
                    time.sleep(0.1)
            yield url, process
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
