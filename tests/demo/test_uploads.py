import inspect
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest

from mura_hf.demo import templates
from mura_hf.demo import uploads as module
from mura_hf.demo.templates import PRIVACY, RETENTION, about_text
from mura_hf.demo.uploads import CALL, LOCK, PREFIX, QuotaExceededError, Uploads, make_private_folder

MB = 1 << 20


@pytest.fixture
def clock():
    """Runs with the clock of the file system, and can be put forward."""
    return SimpleNamespace(ahead=0.0)


@pytest.fixture
def uploads(tmp_path, clock):
    return Uploads(tmp_path / "folder", quota=10 * MB, clock=lambda: time.time() + clock.ahead)


def _upload(uploads: Uploads, name: str, content: bytes = b"12345", clients=None) -> Path:
    with uploads.uploading(clients or {}, len(content)) as upload:
        uploads.receive(upload, len(content))
        file = upload.folder / "as Gradio" / name
        file.parent.mkdir(parents=True)
        file.write_bytes(content)
    return file


def _sweep(uploads, clock, ahead):
    clock.ahead = ahead
    uploads.sweep()


def test_unclaimed_files_are_removed_within_two_minutes_and_those_of_the_server_stay(uploads, clock):
    kept = _upload(uploads, "example.png", b"example")
    uploads.protect()
    partial = uploads.folder / "tmpabc"
    partial.write_bytes(b"half")
    gone = _upload(uploads, "a.png")
    uploads.sweep()
    assert gone.exists()
    _sweep(uploads, clock, 91)
    assert not gone.parents[1].exists()
    assert not partial.exists()
    uploads.hold("one", [kept])
    uploads.release("one")
    _sweep(uploads, clock, 100_000)
    assert kept.exists()


def test_files_of_a_session_stay_while_it_is_connected(uploads, clock):
    file = _upload(uploads, "a.png")
    uploads.hold("one", [file])
    made = uploads.new_folder("one")
    (made / "made.png").write_bytes(b"1")
    with uploads.connected("one"):
        _sweep(uploads, clock, 3000)
        assert file.exists()
        assert (made / "made.png").exists()
    _sweep(uploads, clock, 3059)
    assert file.exists()
    _sweep(uploads, clock, 3062)
    assert not file.exists()
    assert not made.exists()


def test_a_session_without_requests_loses_its_files_after_an_hour(uploads, clock):
    file = _upload(uploads, "a.png")
    with uploads.connected("one"):
        uploads.hold("one", [file])
        _sweep(uploads, clock, 3601)
        assert not file.exists()
        later = _upload(uploads, "b.png")
        uploads.hold("one", [later])
        clock.ahead += 1000
        uploads.sweep()
        assert later.exists()


def test_a_file_stays_until_the_last_session_and_call_let_it_go(uploads):
    file = _upload(uploads, "a.png")
    for session in ("one", "two"):
        uploads.hold(session, [file])
    for session in ("one", "one"):  # the second time without effect
        uploads.release(session)
        assert file.exists()
    uploads.hold("two", [file])
    uploads.let_go("two", [file])
    assert file.exists()
    uploads.let_go("two", [file])
    assert not file.exists()


def test_equal_files_of_two_visitors_are_apart_and_belong_to_those_who_name_them_first(uploads):
    mine, other, late = (_upload(uploads, "a.png") for _ in range(3))
    assert len({mine, other, late}) == 3
    assert len(mine.parents[1].name) > 32  # nobody can guess it
    uploads.hold("one", [mine])
    uploads.hold(f"{CALL}2", [late])  # a program without a session
    for session, file, allowed in (
        ("one", mine, True), ("two", mine, False), (None, mine, False), ("two", other, True), (None, late, True),
        ("two", uploads.folder / "none.png", True), ("one", "/etc/passwd", False),
    ):  # fmt: skip
        assert uploads.may_use(session, file) is allowed
    uploads.release("one")
    assert (mine.exists(), other.exists()) == (False, True)


def test_paths_outside_are_neither_held_nor_removed(uploads, tmp_path):
    uploads.folder.mkdir(exist_ok=True)
    other = tmp_path / "other.png"
    other.write_bytes(b"1")
    link = uploads.folder / "link.png"
    link.symlink_to(other)
    paths = (str(other), str(link), f"{uploads.folder}/../other.png", str(uploads.folder), "", "\0", "a" * 9999)
    for path in paths:
        assert not uploads.may_use("one", path)
        uploads.hold("one", [path])
    uploads.release("one")
    assert other.exists()


@pytest.mark.parametrize("place", ["", "examples", "examples/arm", LOCK, "examples/../.lock"])
def test_folders_and_the_lock_can_be_neither_named_nor_removed(uploads, place):
    """The page shows the paths of examples. A call that named their folder removed it for all visitors."""
    example = uploads.folder / "examples" / "arm" / "a.png"
    example.parent.mkdir(parents=True)
    for file in (example, uploads.folder / LOCK):
        file.write_bytes(b"1")
    uploads.protect()
    named = f"{uploads.folder}/{place}"
    assert not uploads.may_use("one", named)
    uploads.hold("one", [named])
    uploads.let_go("one", [named])
    uploads.hold("one", [named])
    uploads.release("one")
    assert example.exists()
    assert (uploads.folder / LOCK).exists()


