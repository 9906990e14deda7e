"""A running server: limits, manners and what it says of failures."""

import functools
import json
import socket
import sys
import threading
import time

import httpx
import pytest

from mura_hf.demo import server as serving
from mura_hf.demo.middleware import NOT_UPLOADED
from tests.conftest import make_checkpoint
from tests.demo.serving_app import ENDPOINTS, serve

HALF = b"""POST /gradio_api/upload HTTP/1.1
host: 127.0.0.1
content-type: multipart/form-data; boundary=x
content-length: 90000

--x
content-disposition: form-data; name="files"; filename="half.png"

half""".replace(b"\n", b"\r\n")
BROWSER = {"user-agent": "Mozilla/5.0"}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    checkpoint = make_checkpoint(tmp_path_factory.mktemp("served") / "checkpoint")
    environment = {"MURA_CHECKPOINT": str(checkpoint), "TEST_queue": "1", "TEST_upload_bytes": "1048576"}
    with serve(environment, ENDPOINTS) as app:
        yield app
        folder, start = app.folder, time.monotonic()
        app.process.terminate()  # it ends at once when told to, and leaves nothing
        assert app.process.wait(20) == 0
        assert time.monotonic() - start < 10
        assert not folder.exists()


@functools.cache
def numbers(url: str) -> dict[str, int]:
    return {one["api_name"]: one["id"] for one in httpx.get(f"{url}/config").json()["dependencies"]}


def ask(url: str, name: str, data: list, session: str = "me", headers: dict | None = None) -> httpx.Response:
    question = {"data": data, "fn_index": numbers(url)[name], "session_hash": session}
    return httpx.post(f"{url}/gradio_api/queue/join", json=question, headers=headers, timeout=30)


def answer(url: str, session: str = "me") -> dict:
    """The last message of a session's stream that tells a result."""
    with httpx.stream("GET", f"{url}/gradio_api/queue/data", params={"session_hash": session}, timeout=30) as stream:
        for line in stream.iter_lines():
            message = json.loads(line.removeprefix("data: ") or "{}")
            if message.get("msg") == "process_completed":
                return message
    raise AssertionError("the stream ended without an answer")


def upload(url: str, name: str = "Jane Doe.png", content: bytes = b"picture") -> dict:
    path = httpx.post(f"{url}/gradio_api/upload", files={"files": (name, content)}).json()[0]
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


def wait_until(holds, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_full_queue_is_told_politely_within_a_second(served):
    url = served.url
    refused, times = [], []
    numbers(url)

    def one(number: int) -> None:
        start = time.monotonic()
        reply = ask(url, "slow", [], f"crowd {number}", BROWSER if number % 2 else None)
        if reply.status_code != 200:
            refused.append((number % 2, reply.status_code, reply.json()))
            times.append(time.monotonic() - start)

    crowd = [threading.Thread(target=one, args=(number,)) for number in range(8)]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join()
    assert len(refused) >= 5
    assert {found for found, *_ in refused} == {0, 1}
    for browser, status, said in refused:
        assert (status, said) == (429 if browser else 503, {"detail": serving.BUSY})
    assert max(times) < 2  # a second on a machine that does nothing else
    wait_until(lambda: ask(url, "slow", [], "late").status_code == 200)


def test_failures_say_what_to_do_and_the_log_holds_no_name(served):
    url = served.url
    wait_until(lambda: ask(url, "fail", [[upload(url)]]).status_code == 200)
    told = answer(url)
    assert not told["success"]
    assert "Try again" in told["output"]["error"]
    wait_until(lambda: ask(url, "open", []).status_code == 200)
    assert "secret" not in json.dumps(answer(url))
    held = upload(url, "John Roe.png")
    assert httpx.get(f"{url}/gradio_api/file={held['path']}").content == b"picture"
    assert httpx.get(f"{url}/gradio_api/file={held['path']}.gone").status_code == 403
    log = served.log
    assert "RuntimeError at" in log
    assert "FileNotFoundError at" in log
    for word in ("Jane", "Roe", "secret", "Traceback", "GET /"):
        assert word not in log
    assert served.process.poll() is None


def test_what_a_broken_upload_leaves_can_be_swept_and_a_large_one_is_refused_in_words(served):
    url = served.url
    large = httpx.post(f"{url}/gradio_api/upload", files={"files": ("a.zip", b"0" * (3 << 20))})
    assert (large.status_code, large.text) == (413, "At most 1 MiB can be uploaded at once; give less.")

    before = set(served.folder.glob("tmp*"))

    with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1]))) as connection:
        connection.sendall(HALF)
        wait_until(lambda: len(set(served.folder.glob("tmp*")) - before) == 1)
    unsized = httpx.post(f"{url}/gradio_api/upload", content=iter([b"1"]), headers={"content-type": "text/plain"})
    assert unsized.status_code == 411
    # What is left lies where the sweeper finds it; that it goes after a while is tested there.
    assert len(set(served.folder.glob("tmp*")) - before) == 1


def test_addresses_that_write_or_fetch_for_others_are_closed(served):
    url = served.url
    held = served.folder / "examples" / "example1_wrist_1.png"
    for path in ("file=http://example.com/a.png", "file=https://example.com/a.png", "proxy=http://example.com"):
        assert httpx.get(f"{url}/gradio_api/{path}").status_code == 404
    assert httpx.post(f"{url}/gradio_api/process_recording", files={"video": ("a", b"1")}).status_code == 404
    assert httpx.get(f"{url}/gradio_api/file=/etc/passwd").status_code == 403
    assert httpx.get(f"{url}/gradio_api/file={held}").status_code == 200
    for path in ("/etc/passwd", "http://example.com/a.png", f"{served.folder}/../x"):
        reply = ask(url, "fail", [[{"path": path, "meta": {"_type": "gradio.FileData"}}]], "thief", BROWSER)
        assert (reply.status_code, reply.json()["detail"]) == (400, NOT_UPLOADED)
    assert httpx.post(f"{url}/gradio_api/queue/join", content="{").status_code == 400


def test_what_a_session_brought_stays_a_moment_when_its_connection_ends(served):
    url = served.url
    file = upload(url, "mine.png", b"mine")
    wait_until(lambda: ask(url, "fail", [[file]], "visitor").status_code == 200)
    with httpx.stream("GET", f"{url}/gradio_api/heartbeat/visitor", timeout=5) as stream:
        next(stream.iter_lines())
        answer(url, "visitor")
    assert served.folder.joinpath(file["path"]).exists()  # the connection may have broken, and it comes back


def test_strangers_reach_what_is_not_on_loopback():
    assert not serving.is_public("127.0.0.1", {})
    assert serving.is_public("0.0.0.0", {})
    assert serving.is_public("127.0.0.1", {"SPACE_ID": "me/mura"})


def test_mcp_is_off_and_says_how_to_install_it(monkeypatch):
    assert not serving.check_mcp({})
    assert not serving.check_mcp({"MURA_MCP": "0"})
    monkeypatch.setitem(sys.modules, "gradio.mcp", None)  # as where it is not installed
    with pytest.raises(SystemExit, match=r'pip install "gradio\[mcp\]"'):
        serving.check_mcp({"MURA_MCP": "1"})
