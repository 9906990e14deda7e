"""Limits, refusals and the log of a running server."""

import json
import socket
import socketserver
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from mura_hf.demo.server import use_mcp
from mura_hf.demo.templates import BUSY, NOT_UPLOADED

from .running import function_numbers, join_queue, read_result, upload_file, wait_until

PARTIAL = (
    b"""POST /gradio_api/upload HTTP/1.1
host: 127.0.0.1
content-type: multipart/form-data; boundary=x
content-length: 90000

--x
content-disposition: form-data; name="files"; filename="half.png"

""".replace(b"\n", b"\r\n")
    + b"0" * 70_000
)
BROWSER = {"user-agent": "Mozilla/5.0"}


def test_a_full_queue_refuses_requests_with_a_message(strict_app):
    url = strict_app.url
    refused = []
    function_numbers(url)

    def send(number: int) -> None:
        reply = join_queue(url, "slow", [], f"crowd {number}", BROWSER if number % 2 else None)
        if reply.status_code != 200:
            refused.append((number % 2, reply.status_code, reply.json()))

    crowd = [threading.Thread(target=send, args=(number,)) for number in range(8)]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join()
    assert len(refused) >= 5
    assert {browser for browser, *_ in refused} == {0, 1}
    for browser, status, message in refused:
        assert (status, message) == (429 if browser else 503, {"detail": BUSY})
    wait_until(lambda: join_queue(url, "slow", [], "late").status_code == 200)


def test_errors_are_explained_and_the_log_contains_no_names(strict_app):
    url = strict_app.url
    wait_until(lambda: join_queue(url, "fail", [[upload_file(url, "Jane Doe.png", b"1")]]).status_code == 200)
    result = read_result(url)
    assert not result["success"]
    assert "Try again" in result["output"]["error"]
    wait_until(lambda: join_queue(url, "open", []).status_code == 200)
    assert "secret" not in json.dumps(read_result(url))
    held = upload_file(url, "John Roe.png", b"picture")
    assert httpx.get(f"{url}/gradio_api/file={held['path']}").content == b"picture"
    assert httpx.get(f"{url}/gradio_api/file={held['path']}.gone").status_code == 403
    log = strict_app.log
    assert "RuntimeError at" in log
    assert "FileNotFoundError at" in log
    for word in ("Jane", "Roe", "secret", "Traceback", "GET /"):
        assert word not in log
    assert strict_app.process.poll() is None


def test_large_uploads_are_refused_and_broken_ones_are_removed(strict_app):
    url = strict_app.url
    large = httpx.post(f"{url}/gradio_api/upload", files={"files": ("a.zip", b"0" * (3 << 20))})
    assert (large.status_code, large.text) == (413, "One upload may have at most 1 MiB. Upload less at once.")
    above = httpx.post(f"{url}/gradio_api/upload", files={"files": ("a.zip", b"0" * ((1 << 20) + 9))})
    assert above.status_code == 413  # Gradio's own limit, for each file
    before = set(strict_app.folder.glob("upload-*"))
    with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1]))) as connection:
        connection.sendall(PARTIAL)
        wait_until(lambda: len(set(strict_app.folder.glob("upload-*")) - before) == 1)
    wait_until(lambda: set(strict_app.folder.glob("upload-*")) <= before)


def test_addresses_that_write_or_fetch_from_others_are_closed(strict_app):
    url = strict_app.url
    for path in ("file=http://example.com/a.png", "file=https://example.com/a.png", "proxy=http://example.com"):
        assert httpx.get(f"{url}/gradio_api/{path}").status_code == 404
    assert httpx.post(f"{url}/gradio_api/process_recording", files={"video": ("a", b"1")}).status_code == 404
    assert httpx.get(f"{url}/gradio_api/file=/etc/passwd").status_code == 403
    example = strict_app.folder / "examples" / "example1_wrist_1.png"
    assert httpx.get(f"{url}/gradio_api/file={example}").status_code == 200
    for path in ("/etc/passwd", "http://example.com/a.png", f"{strict_app.folder}/../x"):
        reply = join_queue(url, "fail", [[{"path": path, "meta": {"_type": "gradio.FileData"}}]], "thief", BROWSER)
        assert (reply.status_code, reply.json()["detail"]) == (400, NOT_UPLOADED)
    assert httpx.post(f"{url}/gradio_api/queue/join", content="{").status_code == 400