def test_files_of_a_running_upload_stay_and_those_of_a_broken_one_are_removed_at_once(uploads, clock):
    with pytest.raises(ConnectionError), uploads.uploading({}) as upload:  # noqa: PT012
        upload.folder.mkdir(parents=True)
        (upload.folder / "tmp1").write_bytes(b"half")
        old = _upload(uploads, "old.png")
        _sweep(uploads, clock, 600)
        assert (upload.folder / "tmp1").exists()
        assert not old.exists()  # a long upload does not keep the files of others
        raise ConnectionError
    assert not upload.folder.exists()


def test_only_bytes_that_have_arrived_count(uploads):
    with ExitStack() as stack:
        running = [stack.enter_context(uploads.uploading({}, 9 * MB)) for _ in range(50)]
        assert uploads.used_bytes() == 0
        _upload(uploads, "other.png", b"0" * MB)
        uploads.receive(running[0], 9 * MB)
        assert uploads.used_bytes() == 10 * MB
        with pytest.raises(QuotaExceededError):
            uploads.receive(running[1], 1)


def test_unclaimed_files_make_room_if_the_quota_is_exceeded(uploads, clock):
    held = _upload(uploads, "held.png", b"h" * 6 * MB)
    uploads.hold("one", [held])
    with uploads.connected("one"):
        free = _upload(uploads, "free.png", b"f" * 3 * MB)
        with pytest.raises(QuotaExceededError):  # it has just arrived and may be claimed
            _upload(uploads, "more.png", b"m" * 3 * MB)
        clock.ahead = 20
        uploads.hold("one", [_upload(uploads, "more.png", b"m" * 4 * MB)])
        assert (held.exists(), free.exists(), uploads.used_bytes()) == (True, False, 10 * MB)
        with pytest.raises(QuotaExceededError):
            _upload(uploads, "last.png", b"l")


@pytest.mark.parametrize("content", [b"0" * MB, b"0" * 1000, b""])  # the number of files is limited too
def test_a_client_cannot_use_more_than_its_share(uploads, content, clock):
    mallory, other = {"mallory": 0.5}, {"other": 0.5}
    with pytest.raises(QuotaExceededError):  # noqa: PT012
        for number in range(100):
            uploads.hold("mallory", [_upload(uploads, f"{number}.png", content, mallory)])
    assert 5 * MB <= uploads.used_bytes("mallory") < 6 * MB
    kept = _upload(uploads, "kept.png", content, other)
    with pytest.raises(QuotaExceededError):
        _upload(uploads, "again.png", content, mallory)
    clock.ahead = 20
    with pytest.raises(QuotaExceededError):  # files of others do not make room for it
        _upload(uploads, "again.png", content, mallory)
    assert kept.exists()
    uploads.release("mallory")
    _upload(uploads, "again.png", content, mallory)


def test_folders_of_killed_processes_are_removed_and_those_of_living_ones_stay(tmp_path):
    code = f"""
import runpy, time
from pathlib import Path
module = runpy.run_path({module.__file__!r})
print(module["make_private_folder"](Path({str(tmp_path)!r})), flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        killed = Path(process.stdout.readline().strip())
        process.kill()
    (killed / "a.png").write_bytes(b"1")
    living = make_private_folder(tmp_path)
    assert living.stat().st_mode & 0o777 == 0o700
    assert killed.exists()  # it is too young to be sure
    elsewhere, without_lock = tmp_path / "elsewhere", tmp_path / f"{PREFIX}early"
    for folder in (elsewhere, without_lock):
        folder.mkdir()
    (tmp_path / f"{PREFIX}link").symlink_to(elsewhere)
    for path in (killed / LOCK, living / LOCK, without_lock):
        os.utime(path, (1, 1))
    make_private_folder(tmp_path)
    assert [path.exists() for path in (killed, without_lock, living, elsewhere)] == [False, False, True, True]
    uploads = Uploads(living)
    uploads.start(0.01)
    uploads.close()
    assert not living.exists()


def test_the_page_and_its_readme_say_how_long_uploads_are_kept():
    sweep = inspect.signature(Uploads.start).parameters["seconds"].default
    assert max(module.GRACE, module.UNCLAIMED) + sweep <= 120
    assert module.IDLE == 3600
    assert "within two minutes" in RETENTION
    assert "after one hour without use" in RETENTION
    readme = Path(templates.__file__).with_name("README.md").read_text()
    for text in (readme, PRIVACY, about_text("", [])):
        assert RETENTION in text
    assert 'Client("http://127.0.0.1:7860")' in about_text("", [])
    assert 'Client("me/read-a-study")' in about_text("me/read-a-study", [])
