"""Guards around Gradio: `RequestGuard` checks requests and notes who holds which file, and the log gets no names.

The messages of exceptions may contain file names, and so names of people.
"""

import asyncio
import ipaddress
import json
import logging
import re
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import nullcontext
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import gradio as gr
from gradio.exceptions import InvalidPathError
from gradio.route_utils import MultiPartException, upload_fn
from gradio.routes import file_upload_statuses
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from . import templates
from .state import Limits
from .uploads import EVERYBODY, QuotaExceededError, Uploads

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_log = logging.getLogger("mura_hf.demo")
_PREFIX = "/gradio_api/"
_CALLS = re.compile(r"(queue/join|call/[^/]+|call/v2/[^/]+|run/[^/]+|api/[^/]+|cancel|reset)")
_READS = re.compile(  # Gradio's other routes write files, read bodies without a limit, or fetch from other servers
    r"(info|startup-events|app_id|theme\.css|user|login_check|queue/(status|data)|upload_progress|heartbeat/[^/]+"
    r"|call/(v2/)?[^/]+/[^/]+|file=(?!\w+:).*)",
    re.DOTALL,
)
_MCP = re.compile(r"mcp(/.*)?")  # Gradio has these routes if MURA_MCP is set
_PROXY_HEADERS = re.compile(
    r"(x-)?forwarded(-.*)?|via|x-real-ip|x-original-.*|((x|true|fastly|x-cluster)-)?client-ip|cf-.*|x-envoy-.*"
)
_MAX_CALL = 256 << 10  # bytes, 50 times as many once parsed; a call names its files and does not contain them
_MAX_MCP_CALL = 64 << 20  # bytes; these may contain them
_MAX_NAME = 128  # characters of the names that clients give sessions and uploads
_FORM_BYTES = 1 << 20  # of an upload beside its files
_PART_BYTES = 64 << 10  # of a body, which are passed on together
_MAX_DRAINED = 64 << 20
_MAX_SECONDS = 900.0  # of waiting for one body
_PROGRESS_SECONDS = 30.0  # after an upload, in which the page may ask for its progress


class _TooLargeError(Exception):
    """A body is longer than its limit."""


class _Body:
    """Receives the body of a request. Time that the server itself needs does not count against the client.

    Args:
        receive: The ASGI callable.
        limits: Limits of requests.
        limit: Maximum number of bytes.
    """

    def __init__(self, receive: Receive, limits: Limits, limit: int) -> None:
        self._receive, self._limits, self.limit = receive, limits, limit
        self.on_bytes: Callable[[int], None] | None = None  # gets the number of bytes that have arrived
        self.received, self.more, self._waited = 0, True, 0.0

    async def __call__(self) -> Message:
        """Receives the next part.

        Raises:
            TimeoutError: If the client is slower than the minimum rate.
            _TooLargeError: If the body is too long.
        """
        if not self.more:
            return await self._receive()  # returns when the client leaves
        content = bytearray()
        while self.more and len(content) < _PART_BYTES:
            allowed = min(self._limits.grace + self.received / self._limits.min_rate, _MAX_SECONDS)
            start = time.monotonic()
            async with asyncio.timeout(allowed - self._waited):
                part = await self._receive()
            self._waited += time.monotonic() - start
            if part["type"] != "http.request":
                return part
            content += part.get("body", b"")
            self.more = part.get("more_body", False)
            size = len(part.get("body", b""))
            self.received += size
            if self.received > self.limit:
                raise _TooLargeError
            if self.on_bytes is not None:
                self.on_bytes(size)
        return {"type": "http.request", "body": bytes(content), "more_body": self.more}

    async def drain(self) -> None:
        """Receives the rest: a browser shows the message of a refusal only if it could send everything."""
        self.on_bytes, self.limit = None, self.received + _MAX_DRAINED
        try:
            while self.more and (await self())["type"] == "http.request":
                pass
        except (TimeoutError, _TooLargeError):
            pass


