"""The guard in front of a small app, without a server."""

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from types import SimpleNamespace

import gradio as gr
import httpx
import pytest
from gradio.state_holder import SessionState
from starlette.requests import Request
from starlette.responses import PlainTextResponse

from mura_hf.demo.middleware import RedactingBlocks, RequestGuard, find_clients, find_proxy
from mura_hf.demo.state import Limits
from mura_hf.demo.templates import CROWDED, FULL, NOT_UPLOADED, PROXY_SIGNS, SLOW
from mura_hf.demo.uploads import Uploads

API = "/gradio_api"
HERE = {"host": "127.0.0.1:7860"}


def make_guard(folder, *, public=True, **limits) -> RequestGuard:
    async def app(scope, receive, send):
        body = await Request(scope, receive).body() if scope["method"] == "POST" else b""
        await PlainTextResponse(f"{scope['path']} {len(body)}")(scope, receive, send)

    limits = Limits(**{"upload_bytes": 1 << 20, "folder_bytes": 4 << 20, "grace": 0.2, "min_rate": 1000, **limits})
    return RequestGuard(app, uploads=Uploads(folder, quota=limits.folder_bytes), limits=limits, public=public)


def visit(guard, address="203.0.113.5", root_path="") -> httpx.AsyncClient:
    transport = httpx.ASGITransport(guard, client=(address, 1), root_path=root_path)
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:7860")


