"""`Gatekeeper`: what comes to the server before Gradio sees it."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any
from urllib.parse import parse_qs

from .context import Limits
from .uploads import SessionFiles

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

FULL = "There is no room for more files on this server just now. Try again in a few minutes."
NOT_UPLOADED = "A file has to be uploaded: an address on the network, or a path, is not read."

_PREFIX = "/gradio_api/"
_ASKING = re.compile(r"(queue/join|call/[^/]+|call/v2/[^/]+|run/[^/]+|api/[^/]+)/?")
_UNUSED = re.compile(r"process_recording/?|proxy=.*|file=https?:.*", re.IGNORECASE)  # they write, or fetch for others
_MOST_QUESTION = 4 << 20  # bytes; a question names files and does not hold them
_FORM_BYTES = 1 << 20  # what an upload may have beside its files
_MOST_DRAINED = 64 << 20
_MOST_SECONDS = 900.0  # of an upload: while it goes on, its room is taken
_TEXT = "text/plain; charset=utf-8"


class Gatekeeper:
    """ASGI middleware: knows which session brought which file and is still there, and turns away what is too much.

    A file belongs to the session whose question names it, from before that waits in the queue. A session is there
    while one of its connections is open: its heartbeat, or the stream of its answers.

    Args:
        app: What it guards.
        files: Of the sessions.
        limits: Of uploads.
    """

    def __init__(
        self, app: Callable[[Scope, Receive, Send], Awaitable[None]], *, files: SessionFiles, limits: Limits
    ) -> None:
        self.app = app
        self.files = files
        self.limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http" or not scope["path"].startswith(_PREFIX):
            return await self.app(scope, receive, send)
        path, post = scope["path"].removeprefix(_PREFIX), scope["method"] == "POST"
        if _UNUSED.fullmatch(path):
            return await _answer(send, 404, "This page has no such address.")
        if post and path.rstrip("/") == "upload":
            return await self._take_upload(scope, receive, send)
        if post and _ASKING.fullmatch(path):
            return await self._take_question(scope, receive, send)
        session = _session_of(path, scope)
        if session is None:
            return await self.app(scope, receive, send)
        with self.files.connected(session):
            await self.app(scope, receive, send)

    async def _take_upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        length = _header(scope, b"content-length")
        if not length.isdecimal():
            return await _answer(send, 411, "An upload has to tell its length.")
        if int(length) > self.limits.upload_bytes + _FORM_BYTES:
            words = f"At most {self.limits.upload_bytes >> 20} MiB can be uploaded at once; give less."
            return await _refuse_upload(receive, send, 413, words)
        with self.files.uploading(int(length)) as room:
            if room:
                try:
                    async with asyncio.timeout(_MOST_SECONDS):
                        return await self.app(scope, receive, self._noting(send))
                except TimeoutError:  # nothing was answered yet
                    return await _answer(send, 408, "The upload took too long, and was given up.", kind=_TEXT)
        await _refuse_upload(receive, send, 507, FULL)

    def _noting(self, send: Send) -> Send:
        """Reads from the answer to an upload which files came."""

        async def note(message: Message) -> None:
            if message["type"] == "http.response.body":
                try:
                    paths = json.loads(message.get("body", b""))
                except ValueError:  # a refusal in words
                    paths = []
                if isinstance(paths, list):
                    self.files.arrived(path for path in paths if isinstance(path, str))
            await send(message)

        return note

    async def _take_question(self, scope: Scope, receive: Receive, send: Send) -> None:
        content = b""
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return
            content += message.get("body", b"")
            if len(content) > _MOST_QUESTION:
                return await _answer(send, 413, "The question is too long.")
            if not message.get("more_body"):
                break
        try:
            question = json.loads(content)
        except (ValueError, RecursionError):
            return await _answer(send, 400, "The question is not valid JSON.")
        named = list(_paths(question))
        if not all(map(self.files.contains, named)):
            return await _refuse_paths(scope, send)
        session = question.get("session_hash") if isinstance(question, dict) else None
        if isinstance(session, str) and named:
            self.files.hold(session, named)
        waiting = [{"type": "http.request", "body": content, "more_body": False}]

        async def replay() -> Message:
            return waiting.pop() if waiting else await receive()

        await self.app(scope, replay, send)


def _session_of(path: str, scope: Scope) -> str | None:
    """The session of a connection that stays open while its visitor is there."""
    if path.startswith("heartbeat/"):
        return path.removeprefix("heartbeat/").rstrip("/")
    if path.rstrip("/") == "queue/data":
        return parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [None])[0]
    return None


def _paths(value: Any) -> Iterator[str]:
    """Of all files that a question names, the paths."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if isinstance(value.get("path"), str) and value["path"]:
                yield value["path"]
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)


def _header(scope: Scope, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")


async def _refuse_paths(scope: Scope, send: Send) -> None:
    if "gradio_client" not in _header(scope, b"user-agent"):
        return await _answer(send, 400, NOT_UPLOADED)
    # Gradio's Python client passes on the words of this kind of refusal only.
    found = {"__type__": "validate", "is_valid": False, "parameter_name": "file", "message": NOT_UPLOADED}
    await _answer(send, 422, [found])


async def _refuse_upload(receive: Receive, send: Send, status: int, words: str) -> None:
    """The page shows the words of a refusal only if it could send what it was sending."""
    drained, more = 0, True
    while more and drained < _MOST_DRAINED:
        message = await receive()
        drained += len(message.get("body", b""))
        more = message["type"] == "http.request" and message.get("more_body", False)
    await _answer(send, status, words, kind=_TEXT)


async def _answer(send: Send, status: int, detail: Any, kind: str = "application/json") -> None:
    content = detail.encode() if kind.startswith("text") else json.dumps({"detail": detail}).encode()
    headers = [(b"content-type", kind.encode()), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
