"""Guards around Gradio: `UploadGuard` checks requests and notes who holds which file, and the log gets no names.

The messages of exceptions may contain file names, and so names of people.
"""

import asyncio
import json
import logging
import re
import traceback
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any

import gradio as gr
from gradio.exceptions import InvalidPathError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from .state import Limits
from .uploads import Uploads

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

FULL = "The server has no room for more files at the moment. Try again in a few minutes."
NOT_UPLOADED = "Files must be uploaded. The server does not read paths or addresses."
UNEXPECTED = "Something went wrong on the server. Your files are not the cause. Try again."

_log = logging.getLogger("mura_hf.demo")
_PREFIX = "/gradio_api/"
_CALLS = re.compile(r"(queue/join|call/[^/]+|call/v2/[^/]+|run/[^/]+|api/[^/]+)/?")
_CLOSED = re.compile(r"process_recording/?|proxy=.*|file=https?:.*", re.IGNORECASE)  # they write, or fetch from others
_MAX_CALL = 4 << 20  # bytes; a call names its files and does not contain them
_FORM_BYTES = 1 << 20  # of an upload beside its files
_MAX_DRAINED = 64 << 20
_MAX_SECONDS = 900.0  # of an upload, which reserves its part of the quota


class UploadGuard:
    """ASGI middleware that limits uploads and refuses calls that name files which were not uploaded.

    A file belongs to the session whose call names it, from the moment the call arrives. A session lasts while one of
    its connections is open: its heartbeat, or the stream of its results.

    Args:
        app: The application behind the guard.
        uploads: The uploaded files.
        limits: Limits of uploads.
    """

    def __init__(
        self, app: Callable[[Scope, Receive, Send], Awaitable[None]], *, uploads: Uploads, limits: Limits
    ) -> None:
        self.app = app
        self.uploads = uploads
        self.limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        if scope["type"] != "http" or not scope["path"].startswith(_PREFIX):
            return await self.app(scope, receive, send)
        request, path = Request(scope, receive), scope["path"].removeprefix(_PREFIX)
        if _CLOSED.fullmatch(path):
            return await _error(404, "This address is not available.")(scope, receive, send)
        if request.method == "POST" and path.rstrip("/") == "upload":
            return await self._handle_upload(request, send)
        if request.method == "POST" and _CALLS.fullmatch(path):
            return await self._handle_call(request, send)
        session = request.query_params.get("session_hash") if path.rstrip("/") == "queue/data" else None
        if path.startswith("heartbeat/"):
            session = path.removeprefix("heartbeat/").rstrip("/")
        if session is None:
            return await self.app(scope, receive, send)
        with self.uploads.connected(session):
            await self.app(scope, receive, send)

    async def _handle_upload(self, request: Request, send: Send) -> None:
        scope, receive = request.scope, request.receive
        length = request.headers.get("content-length", "")
        if not length.isdecimal():
            return await _error(411, "An upload must state its length.")(scope, receive, send)
        if int(length) > self.limits.upload_bytes + _FORM_BYTES:
            limit = f"One upload may have at most {self.limits.upload_bytes >> 20} MiB. Upload less at once."
            return await _refuse_upload(request, send, 413, limit)
        with self.uploads.uploading(int(length)) as room:
            if room:
                try:
                    async with asyncio.timeout(_MAX_SECONDS):
                        return await self.app(scope, receive, self._noting_files(send))
                except TimeoutError:  # before anything was sent
                    response = PlainTextResponse("The upload took too long and was stopped.", 408)
                    return await response(scope, receive, send)
        await _refuse_upload(request, send, 507, FULL)

    def _noting_files(self, send: Send) -> Send:
        """A `send` that reads the paths of the new files from Gradio's response to an upload."""

        async def note(message: Message) -> None:
            if message["type"] == "http.response.body":
                try:
                    paths = json.loads(message.get("body", b""))
                except ValueError:  # an error message
                    paths = []
                if isinstance(paths, list):
                    self.uploads.arrived(path for path in paths if isinstance(path, str))
            await send(message)

        return note

    async def _handle_call(self, request: Request, send: Send) -> None:
        scope, receive = request.scope, request.receive
        body = b""
        try:
            async for chunk in request.stream():
                body += chunk
                if len(body) > _MAX_CALL:
                    return await _error(413, "The request is too long.")(scope, receive, send)
        except ClientDisconnect:
            return
        try:
            call = json.loads(body)
        except (ValueError, RecursionError):
            return await _error(400, "The request is not valid JSON.")(scope, receive, send)
        named = list(_paths(call))
        if not all(map(self.uploads.contains, named)):
            return await _refuse_paths(request)(scope, receive, send)
        session = call.get("session_hash") if isinstance(call, dict) else None
        if isinstance(session, str) and named:
            self.uploads.hold(session, named)
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return messages.pop() if messages else await receive()

        await self.app(scope, replay, send)


def _paths(call: Any) -> Iterator[str]:
    """The paths of all files that a call names, at any depth."""
    waiting = [call]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if isinstance(value.get("path"), str) and value["path"]:
                yield value["path"]
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)


def _error(status: int, detail: str) -> Response:
    return JSONResponse({"detail": detail}, status)


def _refuse_paths(request: Request) -> Response:
    if "gradio_client" not in request.headers.get("user-agent", ""):
        return _error(400, NOT_UPLOADED)
    # The Python client shows the message of this kind of error only.
    found = {"__type__": "validate", "is_valid": False, "parameter_name": "file", "message": NOT_UPLOADED}
    return JSONResponse({"detail": [found]}, 422)


async def _refuse_upload(request: Request, send: Send, status: int, message: str) -> None:
    """Reads the upload before it is refused: a browser shows the message only if it could send everything."""
    drained, more = 0, True
    while more and drained < _MAX_DRAINED:
        part = await request.receive()
        drained += len(part.get("body", b""))
        more = part["type"] == "http.request" and part.get("more_body", False)
    await PlainTextResponse(message, status)(request.scope, request.receive, send)


class RedactingBlocks(gr.Blocks):
    """Blocks that log only the type and the place of an exception, and show the visitor one sentence."""

    async def process_api(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Runs a handler like `gr.Blocks`."""
        try:
            return await super().process_api(*args, **kwargs)
        except gr.Error as error:
            error.print_exception = False
            raise
        except InvalidPathError:
            raise gr.Error(NOT_UPLOADED, print_exception=False) from None
        except Exception as error:
            _log.error("%s", describe_exception(error))
            raise gr.Error(UNEXPECTED, print_exception=False) from None


class RedactingFilter(logging.Filter):
    """Replaces the exceptions of log records by `describe_exception`."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Changes the record and keeps it."""
        if record.exc_info and record.exc_info[1] is not None:
            record.msg, record.args = f"{record.msg} {describe_exception(record.exc_info[1])}", ()
            record.exc_info = record.exc_text = None
        return True


def describe_exception(error: BaseException) -> str:
    """Type and place of an exception. Its message is left out."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in frames[-4:]]
    return f"{type(error).__name__} at {' > '.join(places)}"