class RequestGuard:
    """ASGI middleware that limits requests, and refuses those that are not meant for this app.

    An app that is not public answers only what comes directly from its own machine. Only those routes of Gradio are
    open that pages and programs need. Calls may name uploaded files only. A file belongs to the session whose call
    names it, from the moment the call arrives. A session lasts while one of its connections is open: its heartbeat, or
    the stream of its results.

    Args:
        app: The application behind the guard.
        uploads: The uploaded files.
        limits: Limits of requests and uploads.
        public: Whether other people may use the app.
    """

    def __init__(
        self, app: Callable[[Scope, Receive, Send], Awaitable[None]], *, uploads: Uploads, limits: Limits, public: bool
    ) -> None:
        self.app, self.uploads, self.limits, self.public = app, uploads, limits, public
        self._open: Counter[str] = Counter()  # requests of each client that are being answered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        request = Request(scope)
        sign = None if self.public else find_proxy(request)
        if sign is not None:
            message = templates.NOT_PRIVATE.format(templates.PROXY_SIGNS[sign])
            return await PlainTextResponse(message, 403)(scope, receive, send)
        clients = find_clients(request, self.limits.client_share)
        shares = {EVERYBODY: 1.0, **clients}
        if any(self._open[client] >= share * self.limits.connections for client, share in shares.items()):
            return await _error(429, templates.CROWDED)(scope, receive, send)
        self._open.update(shares.keys())
        try:
            response = await self._handle(request, receive, send, clients)
            if response is not None:
                await response(scope, receive, send)
        except ClientDisconnect:
            pass
        finally:
            self._open -= Counter(shares.keys())  # removes those at 0

    async def _handle(
        self, request: Request, receive: Receive, send: Send, clients: dict[str, float]
    ) -> Response | None:
        """Lets the app answer, or returns a response."""
        scope, query, reads = request.scope, request.query_params, request.method in ("GET", "HEAD")
        path = scope["path"].removeprefix(scope.get("root_path", "").rstrip("/"))
        route = path.removeprefix(_PREFIX).rstrip("/")
        if not path.startswith(_PREFIX):
            if not reads:
                return _error(404, templates.NOT_AVAILABLE)
            await self.app(scope, receive, send)
            return None
        session = query.get("session_hash", "") if route == "queue/data" else ""
        if route.startswith("heartbeat/"):
            session = route.removeprefix("heartbeat/")
        if max(len(session), len(query.get("upload_id", ""))) > _MAX_NAME:
            return _error(400, templates.NAME_TOO_LONG)
        if request.method == "POST" and route == "upload":
            return await self._upload(
                request, _Body(receive, self.limits, self.limits.upload_bytes + _FORM_BYTES), clients
            )
        if request.method == "POST" and (_CALLS.fullmatch(route) or _MCP.fullmatch(route)):
            limit = _MAX_CALL if _CALLS.fullmatch(route) else _MAX_MCP_CALL
            return await self._call(request, _Body(receive, self.limits, limit), send)
        if not (reads and _READS.fullmatch(route)) and not _MCP.fullmatch(route):
            return _error(404, templates.NOT_AVAILABLE)
        try:
            with self.uploads.connected(session) if session else nullcontext():
                await self.app(scope, receive, send)
        finally:
            if route == "upload_progress":
                _forget_progress(query.get("upload_id", ""))
        return None

    async def _upload(self, request: Request, body: _Body, clients: dict[str, float]) -> Response:
        """Stores the files of an upload in a folder of their own, and responds like Gradio."""
        declared = request.headers.get("content-length", "")
        size = int(declared) if declared.isdecimal() else 0
        upload_id = request.query_params.get("upload_id")
        progress = file_upload_statuses if upload_id else None
        try:
            if size > body.limit:
                raise _TooLargeError
            with self.uploads.uploading(clients, size) as upload:
                body.on_bytes = partial(self.uploads.receive, upload)
                files, *_ = await upload_fn(
                    Request(request.scope, body), upload.folder, self.limits.upload_bytes, upload_id,
                    upload_progress=progress,
                )  # fmt: skip
            return JSONResponse(files)
        except TimeoutError:
            return PlainTextResponse(templates.SLOW, 408)
        except QuotaExceededError:
            status, message = 507, templates.FULL
        except _TooLargeError:
            status, message = 413, templates.UPLOAD_TOO_LARGE.format(self.limits.upload_bytes >> 20)
        except MultiPartException as error:
            status, message = 413 if "maximum allowed size" in error.message else 400, error.message
        except (HTTPException, TypeError) as error:  # TypeError: a text in place of a file
            status, message = 400, str(getattr(error, "detail", templates.NO_FILES))
        finally:
            if upload_id:
                asyncio.get_running_loop().call_later(_PROGRESS_SECONDS, _forget_progress, upload_id)
        await body.drain()
        return PlainTextResponse(message, status)

    async def _call(self, request: Request, body: _Body, send: Send) -> Response | None:
        """Passes a call on if it names only files that its session may use."""
        try:
            content = await Request(request.scope, body).body()
            call = json.loads(content)
        except TimeoutError:
            return PlainTextResponse(templates.SLOW, 408)
        except _TooLargeError:
            return _error(413, templates.REQUEST_TOO_LONG)
        except (ValueError, RecursionError):
            return _error(400, templates.NO_JSON)
        session = call.get("session_hash") if isinstance(call, dict) else None
        if isinstance(session, str) and len(session) > _MAX_NAME:
            return _error(400, templates.NAME_TOO_LONG)
        if self._waits_already(request):
            return _error(429, templates.CROWDED)
        named = list(_paths(call))
        if not all(self.uploads.may_use(session, path) for path in named):
            return _refuse_paths(request)
        if isinstance(session, str) and named:
            self.uploads.hold(session, named)
        messages = [{"type": "http.request", "body": content, "more_body": False}]

        async def replay() -> Message:
            return messages.pop() if messages else await body()

        await self.app(request.scope, replay, send)
        return None

    def _waits_already(self, request: Request) -> bool:
        """Whether the calls that a client has made and that are not answered yet fill its share of the queue."""
        clients = find_clients(request, self.limits.client_share)
        if not clients or "app" not in request.scope:
            return False
        waiting: Counter[str] = Counter()
        for event in list(request.scope["app"].get_blocks()._queue.event_ids_to_events.values()):
            waiting.update(find_clients(event.request, self.limits.client_share).keys())
        return any(waiting[client] >= share * self.limits.queue for client, share in clients.items())


