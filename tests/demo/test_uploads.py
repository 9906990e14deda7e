import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from mura_hf.demo import uploads as module
from mura_hf.demo.uploads import LOCK, PREFIX, Uploads, make_private_folder


@pytest.fixture
def clock():
    """Runs with the clock of the file system, and can be put forward."""
    return SimpleNamespace(ahead=0.0)


@pytest.fixture
def uploads(tmp_path, clock):
    return Uploads(
        tmp_path / "folder", quota=1000, grace=60, idle=3600, unclaimed=90, clock=lambda: time.time() + clock.ahead
    )


def _upload(uploads: Uploads, name: str, content: bytes = b"12345") -> Path:
    """Like Gradio: one folder for each content."""
    file = uploads.folder / content.hex()[:16] / name
    file.parent.mkdir(parents=True, exist_ok=True)
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
    assert not gone.parent.exists()
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


def test_a_file_that_another_visitor_uploads_too_is_not_removed_before_it_is_claimed(uploads, clock):
    file = _upload(uploads, "a.png")
    uploads.arrived([file])
    uploads.hold("one", [file])
    uploads.arrived([_upload(uploads, "a.png")])
    uploads.release("one")
    assert file.exists()
    uploads.hold("two", [file])
    with uploads.uploading(5):  # it may be the same file again
        uploads.release("two")
        assert file.exists()
    uploads.arrived([file])
    _sweep(uploads, clock, 91)
    assert not file.exists()


def test_paths_outside_are_neither_held_nor_removed(uploads, tmp_path):
    uploads.folder.mkdir(exist_ok=True)
    other = tmp_path / "other.png"
    other.write_bytes(b"1")
    link = uploads.folder / "link.png"
    link.symlink_to(other)
    paths = (str(other), str(link), f"{uploads.folder}/../other.png", str(uploads.folder), "", "\0", "a" * 9999)
    for path in paths:
        assert not uploads.contains(path)
        uploads.hold("one", [path])
    uploads.release("one")
    assert other.exists()


def test_files_of_a_running_upload_stay(uploads, clock):
    with uploads.uploading(100) as room:
        assert room
        first = _upload(uploads, "first.png")
        _sweep(uploads, clock, 600)
        assert first.exists()
    uploads.sweep()
    assert not first.exists()


def test_unclaimed_files_make_room_if_the_quota_is_exceeded(uploads, clock):
    held = _upload(uploads, "held.png", b"h" * 600)
    uploads.hold("one", [held])
    with uploads.connected("one"):
        free = _upload(uploads, "free.png", b"f" * 300)
        with uploads.uploading(300) as room:
            assert not room  # it has just arrived and may be claimed
        clock.ahead = 20
        with uploads.uploading(300) as room:
            assert room
            with uploads.uploading(200) as second:
                assert not second  # the first upload needs the room
        assert not free.exists()
        assert held.exists()
        assert uploads.used_bytes() == 600
        uploads.hold("one", [_upload(uploads, "more.png", b"m" * 400)])
        with uploads.uploading(1) as room:
            assert not room


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