def run_apart(coroutine):
    """Runs a coroutine in a thread of its own, since Playwright's loop may run in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


def send(guard, method, path, *, address="203.0.113.5", root_path="", **options) -> httpx.Response:
    async def run():
        async with visit(guard, address, root_path) as client:
            return await client.request(method, path, **options)

    return run_apart(run())


def upload(guard, name="a.png", content=b"picture", **options) -> httpx.Response:
    return send(guard, "POST", f"{API}/upload", files={"files": (name, content)}, **options)


async def dribble(guard, address="203.0.113.5", *, declared=900_000, parts=1000, pause=0.05) -> tuple[int, float]:
    """Sends a few bytes at a time. Returns the status and the seconds until the response."""
    boundary = b'--x\r\ncontent-disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    chunks = iter([boundary, *[b"0"] * parts])
    status, start = [], time.monotonic()

    async def receive():
        await asyncio.sleep(pause)
        return {"type": "http.request", "body": next(chunks), "more_body": True}

    async def respond(message):
        status.append(message.get("status"))

    headers = [(b"content-type", b"multipart/form-data; boundary=x"), (b"content-length", str(declared).encode())]
    scope = {"type": "http", "method": "POST", "path": f"{API}/upload", "headers": headers, "client": (address, 1)}
    await guard({**scope, "query_string": b"", "http_version": "1.1"}, receive, respond)
    return status[0], time.monotonic() - start


def make_request(headers, client="127.0.0.1", http_version="1.1", root_path="") -> Request:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "headers": raw, "client": client and (client, 1), "http_version": http_version}
    return Request({**scope, "root_path": root_path})


@pytest.mark.parametrize(
    ("headers", "options"),
    [
        *[
            ({**HERE, name: "1"}, {})
            for name in (
                "X-Forwarded-For", "x-forwarded-host", "X-Forwarded-Proto", "Forwarded", "Via", "X-Real-IP",
                "CF-Connecting-IP", "True-Client-IP", "X-Original-URI", "X-Forwarded-Prefix",
                "X-Envoy-External-Address",
            )
        ],
        ({"host": "mura.example.org"}, {}),  # also DNS rebinding
        ({"host": "127.0.0.1.example.org"}, {}),
        ({"host": "192.168.0.7:7860"}, {}),
        ({"host": "[::1"}, {}),
        ({}, {}),
        ({**HERE, "origin": "https://mura.example.org"}, {}),
        ({**HERE, "origin": "null"}, {}),
        (HERE, {"http_version": "1.0"}),
        (HERE, {"client": "192.168.0.9"}),
        (HERE, {"client": None}),
        (HERE, {"root_path": "/mura"}),
    ],
)  # fmt: skip
def test_a_private_app_refuses_what_does_not_come_directly_from_its_machine(headers, options, tmp_path):
    assert find_proxy(make_request(headers, **options)) in PROXY_SIGNS


@pytest.mark.parametrize(
    ("headers", "client"),
    [
        (HERE, "127.0.0.1"),
        ({"host": "localhost:7860", "origin": "http://localhost:7860", "accept": "*/*"}, "127.0.0.1"),
        ({"host": "[::1]:7860", "origin": "http://[::1]:7860"}, "::1"),
        ({"host": "mura.localhost", "referer": "https://example.org/link"}, "::ffff:127.0.0.1"),
    ],
)
def test_a_private_app_answers_its_own_machine(headers, client):
    assert find_proxy(make_request(headers, client)) is None


def test_every_route_of_a_private_app_says_what_to_do_behind_a_proxy(tmp_path):
    guard = make_guard(tmp_path, public=False)
    for method, path in (
        ("GET", "/"),
        ("GET", "/config"),
        ("POST", f"{API}/call/worklist"),
        ("POST", f"{API}/upload"),
    ):
        refused = send(guard, method, path, address="127.0.0.1", headers={"x-forwarded-for": "203.0.113.5"})
        assert refused.status_code == 403
        assert "MURA_PUBLIC=1" in refused.text
    assert send(guard, "GET", "/", address="127.0.0.1").status_code == 200


@pytest.mark.parametrize(
    ("client", "forwarded", "expected"),
    [
        ("203.0.113.5", None, {"203.0.113.5": 0.5}),
        ("2001:db8:1:2:3::4", None, {"2001:db8:1:2::/64": 0.5}),
        ("::ffff:203.0.113.5", None, {"203.0.113.5": 0.5}),
        ("203.0.113.5", "198.51.100.1, 203.0.113.5", {"203.0.113.5": 0.5}),  # uvicorn trusts the proxy
        ("10.0.0.1", "198.51.100.1, 203.0.113.5", {"10.0.0.1": 0.75, "10.0.0.1 for 203.0.113.5": 0.5}),
    ],
)
def test_clients_behind_one_proxy_are_distinguished(client, forwarded, expected):
    request = make_request({"x-forwarded-for": forwarded} if forwarded else {}, client)
    assert find_clients(request, 0.5) == expected
    assert find_clients(request, 1.0) == {}


@pytest.mark.parametrize("attackers", [["203.0.113.9"] * 50, [f"203.0.113.{number}" for number in range(50)]])
def test_stalled_uploads_hold_no_room_and_are_stopped(tmp_path, attackers):
    guard = make_guard(tmp_path)

    async def attack():
        async with visit(guard) as client:
            stalled = [asyncio.create_task(dribble(guard, address, parts=60)) for address in attackers]
            await asyncio.sleep(0.15)
            other = await client.post(f"{API}/upload", files={"files": ("a.png", b"0" * 900_000)})
            return other, await asyncio.gather(*stalled)

    other, stalled = run_apart(attack())
    assert other.status_code == 200
    assert {status for status, _ in stalled} == {408}
    assert max(seconds for _, seconds in stalled) < 2
    assert len(list(tmp_path.glob("upload-*"))) == 1  # that of the other visitor
    assert not guard._open


def test_the_message_for_a_slow_call_and_a_slow_upload(tmp_path):
    guard = make_guard(tmp_path)

    async def body():
        yield b"{"
        await asyncio.sleep(0.5)

    for path in (f"{API}/queue/join", f"{API}/upload", f"{API}/cancel"):
        slow = send(guard, "POST", path, content=body(), headers={"content-type": "multipart/form-data; boundary=x"})
        assert (slow.status_code, slow.text) == (408, SLOW)


@pytest.mark.parametrize(
    ("forwarded", "accepted"),
    [
        (lambda number: {}, 2),
        (lambda number: {"x-forwarded-for": f"198.51.100.{number}"}, 3),  # invented addresses do not help
        (lambda number: {"x-forwarded-for": "198.51.100.1, 203.0.113.5"}, 2),
    ],
)
def test_the_files_of_one_client_leave_room_for_others(tmp_path, forwarded, accepted):
    guard = make_guard(tmp_path, client_share=0.5)
    content = b"0" * (1 << 20)
    sent = [upload(guard, content=content[:1_000_000], headers=forwarded(number)) for number in range(5)]
    assert [one.status_code for one in sent] == [200] * accepted + [507] * (5 - accepted)
    assert sent[-1].text == FULL
    assert upload(guard, content=content[:900_000], address="198.51.100.7").status_code == 200


def test_open_requests_of_one_client_leave_room_for_others(tmp_path):
    guard = make_guard(tmp_path, client_share=0.5, connections=8)

    async def attack():
        waiting = [asyncio.create_task(dribble(guard)) for _ in range(9)]
        await asyncio.sleep(0.05)
        async with visit(guard) as same, visit(guard, "198.51.100.7") as other:
            return [await one.get("/") for one in (same, other)], [await one for one in waiting]

    (same, other), waited = run_apart(attack())
    assert (same.status_code, same.json()["detail"], other.status_code) == (429, CROWDED, 200)
    assert [status for status, _ in waited].count(429) == 5


def test_waiting_calls_of_one_client_leave_room_in_the_queue(tmp_path):
    guard = make_guard(tmp_path, client_share=0.5, queue=4)
    waiting = {}
    blocks = SimpleNamespace(_queue=SimpleNamespace(event_ids_to_events=waiting))
    app, guard.app = guard.app, None

    async def join(scope, receive, respond):
        waiting[len(waiting)] = SimpleNamespace(request=Request(scope))
        await app(scope, receive, respond)

    async def gradio(scope, receive, respond):
        await guard({**scope, "app": SimpleNamespace(get_blocks=lambda: blocks)}, receive, respond)

    guard.app = join
    for address, statuses in (("203.0.113.5", [200, 200, 429, 429]), ("198.51.100.7", [200, 200, 429])):
        for status in statuses:
            path = f"{API}/queue/join"
            assert send(gradio, "POST", path, address=address, json={"data": []}).status_code == status
    waiting.clear()
    assert send(gradio, "POST", f"{API}/call/similar", json={"data": []}).status_code == 200


def test_gradio_does_not_keep_what_a_page_has_shown():
    with RedactingBlocks() as blocks:
        box, shown = gr.Textbox(), gr.HTML()
        box.change(lambda text: f"<b>{text}</b>", box, shown)
        box.submit(lambda text: gr.update(value=text), box, shown)
        box.input(lambda text: 1 / 0, box, shown)
    state = SessionState(blocks)
    for number, fails in enumerate((False, False, True)):
        with pytest.raises(gr.Error) if fails else nullcontext():
            run_apart(blocks.process_api(number, ["a patient"], state=state))
        assert "a patient" not in str(list(state.components))


def test_a_choice_that_a_dropdown_no_longer_offers_is_none():
    with RedactingBlocks() as blocks:
        point, number, shown = gr.Dropdown(["old", "both"], value="old"), gr.Slider(0, 1), gr.Textbox()
        point.input(lambda point, number: f"{point} {number}", [point, number], shown)
        number.input(lambda: gr.update(choices=["both", "new"]), None, point)
    state = SessionState(blocks)
    run_apart(blocks.process_api(1, [], state=state))
    for given, taken in (("old", "None 1"), ("both", "both 1"), ("new", "new 1")):
        assert run_apart(blocks.process_api(0, [given, 1], state=state))["data"] == [taken]
    with pytest.raises(gr.Error, match="greater than maximum"):
        run_apart(blocks.process_api(0, ["both", 2], state=state))


def test_an_upload_without_a_length_is_counted(tmp_path):
    head = b'--x\r\ncontent-disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    headers = {"content-type": "multipart/form-data; boundary=x"}

    async def body(size):
        yield head
        for _ in range(size >> 16):
            yield b"0" * (1 << 16)
        yield b"\r\n--x--\r\n"

    for size, status in ((1 << 16, 200), (1 << 20, 200), (3 << 20, 413), (9 << 20, 413)):
        guard = make_guard(tmp_path / str(size))
        sent = send(guard, "POST", f"{API}/upload", content=body(size), headers=headers)
        assert (size, sent.status_code) == (size, status)
        assert len(list(guard.uploads.folder.glob("upload-*"))) == (status == 200)


@pytest.mark.parametrize("options", [{"data": {"files": "text"}}, {"content": b"--x--"}, {"json": {}}])
def test_uploads_that_are_none_are_refused(tmp_path, options):
    assert send(make_guard(tmp_path), "POST", f"{API}/upload", **options).status_code == 400


@pytest.mark.parametrize("root_path", ["", "/mura"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        *[
            ("POST", f"{API}/{route}")
            for route in ("component_server", "process_recording", "vibe-edit/", "stream/1", "run-history/connect")
        ],
        *[
            ("GET", f"{API}/{route}")
            for route in (
                "proxy=https://a.hf.space/", "file=https://example.com/a.png", "file/https://example.com/a.png",
                "file=HTTP://example.com/a.png", "deep_link", "runs", "dev/reload", "token", "vibe-code", "mcpx",
            )
        ],
        ("POST", "/login"),
        ("PUT", "/"),
        ("POST", "/"),
        ("DELETE", f"{API}/upload"),
    ],
)  # fmt: skip
def test_routes_that_nobody_needs_are_closed(tmp_path, method, path, root_path):
    """They write files, keep whole bodies in memory, or fetch addresses."""
    reply = send(make_guard(tmp_path), method, root_path + path, root_path=root_path)
    assert (reply.status_code, reply.json()["detail"]) == (404, "This address is not available.")


@pytest.mark.parametrize("path", ["queue/join", "cancel", "reset", "call/similar", "call/v2/similar", "run/predict"])
def test_calls_are_bounded_and_pass_on_their_body(tmp_path, path):
    guard = make_guard(tmp_path)
    for root_path in ("", "/mura"):
        full = f"{root_path}{API}/{path}"
        passed = send(guard, "POST", full, root_path=root_path, json={"data": ["x" * 1000]})
        assert passed.text == f"{full} {len(passed.request.content)}"
        for content, status in ((b"[" * (2 << 20), 413), (b"[" * 100_000, 400), (b"{", 400), (b"\xff", 400)):
            assert send(guard, "POST", full, root_path=root_path, content=content).status_code == status
        long = send(guard, "POST", full, root_path=root_path, json={"session_hash": "x" * 200})
        assert long.status_code == 400
    for route in (
        f"heartbeat/{'x' * 200}",
        f"queue/data?session_hash={'x' * 200}",
        f"upload_progress?upload_id={'x' * 200}",
    ):
        assert send(guard, "GET", f"{API}/{route}").status_code == 400


def test_a_file_belongs_to_the_session_that_names_it_first(tmp_path):
    guard = make_guard(tmp_path)
    first, second = (upload(guard, "Jane Doe.png").json()[0] for _ in range(2))
    assert first.rpartition("/")[0] != second.rpartition("/")[0]  # one does not lead to the other

    def call(session, path):
        data = [{"path": path, "meta": {"_type": "gradio.FileData"}}]
        reply = send(guard, "POST", f"{API}/queue/join", json={"data": data, "session_hash": session})
        return reply.status_code, NOT_UPLOADED in json.dumps(reply.text)

    assert call("jane", first) == (200, False)
    for session in ("mallory", None, 5, "", "jane "):
        assert call(session, first) == (400, True)
    assert call("jane", first) == (200, False)
    assert call("mallory", second) == (200, False)