def find_proxy(request: Request) -> str | None:
    """Key into `PROXY_SIGNS` if a request did not come directly from this machine; None if nothing shows that."""
    if any(_PROXY_HEADERS.fullmatch(name.lower()) for name in request.headers):
        return "header"
    if request.client is None or not _is_loopback(request.client.host):
        return "client"
    if request.scope["http_version"] == "1.0":  # as nginx sends it; browsers and clients send 1.1
        return "version"
    if request.scope.get("root_path"):
        return "root_path"
    if not _is_loopback(_host_name(f"//{request.headers.get('host', '')}")):
        return "host"
    if "origin" in request.headers and not _is_loopback(_host_name(request.headers["origin"])):
        return "origin"
    return None


def find_clients(request: Request, share: float) -> dict[str, float]:
    """Names of the senders of a request, each with the share of the limits that it may use.

    A proxy sends the requests of many people. Uvicorn replaces the addresses of the proxies in `FORWARDED_ALLOW_IPS`
    by those of the people. Another proxy has a larger share, of which each address that it names has the usual share.

    Args:
        request: The request.
        share: Share of one address. At 1 there is nobody to be protected from it, and the names are left out.
    """
    if share >= 1:
        return {}
    host = request.client.host if request.client else ""
    forwarded = [one.strip() for one in request.headers.get("x-forwarded-for", "").split(",") if one.strip()]
    if not forwarded or host in forwarded:
        return {_network(host): share}
    name = _network(host)
    return {name: (1 + share) / 2, f"{name} for {_network(forwarded[-1][:_MAX_NAME])}": share}


def _network(host: str) -> str:
    """An address, or the network that one owner of IPv6 addresses has."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        return str(address.ipv4_mapped or ipaddress.ip_network((address, 64), strict=False))
    return host


def _host_name(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def _forget_progress(upload_id: str) -> None:
    """Gradio itself keeps the progress of each upload for ever if no page asks for it."""
    file_upload_statuses.stop_tracking(upload_id)
    file_upload_statuses._signals.pop(upload_id, None)


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
        return _error(400, templates.NOT_UPLOADED)
    # The Python client shows the message of this kind of error only.
    found = {"__type__": "validate", "is_valid": False, "parameter_name": "file", "message": templates.NOT_UPLOADED}
    return JSONResponse({"detail": [found]}, 422)


class RedactingBlocks(gr.Blocks):
    """Blocks that log only the type and the place of an exception, and show the visitor one sentence.

    The page renders the message of a `gr.Error` as HTML, so it is escaped. Programs get it as it is.
    """

    async def process_api(self, block_fn: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Runs a handler like `gr.Blocks`."""
        try:
            return await super().process_api(block_fn, *args, **kwargs)
        except gr.Error as error:
            error.print_exception = False
            block = self.fns[block_fn] if isinstance(block_fn, int) else block_fn
            if block.api_visibility != "public":
                error.message = templates.escape_text(str(error.message))
            raise
        except InvalidPathError:
            raise gr.Error(templates.NOT_UPLOADED, print_exception=False) from None
        except Exception as error:
            _log.error("%s", describe_exception(error))
            raise gr.Error(templates.UNEXPECTED, print_exception=False) from None
        finally:
            state = kwargs.get("state")
            if state is not None:  # Gradio would keep what each page shows, pictures too, long after it was closed
                state.config_values.clear()

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], state: Any, *args: Any) -> list[Any]:
        """Takes a choice that a dropdown no longer offers as none.

        While another model is loaded, a page may still send an operating point of the former one. Gradio would refuse
        the whole call.
        """
        try:
            return await super().preprocess_data(block_fn, inputs, state, *args)
        except gr.Error:
            known = [
                value if _is_offered(block, value, state) else None
                for block, value in zip(block_fn.inputs, inputs, strict=True)
            ]
            if known == inputs:
                raise
            return await super().preprocess_data(block_fn, known, state, *args)


def _is_offered(block: Any, value: Any, state: Any) -> bool:
    """False for a value that is not among the choices which a session has in a dropdown."""
    if not isinstance(block, gr.Dropdown) or block.allow_custom_value:
        return True
    offered = state[block._id] if state is not None and block._id in state else block
    return value in [choice for _, choice in offered.choices]


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