def test_every_box_says_whose_file_it_is_once_it_has_it(app, strict_app):
    """Without a call that names it, a file that was dropped but not read yet looks unclaimed, and is removed."""
    for one in (app, strict_app):
        config = httpx.get(f"{one.url}/config").json()
        boxes = [box["id"] for box in config["components"] if box["type"] in ("file", "uploadbutton")]
        boxes = [box for box in boxes if any(box in event["inputs"] for event in config["dependencies"])]
        named = {
            box for event in config["dependencies"] for box, kind in event["targets"]
            if kind == "upload" and box in event["inputs"]
        }  # fmt: skip
        assert len(named) == 3
        assert named <= set(boxes)


def test_files_of_a_session_stay_for_a_moment_after_its_connection_ends(strict_app):
    url = strict_app.url
    file = upload_file(url, "mine.png", b"mine")
    wait_until(lambda: join_queue(url, "fail", [[file]], "visitor").status_code == 200)
    with httpx.stream("GET", f"{url}/gradio_api/heartbeat/visitor", timeout=5) as stream:
        next(stream.iter_lines())
        read_result(url, "visitor")
    assert strict_app.folder.joinpath(file["path"]).exists()  # the connection may come back


@contextmanager
def proxy(url: str, *headers: str, version: str = "1.1", host: str | None = None) -> Iterator[str]:
    """A reverse proxy on a free port that passes each request on with these headers added."""
    upstream = ("127.0.0.1", int(url.rsplit(":", 1)[1]))

    def pump(read: Callable[[int], bytes], write: Callable[[bytes], None]) -> None:
        with suppress(OSError):
            while content := read(1 << 16):
                write(content)

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            first, *lines = iter(lambda: self.rfile.readline().strip().decode(), "")
            lines = [line for line in lines if not line.lower().startswith(("connection:", *["host:"] * bool(host)))]
            lines += [*headers, "Connection: close", *[f"Host: {host}"] * bool(host), "", ""]
            with socket.create_connection(upstream) as app:
                app.sendall("\r\n".join([first.replace("HTTP/1.1", f"HTTP/{version}"), *lines]).encode())
                threading.Thread(target=pump, args=(self.rfile.read1, app.sendall), daemon=True).start()
                pump(app.recv, self.wfile.write)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize(
    ("headers", "options"),
    [
        (("X-Forwarded-For: 203.0.113.5",), {}),
        (("X-Real-IP: 203.0.113.5", "X-Forwarded-Proto: https"), {}),
        ((), {"version": "1.0"}),  # nginx without any option
        ((), {"host": "mura.example.org"}),
    ],
)
def test_a_private_app_behind_a_proxy_shows_nothing_and_reads_no_folder(app, checkpoint, headers, options):
    with proxy(app.url, *headers, **options) as address:
        page = httpx.get(address)
        assert (
            page.status_code,
            "MURA_PUBLIC=1" in page.text,
            "on the computer that runs this page" in page.text,
        ) == (403, True, False)
        call = {"data": [[], str(checkpoint)]}
        assert httpx.post(f"{address}/gradio_api/call/predict_study", json=call).status_code == 403
    assert "on the computer that runs this page" in httpx.get(app.url).text


def test_a_public_app_on_loopback_works_behind_a_proxy_and_reads_no_folder(strict_app, checkpoint, phantom_files):
    with proxy(strict_app.url, "X-Forwarded-For: 203.0.113.5", "X-Forwarded-Host: mura.example.org") as address:
        for url in (address, strict_app.url):  # also who comes without the proxy is a stranger
            components = httpx.get(f"{url}/config").json()["components"]
            [box] = [one for one in components if "folder, ZIP or CSV" in str(one["props"].get("label"))]
            assert not box["props"]["visible"]
            for name, found in (
                (str(checkpoint), "only if the app serves"),
                ("mura-phantom", '"probability"'),
            ):
                files = [upload_file(url, Path(file).name, Path(file).read_bytes()) for file in phantom_files]
                call = {"data": [files, name, "", "", None, None, False]}
                event = httpx.post(f"{url}/gradio_api/call/predict_study", json=call).json()["event_id"]
                reply = httpx.get(f"{url}/gradio_api/call/predict_study/{event}", timeout=60).text
                assert found in reply


def test_mcp_is_off_by_default_and_its_package_is_named(monkeypatch):
    for value, wanted in ((None, False), ("0", False)):
        monkeypatch.delenv("MURA_MCP", raising=False)
        if value is not None:
            monkeypatch.setenv("MURA_MCP", value)
        assert use_mcp() is wanted
    monkeypatch.setenv("MURA_MCP", "1")
    monkeypatch.setitem(sys.modules, "gradio.mcp", None)  # not installed
    with pytest.raises(SystemExit, match=r'pip install "gradio\[mcp\]"'):
        use_mcp()
