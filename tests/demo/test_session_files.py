import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mura_hf.demo import uploads as own_folder
from mura_hf.demo.uploads import LOCK, PREFIX, SessionFiles, make_own_folder


class Clock:
    """Runs with the file system's, and can be put forward."""

    ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def files(tmp_path, clock):
    return SessionFiles(tmp_path / "folder", quota=1000, grace=60, idle=3600, unclaimed=90, clock=clock)


def upload(files: SessionFiles, name: str, content: bytes = b"12345") -> str:
    """As Gradio does it: a folder for each content."""
    file = files.folder / content.hex()[:16] / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return str(file)


def test_what_nobody_claimed_goes_within_two_minutes_and_what_came_before_the_start_stays(files, clock):
    kept = upload(files, "example.png", b"example")
    files.protect()
    partial = files.folder / "tmpabc"
    partial.write_bytes(b"half")
    gone = upload(files, "a.png")
    files.sweep()
    assert Path(gone).exists()
    clock.ahead = 91
    files.sweep()
    assert not Path(gone).exists()
    assert not Path(gone).parent.exists()
    assert not partial.exists()
    files.hold("one", [kept])
    files.release("one")
    assert Path(kept).exists()


def test_what_a_session_holds_stays_while_it_is_connected_and_then_goes(files, clock):
    file = upload(files, "a.png")
    files.hold("one", [file])
    made = files.new_folder("one")
    (made / "made.png").write_bytes(b"1")
    with files.connected("one"):
        clock.ahead = 3000
        files.sweep()
        assert Path(file).exists()
        assert (made / "made.png").exists()
    clock.ahead = 3059
    files.sweep()
    assert Path(file).exists()
    clock.ahead = 3062
    files.sweep()
    assert not Path(file).exists()
    assert not made.exists()


def test_a_session_that_asks_for_nothing_for_an_hour_loses_its_files_though_it_is_connected(files, clock):
    file = upload(files, "a.png")
    with files.connected("one"):
        files.hold("one", [file])
        clock.ahead = 3601
        files.sweep()
        assert not Path(file).exists()
        later = upload(files, "b.png")
        files.hold("one", [later])  # it goes on
        clock.ahead += 1000
        files.sweep()
        assert Path(later).exists()


def test_a_file_of_two_sessions_goes_with_the_second(files):
    file = upload(files, "a.png")
    for session in ("one", "two"):
        files.hold(session, [file])
    files.release("one")
    assert Path(file).exists()
    files.release("one")  # again does nothing
    files.release("two")
    assert not Path(file).exists()


def test_calls_of_one_session_each_let_go_of_their_own(files):
    file = upload(files, "a.png")
    files.hold("one", [file])
    files.hold("one", [file])
    files.let_go("one", [file])
    assert Path(file).exists()
    files.let_go("one", [file])
    assert not Path(file).exists()


def test_what_another_visitor_brings_too_is_not_taken_away_before_it_is_claimed(files, clock):
    file = upload(files, "a.png")
    files.arrived([file])
    files.hold("one", [file])
    files.arrived([upload(files, "a.png")])
    files.release("one")
    assert Path(file).exists()
    files.hold("two", [file])
    with files.uploading(5):  # it may be a third one's
        files.release("two")
        assert Path(file).exists()
    assert not Path(file).exists()
    files.arrived([upload(files, "a.png")])
    clock.ahead = 91  # nobody came for it
    files.sweep()
    assert not Path(file).exists()


def test_paths_elsewhere_are_neither_held_nor_removed(files, tmp_path):
    files.folder.mkdir(exist_ok=True)
    other = tmp_path / "other.png"
    other.write_bytes(b"1")
    link = files.folder / "link.png"
    link.symlink_to(other)
    for path in (str(other), str(link), f"{files.folder}/../other.png", str(files.folder), "", "\0", "a" * 9999):
        assert not files.contains(path)
        files.hold("one", [path])
    files.release("one")
    assert other.exists()


def test_while_an_upload_goes_on_what_it_brought_so_far_stays(files, clock):
    with files.uploading(100) as room:
        assert room
        first = upload(files, "first.png")
        clock.ahead = 600
        files.sweep()
        assert Path(first).exists()
    files.sweep()
    assert not Path(first).exists()


def test_beyond_the_quota_what_nobody_holds_makes_room(files, clock):
    held = upload(files, "held.png", b"h" * 600)
    files.hold("one", [held])
    with files.connected("one"):
        free = upload(files, "free.png", b"f" * 300)
        with files.uploading(300) as room:
            assert not room  # it came just now, and its handler is about to claim it
        clock.ahead = 20
        with files.uploading(300) as room:
            assert room
            with files.uploading(200) as second:
                assert not second  # the first will take it
        assert not Path(free).exists()
        assert Path(held).exists()
        assert files.used_bytes() == 600
        files.hold("one", [upload(files, "more.png", b"m" * 400)])
        with files.uploading(1) as room:
            assert not room


def test_the_folder_is_for_this_user_alone_and_goes(tmp_path):
    folder = make_own_folder(tmp_path)
    assert folder.stat().st_mode & 0o777 == 0o700
    files = SessionFiles(folder)
    files.start(0.01)
    upload(files, "a.png")
    files.close()
    assert not folder.exists()


def test_folders_of_killed_processes_are_removed_and_those_of_living_ones_are_not(tmp_path):
    code = f"""
import runpy, time
from pathlib import Path
module = runpy.run_path({own_folder.__file__!r})  # the package takes seconds to import
folder = module["make_own_folder"](Path({str(tmp_path)!r}))
(folder / "a.png").write_bytes(b"1")
print(folder, flush=True)
time.sleep(600)
"""
    processes = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        killed, living = (Path(process.stdout.readline().strip()) for process in processes)
        processes[0].kill()
        processes[0].wait()
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        (tmp_path / f"{PREFIX}link").symlink_to(elsewhere)
        without_lock = tmp_path / f"{PREFIX}early"
        without_lock.mkdir()
        make_own_folder(tmp_path)
        assert killed.exists()  # it is too young to be sure
        for path in (killed / LOCK, living / LOCK, without_lock):
            os.utime(path, (1, 1))
        make_own_folder(tmp_path)
        assert not killed.exists()
        assert not without_lock.exists()
        assert (living / "a.png").exists()
        assert elsewhere.exists()
    finally:
        for process in processes:
            process.kill()
            process.wait()
            process.stdout.close()
